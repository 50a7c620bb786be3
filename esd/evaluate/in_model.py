"""What a student answers beside its base, without pictures or judges: by noise level, for concepts and for keeps.

For a prompt c on held-out x_t of the base, with b = eps_base(c) - eps_base(null):

    residual = < eps_student(c) - eps_student(null), b > / |b|^2     1 untouched, 0 the prompt does nothing, -eta target
    drift = | eps_student(c) - eps_base(c) | / |b|                   0 untouched
    null drift = | eps_student(null) - eps_base(null) | / |b|        0 untouched
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from einops import rearrange
from torch import Tensor

from ..concepts import NULL_PROMPT
from ..denoiser import Condition, Denoiser, stack
from ..residual import HeldOut

TINY = 1e-30


@dataclass(frozen=True)
class Measured:
    """A prompt's figures by noise level, high to low, each level's the mean over its trajectories."""

    prompt: str
    sigmas: tuple[float, ...]
    residuals: tuple[float, ...]
    drifts: tuple[float, ...]
    null_drifts: tuple[float, ...]

    @property
    def residual(self) -> float:
        """The mean over all levels."""
        return fmean(self.residuals)

    @property
    def high(self) -> float:
        """The residual of the noisier half, which goes last while a concept is erased."""
        return fmean(self.residuals[: (len(self.residuals) + 1) // 2])

    @property
    def low(self) -> float:
        """The residual of the other half."""
        return fmean(self.residuals[len(self.residuals) // 2 :])

    @property
    def drift(self) -> float:
        """The mean over all levels."""
        return fmean(self.drifts)

    @property
    def null_drift(self) -> float:
        """The mean over all levels."""
        return fmean(self.null_drifts)


@torch.no_grad()
def measure(denoiser: Denoiser, conditions: Mapping[str, Condition], trajectories: Sequence[HeldOut]) -> Measured:
    """Measure the student on trajectories of one prompt that have the same levels; 4 passes a point of them."""
    rows = [[_at(denoiser, conditions, each, level) for level in range(len(each.sigma))] for each in trajectories]
    means = torch.tensor(rows, dtype=torch.float64).mean(0).tolist()
    residuals, drifts, nulls = zip(*means, strict=True)
    first = trajectories[0]
    return Measured(first.prompt, tuple(first.sigma.tolist()), residuals, drifts, nulls)


def _at(
    denoiser: Denoiser, conditions: Mapping[str, Condition], points: HeldOut, level: int
) -> tuple[float, float, float]:
    """Return residual, drift and null drift at one noise level."""
    both = stack([conditions[NULL_PROMPT], conditions[points.prompt]])
    x, sigma = points.x[level].expand(2, *points.x[level].shape), points.sigma[level].expand(2)
    base = denoiser.predict(x, sigma, both).cpu().double()  # not every device has float64
    with denoiser.student():
        student = denoiser.predict(x, sigma, both).cpu().double()
    change = base[1] - base[0]
    size = change.norm().clamp(min=TINY)
    residual = ((student[1] - student[0]) * change).sum() / size.square()
    null_drift, drift = _norms(student - base) / size
    return float(residual), float(drift), float(null_drift)


def _norms(batch: Tensor) -> Tensor:
    """Return the norm of each sample of "b c h w"."""
    norms: Tensor = rearrange(batch, "b c h w -> b (c h w)").norm(dim=1)
    return norms
