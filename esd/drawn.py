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
from .trajectory import cfg_trajectory

STEPS = 5
"""Noise levels of a drawn trajectory, two passes each."""

LEVELS = (2, 3)
"""Those of them at which the base looks, two passes each."""

PASSES = 2 * STEPS + 2 * len(LEVELS)
"""Network passes of a picture."""


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
    batches = [specs[i : i + settings.trajectory_batch] for i in range(0, len(specs), settings.trajectory_batch)]
    return [each for batch in batches for each in _shown(denoiser, conditions, batch, settings, generator)]


@torch.no_grad()
def _shown(
    denoiser: Denoiser,
    conditions: Mapping[str, Condition],
    specs: Sequence[TargetSpec],
    settings: Settings,
    generator: torch.Generator,
) -> list[bool]:
    sigmas = denoiser.sigmas(STEPS)[:-1, None].to(denoiser.device).expand(-1, len(specs))
    noise = torch.randn((len(specs), *denoiser.latent_shape), generator=generator).to(denoiser.device)
    prompts = [conditions[spec.prompt] for spec in specs]
    with denoiser.student():
        steps = list(cfg_trajectory(denoiser, noise, conditions[NULL_PROMPT], prompts, sigmas, settings.guidance_scale))
    last = steps[-1]
    end = denoiser.denoised(last.guided, last.x, last.sigma)
    closer = torch.zeros(len(specs), dtype=torch.float64)
    for step in (steps[level] for level in LEVELS):
        both = batched([conditions[p] for p in (*(s.erase for s in specs), *(s.null for s in specs))])
        x, sigma = torch.cat([step.x] * 2), step.sigma.repeat(2)
        apart = denoiser.denoised(predict(denoiser, x, sigma, both), x, sigma) - torch.cat([end] * 2)
        errors = reduce(apart.double().cpu().square(), "b ... -> b", "mean") / step.sigma.cpu().double().repeat(2) ** 2
        told, null = errors.chunk(2)
        closer += null - told
    return (closer > 0).tolist()
