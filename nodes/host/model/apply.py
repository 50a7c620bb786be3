"""Erased weights onto a MODEL: as patches of a clone, so the MODEL that came in never changes."""

from __future__ import annotations

from typing import Any

import comfy.lora
import comfy.utils

from ....esd.erasure import Erasure, lora_tensors
from ....esd.errors import EsdError
from ....esd.metadata import as_float
from ..families import PLAIN_DTYPES
from .loaded import restore_injected_layers


def apply(model: Any, weights: Erasure, strength: float) -> Any:
    """Return a clone of the MODEL with strength times the differences added to whatever it already carries."""
    if as_float(strength) is None:
        raise EsdError(
            f"The strength is {strength!r:.30}: it must be a number, 0 for the original and 1 for the erased."
        )
    restore_injected_layers(model)
    _require_fitting(model, weights)
    erased = model.clone()
    if strength:
        erased.add_patches(patches_of(weights), strength)
    return erased


def patches_of(weights: Erasure) -> dict[str, Any]:
    """Return the host's patches by the names of its weights; low-rank changes as its loader makes them of a LoRA."""
    patches: dict[str, Any] = {name: ("diff", (t,)) for name, t in weights.differences.items()}
    if weights.low_rank:
        paths = {name.removesuffix(".weight"): name for name in weights.low_rank}
        patches |= comfy.lora.load_lora(lora_tensors(Erasure({}, low_rank=weights.low_rank)), paths)
    return patches


def _require_fitting(model: Any, weights: Erasure) -> None:
    own = model.model_state_dict()
    for name in weights.names:
        shape = weights.shape(name)
        found = _shape(model, name) if name in own else "missing"
        if found != shape:
            raise EsdError(
                f"These weights were made for another kind of model ({name} is {shape} in them and "
                f"{found} in this MODEL): apply them to the model family they were trained on."
            )


def _shape(model: Any, name: str) -> tuple[int, ...]:
    """Return the shape of a weight as its layer has it: some quantised layouts keep two values in a byte."""
    kept = model.model_state_dict()[name]
    return tuple((kept if kept.dtype in PLAIN_DTYPES else comfy.utils.get_attr(model.model, name)).shape)
