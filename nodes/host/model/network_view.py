"""The host's MODEL as esd/formats knows a network, and published files onto it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ....esd.erasure import Erasure
from ....esd.errors import EsdError
from ....esd.formats.diffusers import UnetShape
from ....esd.formats.network import Network, Slice
from ..families import require_plain_weights
from ..families.family import Names, unet_names
from .host_model import as_host_model

log = logging.getLogger("esd")

CPU = torch.device("cpu")


def network_of(model: Any) -> Network:
    """Return the MODEL's network with its patches: names and shapes now, values on the CPU when asked for."""
    host = as_host_model(model)
    weights = host.weights()
    shapes = {name: weight.shape for name, weight in weights.items()}

    def weight(name: str) -> Tensor:
        require_plain_weights(model, "comparing with absolute values", "load the bf16 file of this model.")
        comfy.model_management.throw_exception_if_processing_interrupted()
        return weights[name].patched(CPU) if weights[name].is_patched else weights[name].on(CPU, weights[name].dtype)

    return Network(host.family.name, shapes, weight, *named_by_diffusers(host.family.diffusers(host.config), shapes))


def named_by_diffusers(names: Names, there: Any) -> tuple[dict[str, str], dict[str, Slice]]:
    """Return diffusers name to host name for the tensors that are there, and to rows of those that the host fuses."""
    whole = {d: h for d, h in names.items() if isinstance(h, str) and h in there}
    slices = {d: Slice(*h) for d, h in names.items() if not isinstance(h, str) and h[0] in there}
    return whole, slices


def diffusers_map(unet_config: dict[str, Any], names: Any) -> dict[str, str]:
    """Return the names of a UNet's tensors alone."""
    return named_by_diffusers(unet_names(unet_config), names)[0]


def base_network(model: Any, weights: Erasure, purpose: str) -> Network:
    """Return the network that an erasure is added to when absolute values are written; refuse one that has it."""
    if model is None:
        raise EsdError(f"{purpose} holds absolute values: connect the MODEL from before erasing to the model input.")
    carried = {id(t) for patches in model.patches.values() for t in _tensors(patches)}
    if any(id(t) in carried for t in weights.tensors):
        raise EsdError(f"This MODEL is erased already: for {purpose} connect the one that went into Erase.")
    return network_of(model)


def _tensors(patches: Sequence[Any]) -> list[Any]:
    """Return the tensors of full differences, and those of the host's LoRA adapters."""
    found: list[Any] = []
    for _, value, *_ in patches:
        if isinstance(value, tuple) and value[0] == "diff":
            found += value[1]
        found += [t for t in getattr(value, "weights", ()) if isinstance(t, Tensor)]
    return found


def unet_shape(model: Any) -> UnetShape:
    """Return the shape of a MODEL's UNet; raise EsdError for a network without one, or with uneven levels."""
    c = model.model.model_config.unet_config
    if "num_res_blocks" not in c:
        raise EsdError("This MODEL has no UNet, so it has no diffusers unet folder: save it as difference or lora.")
    blocks = tuple(c["num_res_blocks"])
    return UnetShape(
        in_channels=c["in_channels"],
        out_channels=c.get("out_channels", 4),
        channels=tuple(c["model_channels"] * m for m in c["channel_mult"]),
        blocks=blocks,
        down=_levels(c["transformer_depth"], blocks),
        middle=c["transformer_depth_middle"],
        up=_levels(c["transformer_depth_output"], [b + 1 for b in blocks])[::-1],
        context=c["context_dim"],
        linear=c["use_linear_in_transformer"],
        heads=max(c.get("num_heads", -1), 0),
        vector=c.get("adm_in_channels") or 0,
    )


def _levels(depths: Sequence[int], blocks: Sequence[int]) -> tuple[int, ...]:
    """One depth a level from one a block."""
    rest, levels = list(depths), []
    for count in blocks:
        own, rest = rest[:count], rest[count:]
        if len(set(own)) != 1:
            raise EsdError("This network has levels of uneven depth, which diffusers cannot express: save it as lora.")
        levels.append(own[0])
    return tuple(levels)
