"""The base model as its own judge: the prompt under which it predicts a picture's noise best (Li et al. 2023).

    E(c) = mean over levels and elements of (eps - eps_base(x_t, c))^2, x_t the noised picture

with the same noise and levels for every prompt, so that only the prompts differ (arXiv 2303.16203).  It needs no other
model and no data, and knows every concept that the base knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from einops import rearrange, reduce
from torch import Tensor

from ..denoiser import Condition, Denoiser, stack
from .judge import Verdicts

GRID, LEVELS = 20, (4, 7, 10)
"""Entries of a grid of 20 steps: 750, 600 and 450 of SD's 1000.  Three levels tell prompts apart better than one."""

NOTHING = ""
"""The empty prompt stands beside the labels, for pictures that show none of them."""

Noised = Callable[[Tensor, Tensor, Tensor], Tensor]
"""x_t from clean latents, standard normal noise and sigma ("b c h w", "b c h w", "b")."""


@torch.no_grad()
def noise_errors(
    denoiser: Denoiser, conditions: Sequence[Condition], latents: Tensor, noised: Noised, seed: int = 0
) -> Tensor:
    """Return E of each picture under each condition, "b p", from clean latents "b c h w"; b * p * 3 passes.

    A picture's figures do not depend on what it is judged together with.
    """
    generator = torch.Generator().manual_seed(seed)
    grid = denoiser.sigmas(GRID)
    errors = torch.zeros((len(latents), len(conditions)), dtype=torch.float64)
    for level in LEVELS:
        noise = torch.randn((1, *latents.shape[1:]), generator=generator).to(latents.device).expand_as(latents)
        sigma = grid[level].to(latents.device).expand(len(latents))
        x = noised(latents, noise, sigma)
        for place, condition in enumerate(conditions):
            raw = denoiser.predict(x, sigma, stack([condition] * len(latents)))
            apart = (denoiser.denoised(raw, x, sigma) - latents) / rearrange(sigma, "b -> b 1 1 1")
            errors[:, place] += reduce(apart.cpu().double().square(), "b c h w -> b", "mean")
    return errors / len(LEVELS)


def verdicts(errors: Tensor, labels: Sequence[str]) -> Verdicts:
    """Answer with the prompt of least error; errors is "b 1 + n", the empty prompt's first.

    The figure of a label is the share of the empty prompt's error that it takes away: above 0 it explains the picture
    better than nothing.
    """
    names = (NOTHING, *labels)
    best = errors.argmin(dim=1)
    scores = (errors[:, :1] - errors[:, 1:]) / errors[:, :1].clamp(min=1e-30)
    found = best[:, None] == torch.arange(1, len(names))
    answers = tuple((names[index],) * len(labels) for index in best.tolist())
    return Verdicts(tuple(labels), scores, found, answers)
