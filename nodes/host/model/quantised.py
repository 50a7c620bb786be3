"""A private double of a network whose weights are quantised: its layers and layouts are the host's own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from ....esd.errors import EsdError
from .host_model import HostModel
from .weights import CPU, is_within


def quantised_network(host: HostModel, device: torch.device, held: Collection[str] = ()) -> nn.Module:
    """Return the network with weights that share the host's memory where they are on the device already.

    The layers are copied as they are, with whatever the host keeps of scales and layouts in them; those of the `held`
    blocks stay where they are.  Call it outside inference mode.  Raises EsdError for a MODEL that carries patches.
    """
    if host.patcher.patches:
        raise EsdError(
            "This MODEL is quantised and carries LoRAs or other patches, which would be rounded: connect their nodes "
            "after Erase, or load the bf16 file."
        )
    shared: dict[int, Any] = {}
    for path, module in host.network.named_modules():
        streamed = [value for name, value in module.__dict__.items() if _is_streaming(name)]
        shared |= {id(value): value for value in streamed}
        there = CPU if is_within(path, held) else device
        for tensor in filter(lambda each: each is not None, (*module._parameters.values(), *module._buffers.values())):
            shared[id(tensor)] = _double(tensor, there)
        for tensor in _other_tensors(module):
            shared[id(tensor)] = _double(tensor, device)
    made: nn.Module = copy.deepcopy(host.network, shared)
    for module in made.modules():
        for name in [name for name in module.__dict__ if _is_streaming(name)]:
            delattr(module, name)
    return made.requires_grad_(False).eval()


def _is_streaming(name: str) -> bool:
    """Whether an attribute of a layer is a place on the device that DynamicVRAM streams its weights through."""
    return name == "_v" or name.startswith("_v_")


def _other_tensors(module: nn.Module) -> list[Tensor]:
    """Return tensors that a layer keeps outside its state."""
    return [value for name, value in module.__dict__.items() if isinstance(value, Tensor) and not _is_streaming(name)]


def _double(tensor: Tensor, device: torch.device) -> Tensor:
    plain = ordinary(tensor.detach().to(device))
    return nn.Parameter(plain, requires_grad=False) if isinstance(tensor, nn.Parameter) else plain


def ordinary(tensor: Tensor) -> Tensor:
    """Return the same memory as an ordinary tensor, as autograd refuses inference tensors; layouts keep their kind."""
    return rebuilt(tensor, _ordinary)


def _ordinary(plain: Tensor) -> Tensor:
    made = torch.empty(0, dtype=plain.dtype, device=plain.device)
    return made.set_(plain.untyped_storage(), plain.storage_offset(), plain.shape, plain.stride())


def rebuilt(tensor: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a tensor with a change of each plain one that it is made of.

    A quantised layout is a subclass that PyTorch can take apart and put together (`__tensor_flatten__`).
    """
    if type(tensor) in (Tensor, nn.Parameter):
        return change(tensor.detach())
    names, about = tensor.__tensor_flatten__()  # type: ignore[attr-defined]
    inner = {name: rebuilt(getattr(tensor, name), change) for name in names}
    about = _rebuilt_parts(about, change)
    return type(tensor).__tensor_unflatten__(inner, about, tensor.shape, tensor.stride())  # type: ignore[attr-defined,no-any-return]


def _rebuilt_parts(about: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return what else a layout is made of, with its tensors changed."""
    if isinstance(about, Tensor):
        return rebuilt(about, change)
    return {key: _rebuilt_parts(each, change) for key, each in about.items()} if isinstance(about, dict) else about
