"""Save Erasure's formats: a table of writers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ....esd.erasure import Erasure, save_differences
from ....esd.errors import EsdError
from ....esd.files.atomic import write_atomically, write_folder_atomically
from ....esd.files.safetensors_write import write_safetensors, write_stream
from ....esd.formats.diffusers import write_unet
from ....esd.formats.lora import LOW_ENERGY, decompose
from ....esd.formats.official import official_tensors, to_official
from ..model.network_view import base_network, unet_shape

log = logging.getLogger("esd")


@dataclass(frozen=True)
class Export:
    """What is written: weights, metadata, the base MODEL where the format needs one, and the LoRA's size."""

    weights: Erasure
    metadata: Mapping[str, str]
    model: Any = None
    rank: int = 0
    energy: float = 0.99


@dataclass(frozen=True)
class Format:
    """A row of the table: the file's ending ("" for a folder) and the writer, which returns a line of text."""

    ending: str
    write: Callable[[Path, Export], str]


def _difference(path: Path, export: Export) -> str:
    weights = replace(export.weights, metadata=export.metadata)
    save_differences(weights, path)
    told = [f"{len(weights.differences)} differences"] if weights.differences else []
    return " and ".join([*told, *([f"{len(weights.low_rank)} low-rank changes"] if weights.low_rank else [])])


def _lora(path: Path, export: Export) -> str:
    if export.weights.low_rank and not export.weights.differences:
        return _trained_lora(path, export)
    with torch.inference_mode(False), torch.no_grad():
        made = decompose(export.weights, export.rank, export.energy)
    low, high = made.ranks
    extra = {"esd.lora_energy": f"{made.energy:.4f}", "esd.lora_ranks": f"{low}-{high}"}
    write_safetensors(made.tensors, path, {**export.metadata, **extra})
    text = f"keeps {made.energy:.1%} of the change's energy at ranks {low} to {high}"
    if made.energy < LOW_ENERGY:
        text += f"; below {LOW_ENERGY:.0%} it will not erase as trained: raise rank, or set rank 0 and energy 0.99"
        log.warning("ESD: %s %s", path.name, text)
    return text


def _trained_lora(path: Path, export: Export) -> str:
    """Write what was trained as low-rank as it is: nothing is lost, whatever rank and energy say."""
    save_differences(replace(export.weights, metadata=export.metadata), path)
    ranks = [change.down.shape[0] for change in export.weights.low_rank.values()]
    return f"the trained low-rank changes themselves, of rank {min(ranks)} to {max(ranks)}"


def _official(path: Path, export: Export) -> str:
    network = base_network(export.model, export.weights, "the official format")
    tensors = official_tensors(export.weights, network)
    metadata = {**export.metadata, **to_official(export.metadata, network.family)}
    write_atomically(path, lambda to: write_stream(to, tensors, metadata))
    return f"{len(tensors)} absolute tensors under diffusers names"


def _diffusers_unet(path: Path, export: Export) -> str:
    network = base_network(export.model, export.weights, "a diffusers unet")
    shape = unet_shape(export.model)
    weights = replace(export.weights, metadata=export.metadata)
    write_folder_atomically(path, lambda folder: write_unet(folder, weights, network, shape))
    return f"a whole UNet of {len(network.shapes)} tensors for UNet2DConditionModel.from_pretrained"


FORMATS: dict[str, Format] = {
    "difference": Format(".safetensors", _difference),
    "lora": Format(".safetensors", _lora),
    "official": Format(".safetensors", _official),
    "diffusers unet": Format("", _diffusers_unet),
}


def format_of(name: str) -> Format:
    """Return a row by name; raise EsdError for another name."""
    if name not in FORMATS:
        raise EsdError(f'There is no format "{name}": choose one of {", ".join(FORMATS)}.')
    return FORMATS[name]
