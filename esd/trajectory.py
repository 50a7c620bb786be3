"""Sampling with classifier-free guidance, keeping the predictions that are computed on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from .denoiser import Condition, Denoiser, stack


@dataclass(frozen=True)
class TrajectoryStep:
    """A batch of trajectories at one noise level: sigma "b", and x and the raw predictions there, all "b c h w"."""

    index: int
    sigma: Tensor
    x: Tensor
    uncond: Tensor
    cond: Tensor


@torch.no_grad()
def cfg_trajectory(
    denoiser: Denoiser, noise: Tensor, null: Condition, conditions: list[Condition], sigmas: Tensor, guidance: float
) -> Iterator[TrajectoryStep]:
    """Yield every step of a batch of guided trajectories, one network call a step for both prompts.

    noise is "b c h w", standard normal; conditions has one entry a trajectory; sigmas is "n b", high to low, a column
    a trajectory.  The step is Euler's on dx/dsigma = (x - x0) / sigma, which for epsilon- and v-prediction is the
    DDIM step with its own eta 0, written in sigma space.
    """
    batch = len(conditions)
    both = stack([null] * batch + conditions)
    x = denoiser.pure_noise(noise, sigmas[0])
    for index, sigma in enumerate(sigmas):
        raw = denoiser.predict(torch.cat([x, x]), sigma.repeat(2), both)
        uncond, cond = rearrange(raw, "(p b) c h w -> p b c h w", p=2)
        yield TrajectoryStep(index, sigma, x, uncond, cond)
        if index + 1 < len(sigmas):
            x = euler_step(denoiser, uncond + guidance * (cond - uncond), x, sigma, sigmas[index + 1])


def euler_step(denoiser: Denoiser, raw: Tensor, x: Tensor, sigma: Tensor, next_sigma: Tensor) -> Tensor:
    """Take one Euler step of the probability-flow ODE, from sigma down to next_sigma ("b" each)."""
    d = (x - denoiser.denoised(raw, x, sigma)) / rearrange(sigma, "b -> b 1 1 1")
    return x + d * rearrange(next_sigma - sigma, "b -> b 1 1 1")
