"""What the student draws, looked at by the base: whether a picture shows the concept, without a judge of its own.

A residual follows trajectories of the base, on which a style is there already.  Here the student draws: x0 is where its
trajectory ends, and the base, at a level on the way, predicts x0 under the concept's prompt and under the one that the
target starts from.  The concept is in the picture if its prompt predicts that better (the comparison of Li et al. 2023,
arXiv 2303.16203, on the trajectory in place of fresh noise).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from einops import reduce

from .concepts import NULL_PROMPT
from .denoiser import Condition, Denoiser, batched, predict
from .examples import TargetSpec
from .settings import Settings
from .trajectory import TrajectoryStep, cfg_trajectory

STEPS = 5
"""Noise levels of a drawn trajectory, two passes each."""

LEVELS = (2, 3)
"""Those of them at which the base looks, two passes each."""

PASSES = 2 * STEPS + 2 * len(LEVELS)
"""Network passes of a picture."""


@torch.no_grad()
def shown(
    denoiser: Denoiser,
    conditions: Mapping[str, Condition],
    specs: Sequence[TargetSpec],
    settings: Settings,
    generator: torch.Generator,
) -> list[bool]:
    """Let the student draw under the prompt of each spec, and return whether that shows what the spec erases.

    It takes `PASSES` a spec.  No call is larger than those of the training's own trajectories.
    """
    found: list[bool] = []
    for start in range(0, len(specs), settings.trajectory_batch):
        batch = specs[start : start + settings.trajectory_batch]
        sigmas = denoiser.sigmas(STEPS)[:-1, None].to(denoiser.device).expand(-1, len(batch))
        noise = torch.randn((len(batch), *denoiser.latent_shape), generator=generator).to(denoiser.device)
        null, told = conditions[NULL_PROMPT], [conditions[spec.prompt] for spec in batch]
        with denoiser.student():
            steps = list(cfg_trajectory(denoiser, noise, null, told, sigmas, settings.guidance_scale))
        found += _explained(denoiser, conditions, batch, steps)
    return found


def _explained(
    denoiser: Denoiser,
    conditions: Mapping[str, Condition],
    specs: Sequence[TargetSpec],
    steps: Sequence[TrajectoryStep],
) -> list[bool]:
    """Return whether the base predicts the end of each trajectory better with what its spec erases than without."""
    last, both = steps[-1], batched([conditions[p] for p in (*(s.erase for s in specs), *(s.null for s in specs))])
    end = denoiser.denoised(last.guided, last.x, last.sigma)
    closer = torch.zeros(len(specs), dtype=torch.float64)
    for step in (steps[level] for level in LEVELS):
        x, sigma = torch.cat([step.x] * 2), step.sigma.repeat(2)
        apart = denoiser.denoised(predict(denoiser, x, sigma, both), x, sigma) - torch.cat([end] * 2)
        errors = reduce(apart.double().cpu().square(), "b ... -> b", "mean") / step.sigma.cpu().double().repeat(2) ** 2
        told, null = errors.chunk(2)
        closer += null - told
    return (closer > 0).tolist()
