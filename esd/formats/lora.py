"""Differences as a LoRA: the best low-rank matrices (truncated SVD), and how much of the change they keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..erasure import PREFIX, Erasure, lora_key
from ..errors import EsdError
from .network import kohya_path

LOW_ENERGY = 0.9
"""Below this share of kept energy a LoRA no longer does what the weights did."""


@dataclass(frozen=True)
class LowRank:
    """Tensors by LoRA name, the share of squared change that they keep, and the smallest and largest rank."""

    tensors: Mapping[str, Tensor]
    energy: float
    ranks: tuple[int, int]


def decompose(weights: Erasure, rank: int, energy: float) -> LowRank:
    """Every matrix at `rank`, or with rank 0 at the smallest rank that keeps `energy` (0 to 1) of its squared norm.

    Vectors (biases, norms) and tensors without values have no low rank and stay whole.
    Raises EsdError for numbers that make no sense.
    """
    if rank < 0 or not 0 < energy <= 1:
        raise EsdError(
            f"rank is {rank} and energy {energy!r:.30}: rank must be 0 or more, energy above 0 and at most 1."
        )
    tensors: dict[str, Tensor] = {}
    ranks, kept, total = [], 0.0, 0.0
    for name in weights.names:
        change = weights.change(name)
        if change.ndim < 2 or not change.numel():
            tensors[lora_key(name)] = change
            continue
        if not bool(torch.isfinite(change).all()):
            raise EsdError(f"{name} holds NaN or infinity, which no LoRA can stand for: erase anew.")
        up, down, shares = low_rank(change.float(), rank, energy)
        path = kohya_path(name.removeprefix(PREFIX))
        tensors[f"{path}.lora_up.weight"], tensors[f"{path}.lora_down.weight"] = up, down
        tensors[f"{path}.alpha"] = torch.tensor(float(len(down)))
        ranks.append(len(down))
        kept, total = kept + shares[0], total + shares[1]
    return LowRank(tensors, kept / total if total else 1.0, (min(ranks, default=0), max(ranks, default=0)))


def low_rank(change: Tensor, rank: int, energy: float) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """up ("out r ..."), down ("r in ...") and the kept and total squared norm of the best approximation.

    The singular vectors of the shorter side come from its Gram matrix in float64; the other factor is the change
    projected on them, so that at full rank the product is the change itself.
    """
    matrix = change.flatten(1)
    tall = matrix.shape[0] > matrix.shape[1]
    side = (matrix.T if tall else matrix).double()
    squares, vectors = torch.linalg.eigh(side @ side.T)
    squares, vectors = squares.flip(0).clamp(min=0), vectors.flip(1)
    total = float(squares.sum())
    count = min(rank, len(squares)) if rank else _rank_for(squares, energy)
    basis = vectors[:, :count]
    projected = (basis.T @ side).float()
    basis = basis.float()
    up, down = (projected.T, basis.T) if tall else (basis, projected)
    trailing = change.shape[2:]
    up = up.reshape(*up.shape, *(1 for _ in trailing)).contiguous()
    return up, down.reshape(count, *change.shape[1:]).contiguous(), (float(squares[:count].sum()), total)


def _rank_for(squares: Tensor, energy: float) -> int:
    if not float(squares.sum()):
        return 1
    shares = squares.cumsum(0) / squares.sum()
    return min(int((shares < energy).sum()) + 1, len(squares))
