"""Walking from pure noise towards a picture with classifier-free guidance, keeping what is computed on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from .denoiser import Condition, Denoiser, stack


@dataclass(frozen=True)
class Level:
    """Where a batch of walks stands: sigma "b", and x and the raw predictions there, all "b c h w"."""

    index: int
    sigma: Tensor
    x: Tensor
    null: Tensor
    conditional: Tensor


@torch.no_grad()
def walk(
    denoiser: Denoiser, noise: Tensor, null: Condition, conditions: list[Condition], sigmas: Tensor, guidance: float
) -> Iterator[Level]:
    """Yield every level of a batch of guided walks, one network call a level for both prompts.

    noise is "b c h w", standard normal; conditions has one entry a walk; sigmas is "n b", high to low, a column a
    walk.  The step is Euler's on dx/dsigma = (x - x0) / sigma, which for epsilon- and v-prediction is the DDIM step
    with its own eta 0, written in sigma space.
    """
    batch = len(conditions)
    both = stack([null] * batch + conditions)
    x = denoiser.pure_noise(noise, sigmas[0])
    for index, sigma in enumerate(sigmas):
        raw = denoiser.predict(torch.cat([x, x]), sigma.repeat(2), both)
        without, conditional = rearrange(raw, "(p b) c h w -> p b c h w", p=2)
        yield Level(index, sigma, x, without, conditional)
        if index + 1 < len(sigmas):
            guided = without + guidance * (conditional - without)
            x = step(denoiser, guided, x, sigma, sigmas[index + 1])


def step(denoiser: Denoiser, raw: Tensor, x: Tensor, sigma: Tensor, next_sigma: Tensor) -> Tensor:
    """One Euler step of the probability-flow ODE, from sigma down to next_sigma ("b" each)."""
    slope = (x - denoiser.denoised(raw, x, sigma)) / rearrange(sigma, "b -> b 1 1 1")
    return x + slope * rearrange(next_sigma - sigma, "b -> b 1 1 1")
