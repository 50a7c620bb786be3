"""Sampling with classifier-free guidance, keeping the predictions that are computed on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import Condition, Denoiser, batched, predict


@dataclass(frozen=True)
class TrajectoryStep:
    """A batch of trajectories at one noise level: sigma "b", and x and the raw predictions there, all "b c h w".

    `guided` is what the step follows.  With embedded guidance there is no prediction of either prompt without it.
    """

    index: int
    sigma: Tensor
    x: Tensor
    uncond: Tensor | None
    cond: Tensor | None
    guided: Tensor


@torch.no_grad()
def cfg_trajectory(
    denoiser: Denoiser, noise: Tensor, null: Condition, conditions: list[Condition], sigmas: Tensor, guidance: float
) -> Iterator[TrajectoryStep]:
    """Yield every step of a batch of guided trajectories, one network call a step for both prompts.

    noise is "b c h w", standard normal; conditions has one entry a trajectory; sigmas is "n b", high to low, a column
    a trajectory.  The step is Euler's on dx/dsigma = (x - x0) / sigma, which for epsilon- and v-prediction is the
    DDIM step with its own eta 0, written in sigma space.  Conditions that say something else on a trajectory have the
    guidance as an input of the network: there the call is for one prompt, and `guidance` is left alone.
    """
    embedded = bool(conditions[0].sampling)
    told = batched([c.on_trajectory for c in conditions] if embedded else [null] * len(conditions) + conditions)
    x = denoiser.pure_noise(noise, sigmas[0])
    for index, sigma in enumerate(sigmas):
        if embedded:
            uncond, cond, guided = None, None, predict(denoiser, x, sigma, told)
        else:
            uncond, cond = predict(denoiser, torch.cat([x, x]), sigma.repeat(2), told).chunk(2)
            guided = uncond + guidance * (cond - uncond)
        yield TrajectoryStep(index, sigma, x, uncond, cond, guided)
        if index + 1 < len(sigmas):
            x = euler_step(denoiser, guided, x, sigma, sigmas[index + 1])


def euler_step(denoiser: Denoiser, raw: Tensor, x: Tensor, sigma: Tensor, next_sigma: Tensor) -> Tensor:
    """Take one Euler step of the probability-flow ODE, from sigma down to next_sigma ("b" each)."""
    d = (x - denoiser.denoised(raw, x, sigma)) / _along(sigma, x)
    return x + d * _along(next_sigma - sigma, x)


def _along(values: Tensor, x: Tensor) -> Tensor:
    """Return one value a sample ("b") in a shape that goes with x ("b ...")."""
    return values.reshape(-1, *[1] * (x.ndim - 1))
