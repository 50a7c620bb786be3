"""Unified Concept Editing (Gandikota et al., WACV 2024, arXiv 2308.14761), from its equation: a baseline in one solve.

Keys and values of text attention are W c for a token's embedding c.  The edited matrix maps the tokens of erased
prompts to what the old one makes of others, c*, and those of kept prompts k to what they were:

    W' = argmin  sum |W' c - W c*|^2 + sum |W' k - W k|^2 + ridge |W' - W|^2
       = W + W D,   D = (sum (c* - c) c^T) (sum c c^T + sum k k^T + ridge I)^-1

so that D is the same for every layer.  The ridge stands where few prompts leave the sum without an inverse.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import EsdError

RIDGE = 0.5
"""Beside embeddings whose squared length is some hundreds this is small."""


def edit(erased: Tensor, wanted: Tensor, kept: Tensor, ridge: float = RIDGE) -> Tensor:
    """Return D, "d d" in float64, for tokens "n d" that shall act as "n d", and others "m d" that shall stay.

    Raises EsdError for a ridge that is not above 0.
    """
    if not ridge > 0:
        raise EsdError(f"The ridge is {ridge!r:.30}: it must be above 0, such as {RIDGE}.")
    c, wants, k = (each.double().cpu() for each in (erased, wanted, kept))
    moved = (wants - c).T @ c
    held = c.T @ c + k.T @ k + ridge * torch.eye(c.shape[1], dtype=torch.float64)
    made: Tensor = torch.linalg.solve(held, moved.T).T
    return made
