"""A private double of the host's network that shares its memory: the weights themselves are not copied."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import comfy.model_management
import comfy.ops
import torch
from torch import Tensor, nn

from ....esd.errors import EsdError
from ....esd.selection import ParameterInfo
from ..families import NETWORK_PREFIX
from .host_model import HostModel
from .quantised import quantised_network
from .weights import is_within


def private_network(host: HostModel, device: torch.device, dtype: torch.dtype, held: Collection[str] = ()) -> nn.Module:
    """Return the MODEL's network with its own patches applied, with frozen ordinary weights of one dtype.

    A weight that is unpatched and already of that device and dtype shares the host's memory, so only what differs
    is copied; nothing here ever writes to a weight.  Those of the `held` blocks are on the CPU, and their blocks are
    called under `streaming` alone.  Call it outside inference mode.
    """
    if host.is_quantised:
        return quantised_network(host, device, held)
    network = empty_network(*host.kind, dtype, compute_dtype(dtype, device))
    weights = host.weights().items()
    fill(network, {n: w.held(device, dtype) if is_within(n, held) else w.on(device, dtype) for n, w in weights})
    _fill_buffers(network, host.network)
    return network.requires_grad_(False).eval()


def _fill_buffers(network: nn.Module, source: nn.Module) -> None:
    """Copy the buffers that are no part of the state, which loading does not reach."""
    for path, module in network.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                found = source.get_submodule(path).get_buffer(name)
                setattr(module, name, found.detach().clone())


def empty_network(kind: type, config: Mapping[str, Any], stored: torch.dtype, computed: torch.dtype) -> nn.Module:
    """Return a network without values on the meta device; its layers cast weights where they compute otherwise."""
    operations = comfy.ops.disable_weight_init if computed is stored else comfy.ops.manual_cast
    network: nn.Module = kind(**config, dtype=stored, device="meta", operations=operations)
    return network


def require_own_network(host: HostModel) -> None:
    """Raise EsdError where another plugin has put something else in the place of the host's network."""
    kind = type(host.network)
    if kind.__module__.partition(".")[0] != "comfy":
        raise EsdError(
            f"Another plugin has wrapped the network of this MODEL ({kind.__name__}), so ESD cannot build it: "
            "connect that plugin's node after Erase, and restart ComfyUI if the node is gone already."
        )


def fill(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put the weights into a network of the same layers; raises EsdError where the layers are not the same.

    It shows only after loading: under DynamicVRAM the host's layers have no weights before, and then take any shape.
    """
    wanted = {name: t.shape for name, t in network.state_dict().items()}
    odd = [name for name, shape in wanted.items() if name in weights and weights[name].shape != shape]
    if not odd:
        missing = network.load_state_dict(weights, strict=False, assign=True).missing_keys
        odd = [*missing, *(weights.keys() ^ network.state_dict().keys()), *_of_other_sizes(network)]
    if odd:
        raise EsdError(
            f"Another plugin has changed the layers of this MODEL ({len(set(odd))} weights do not fit, such as "
            f"{min(odd)}): connect that plugin's node after Erase, and restart ComfyUI if the node is gone already."
        )


def _of_other_sizes(network: nn.Module) -> list[str]:
    """Return the linear layers whose weights have another shape than the layer says."""
    layers = {path: layer for path, layer in network.named_modules() if isinstance(layer, nn.Linear)}
    sizes = {f"{path}.weight": (layer.out_features, layer.in_features) for path, layer in layers.items()}
    return [name for name, t in network.state_dict().items() if tuple(t.shape) != sizes.get(name, tuple(t.shape))]


def require_visible(host: HostModel, names: Iterable[str]) -> None:
    """Raise EsdError where an object that another plugin puts in place would hide trained weights."""
    modules = {
        place: thing for place, thing in host.patcher.object_patches.items() if isinstance(thing, nn.Module | Tensor)
    }
    for name in names:
        for place, thing in modules.items():
            if f"{NETWORK_PREFIX}{name}".startswith(f"{place}.") or place == NETWORK_PREFIX + name:
                raise EsdError(
                    f"Another plugin puts {type(thing).__name__} in the place of {place} in this MODEL, where the "
                    f"erasure of {name} would have no effect: take that plugin's node out of the graph."
                )


def compute_dtype(stored: torch.dtype, device: torch.device) -> torch.dtype:
    """Return what layers compute in whose weights have this dtype: the host's choice, but no float16 for bfloat16.

    Where a device is slow at bfloat16, as most CPUs are, each layer casts its weights to float32 as it is called.
    """
    return comfy.model_management.unet_manual_cast(stored, device, [torch.bfloat16, torch.float32]) or stored


def _kind(module: nn.Module) -> str:
    """Return the kind of a layer; the host's Linear layers of quantised weights are no `nn.Linear`."""
    if isinstance(module, nn.Conv2d):
        return "conv"
    is_own = type(module).__name__ == "Linear" and hasattr(module, "in_features")
    return "linear" if isinstance(module, nn.Linear) or is_own else "other"


def weights_of(network: nn.Module) -> list[ParameterInfo]:
    """Every parameter with the kind of its layer, in the network's order."""
    found = []
    for path, module in network.named_modules():
        kind = _kind(module)
        for leaf, _ in module.named_parameters(recurse=False):
            width = int(getattr(module, "in_features", 0))
            found.append(ParameterInfo(f"{path}.{leaf}" if path else leaf, kind, width))
    return found
