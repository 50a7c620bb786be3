"""A private double of the host's network that shares its memory: the weights themselves are not copied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.ops
import torch
from torch import Tensor, nn

from ...esd.errors import EsdError
from ...esd.selection import Weight
from .families import NETWORK_PREFIX


def private_network(model: Any, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The MODEL's network as the user sees it (its own patches applied), with frozen ordinary weights of one dtype.

    A weight that is unpatched and already of that device and dtype shares the host's memory, so only what differs
    is copied; nothing here ever writes to a weight.  Call it outside inference mode.
    """
    config = {**model.model.model_config.unet_config, "dtype": dtype, "device": "meta"}
    config.pop("disable_unet_model_creation", None)
    casting = compute_dtype(dtype, device) is not dtype
    operations = comfy.ops.manual_cast if casting else comfy.ops.disable_weight_init
    network: nn.Module = type(model.model.diffusion_model)(**config, operations=operations)
    weights = {
        key.removeprefix(NETWORK_PREFIX): _as_seen(patches, key, device, dtype)
        for key, patches in model.get_key_patches(NETWORK_PREFIX).items()
    }
    _require_same_layers(weights, network)
    network.load_state_dict(weights, strict=True, assign=True)
    _keep_float32_where_the_host_does(network)
    return network.requires_grad_(False).eval()


def require_own_network(model: Any) -> None:
    """Raise EsdError where another plugin has put something else in the place of the host's network."""
    kind = type(model.model.diffusion_model)
    if kind.__module__.partition(".")[0] != "comfy":
        raise EsdError(
            f"Another plugin has wrapped the network of this MODEL ({kind.__name__}), so ESD cannot build it: "
            "connect that plugin's node after Erase, and restart ComfyUI if the node is gone already."
        )


def _require_same_layers(weights: Mapping[str, Tensor], network: nn.Module) -> None:
    odd = sorted(weights.keys() ^ network.state_dict().keys())
    if odd:
        raise EsdError(
            f"Another plugin has changed the layers of this MODEL (weights in one of the two only: {len(odd)}, such "
            f"as {odd[0]}): connect that plugin's node after Erase, and restart ComfyUI if the node is gone already."
        )


def require_visible(model: Any, names: Iterable[str]) -> None:
    """Raise EsdError where an object that another plugin puts in place would hide trained weights."""
    modules = {place: thing for place, thing in model.object_patches.items() if isinstance(thing, nn.Module | Tensor)}
    for name in names:
        for place, thing in modules.items():
            if f"{NETWORK_PREFIX}{name}".startswith(f"{place}.") or place == NETWORK_PREFIX + name:
                raise EsdError(
                    f"Another plugin puts {type(thing).__name__} in the place of {place} in this MODEL, where the "
                    f"erasure of {name} would have no effect: take that plugin's node out of the graph."
                )


def compute_dtype(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """What layers compute in whose weights are stored in this dtype: the host's choice, but no float16 for bfloat16.

    Where a device is slow at bfloat16, as most CPUs are, each layer casts its weights to float32 as it is called.
    """
    return comfy.model_management.unet_manual_cast(stored, device, [torch.bfloat16, torch.float32]) or stored


def _as_seen(patches: list[Any], key: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    weight: Tensor = patches[0][0]
    if len(patches) > 1:
        return patched(patches, key, device).to(dtype).clone()
    if weight.device != device or weight.dtype != dtype:
        return weight.detach().to(device=device, dtype=dtype, copy=True)
    return _ordinary(weight)


def patched(patches: list[Any], key: str, device: torch.device) -> Tensor:
    """A weight with its patches (an entry of the host's `get_key_patches`) in float32, as a copy."""
    (weight, convert), *rest = patches
    full = convert(weight.detach().to(device=device, dtype=torch.float32, copy=True), inplace=True)
    changed: Tensor = comfy.lora.calculate_weight(rest, full, key)
    return changed


def _ordinary(weight: Tensor) -> Tensor:
    """The same memory as an ordinary tensor: the host's are inference tensors, which autograd refuses."""
    plain = torch.empty(0, dtype=weight.dtype, device=weight.device)
    return plain.set_(weight.untyped_storage(), weight.storage_offset(), weight.shape, weight.stride())


def _keep_float32_where_the_host_does(network: nn.Module) -> None:
    """Buffers that `assign` cannot reach stay on the meta device: there must be none."""
    left = [name for name, tensor in network.named_buffers() if tensor.is_meta]
    if left:
        raise RuntimeError(f"the network has buffers without values: {', '.join(left)}")


_KINDS: tuple[tuple[type[nn.Module], str], ...] = ((nn.Linear, "linear"), (nn.Conv2d, "conv"))


def weights_of(network: nn.Module) -> list[Weight]:
    """Every parameter with the kind of its layer, in the network's order."""
    found = []
    for path, module in network.named_modules():
        kind = next((k for cls, k in _KINDS if isinstance(module, cls)), "other")
        for leaf, _ in module.named_parameters(recurse=False):
            found.append(Weight(f"{path}.{leaf}" if path else leaf, kind))
    return found
