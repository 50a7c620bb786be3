"""Files as the official code of 2026 writes and loads them: diffusers names, absolute values, its own metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..erasure import PREFIX, Erasure
from ..errors import EsdError
from ..files.lazy_tensor import LazyTensor
from ..first_names import by_present_name
from ..metadata import as_dict, as_dicts, as_float, as_str
from ..objective import ETA_OFFSET, eta_from_negative_guidance
from .network import Network, Slice, diffusers_names

FORMAT = "erasing-esd-v2"
ERA = "official-2026"
FAMILIES = {
    "SD1.x": "sd",
    "SD2.x": "sd",
    "SDXL": "sdxl",
    "FLUX.1 dev": "flux",
    "FLUX.1 schnell": "flux",
    "FLUX.2 klein": "flux2_klein",
}
TRANSFORMERS = ("flux", "flux2_klein")
"""Families whose network is no UNet."""


def official_tensors(weights: Erasure, network: Network) -> dict[str, LazyTensor]:
    """Return the trained tensors as absolute float32 values (base + difference) by diffusers name."""
    if network.slices:
        return _sliced_tensors(weights, network)
    names = diffusers_names(network)
    return {
        names[key.removeprefix(PREFIX)]: absolute(network, key.removeprefix(PREFIX), partial(weights.change, key))
        for key in weights.names
    }


def _sliced_tensors(weights: Erasure, network: Network) -> dict[str, LazyTensor]:
    """Return the trained tensors of a network whose host fuses projections, as bfloat16 like the official code.

    Only parts that change are written: of keys and values alone the queries are left out.
    """
    whole = {host: diffusers for diffusers, host in network.diffusers.items()}
    tensors: dict[str, LazyTensor] = {}
    for key in weights.names:
        host = key.removeprefix(PREFIX)
        parts = {d: s for d, s in network.slices.items() if s.host == host}
        if host in whole:
            parts[whole[host]] = Slice(host, 0, network.shapes[host][0])
        if not parts:
            raise EsdError(f"{host} has no name in diffusers: save it as difference or lora.")
        for diffusers, part in parts.items():
            if part.host in whole or bool(weights.change(key).narrow(0, part.first, part.rows).any()):
                tensors[diffusers] = _rows(absolute(network, host, partial(weights.change, key)), part)
    return tensors


def _rows(stored: LazyTensor, part: Slice) -> LazyTensor:
    """Return some rows of a tensor in bfloat16."""

    def load() -> Tensor:
        return stored.load().narrow(0, part.first, part.rows).to(torch.bfloat16).contiguous()

    return LazyTensor((part.rows, *stored.shape[1:]), torch.bfloat16, load)


def absolute(network: Network, name: str, change: Callable[[], Tensor] | None) -> LazyTensor:
    """Return a tensor of the network with its change added, computed in float32 when it is loaded."""

    def load() -> Tensor:
        value = network.weight(name).to(torch.float32)
        return value if change is None else value + change()

    return LazyTensor(tuple(network.shapes[name]), torch.float32, load)


def to_official(metadata: Mapping[str, str], family: str) -> dict[str, str]:
    """`esd.*` metadata in the official words; several concepts are joined by commas."""
    concepts, settings = as_dicts(metadata.get("esd.concepts")), by_present_name(as_dict(metadata.get("esd.settings")))
    erased, erase_from = (
        ", ".join(filter(None, (as_str(c.get(key)) for c in concepts))) for key in ("erase", "erase_from")
    )
    eta = as_float(metadata.get("esd.eta"))
    guidance = "" if eta is None else repr(eta + (0.0 if erase_from else ETA_OFFSET[ERA]))
    width, height = settings.get("width", 0), settings.get("height", 0)
    return {
        "format": FORMAT,
        "family": FAMILIES.get(family, family),
        "component": "transformer" if FAMILIES.get(family) in TRANSFORMERS else "unet",
        "base_model_id": metadata.get("esd.base_file", ""),
        "train_method": metadata.get("esd.method", ""),
        "erase_concept": erased,
        "erase_from": erase_from,
        "num_inference_steps": str(settings.get("num_inference_steps", "")),
        **_guidance(settings, FAMILIES.get(family, family)),
        "negative_guidance": guidance,
        "batch_size": str(settings.get("batch_size", "")),
        **({"resolution": str(width)} if width and width == height else {}),
    }


def _guidance(settings: Mapping[str, Any], family: str) -> dict[str, str]:
    """Return the guidance of trajectories; of transformers that one is called otherwise there."""
    of_trajectories = str(settings.get("guidance_scale", ""))
    if family not in TRANSFORMERS:
        return {"guidance_scale": of_trajectories}
    in_training = settings.get("training_guidance") or 1.0
    return {"guidance_scale": str(in_training), "inference_guidance_scale": of_trajectories}


def from_official(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return official metadata in `esd.*` words, eta by the release's own convention; empty for other files."""
    if metadata.get("format") != FORMAT:
        return {}
    concept = {"erase": metadata.get("erase_concept", ""), "erase_from": metadata.get("erase_from", "")}
    found = {
        "esd.concepts": json.dumps([concept]),
        "esd.method": metadata.get("train_method", ""),
        "esd.base_file": metadata.get("base_model_id", ""),
        "esd.eta": _eta(metadata.get("negative_guidance", ""), bool(concept["erase_from"])),
    }
    return {key: value for key, value in found.items() if value}


def _eta(negative_guidance: str, erase_from: bool) -> str:
    guidance = as_float(negative_guidance)
    return "" if guidance is None else repr(eta_from_negative_guidance(guidance, ERA, erase_from))
