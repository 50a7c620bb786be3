"""Erased weights onto a MODEL: as patches of a clone, so the MODEL that came in never changes."""

from __future__ import annotations

from typing import Any

from ....esd.erasure import Erasure
from ....esd.errors import EsdError
from ....esd.metadata import as_float
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
        erased.add_patches({name: ("diff", (t,)) for name, t in weights.differences.items()}, strength)
    return erased


def _require_fitting(model: Any, weights: Erasure) -> None:
    own = model.model_state_dict()
    for name, tensor in weights.differences.items():
        if name not in own or own[name].shape != tensor.shape:
            found = tuple(own[name].shape) if name in own else "missing"
            raise EsdError(
                f"These weights were made for another kind of model ({name} is {tuple(tensor.shape)} in them and "
                f"{found} in this MODEL): apply them to the model family they were trained on."
            )
