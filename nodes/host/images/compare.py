"""Which models a comparison draws: the original, the erasure at each strength, and any other model."""

from __future__ import annotations

import math
import re
from typing import Any

from ....esd.erasure import Erasure
from ....esd.errors import EsdError
from ..model.apply import apply

FULL_STRENGTH = "1"
"""The strengths of a comparison that is no sweep."""

MOST_STRENGTHS = 16
STRONGEST = 10.0
BEFORE, AFTER = "before", "after"


def strengths_of(text: str) -> list[float]:
    """Return the numbers of a text such as "0, 0.5, 1", each once; raise EsdError for what is no strength."""
    words = [word for word in re.split(r"[\s,;]+", text) if word]
    strengths = list(dict.fromkeys(_strength(word) for word in words))
    if not strengths:
        raise EsdError("There are no strengths: write at least one, such as 1, or several, such as 0, 0.5, 1.")
    if len(strengths) > MOST_STRENGTHS:
        raise EsdError(f"There are {len(strengths)} strengths, and each one is a row: write at most {MOST_STRENGTHS}.")
    return strengths


def _strength(word: str) -> float:
    try:
        strength = float(word)
    except ValueError:
        strength = math.nan
    if not abs(strength) <= STRONGEST:
        raise EsdError(
            f'"{word}" is no strength: write numbers from {-STRONGEST:g} to {STRONGEST:g} with commas between them, '
            "such as 0, 0.5, 1."
        )
    return strength


def models_to_compare(before: Any, after: Any, weights: Erasure | None, strengths: str) -> dict[str, Any]:
    """Return the MODEL of each row by its label: the original, one a strength where there are weights, then `after`."""
    chosen = strengths_of(strengths)
    if weights is None and after is None:
        raise EsdError(
            "There is nothing to compare with: connect the erased MODEL to model_after, or the weights of Erase to "
            "weights."
        )
    if weights is None and chosen != strengths_of(FULL_STRENGTH):
        raise EsdError(
            "The strengths need weights: connect the weights of Erase or Load Erasure, or set strengths back to 1."
        )
    rows = {BEFORE: before}
    if weights is not None:
        rows |= {f"strength {s:g}": apply(before, weights, s) if s else before for s in chosen}
    return rows if after is None else rows | {AFTER: after}
