"""The signed residual: what a prompt still does in the student, as a share of what it did in the base.

    rho = < eps_student(c) - eps_student(null), eps_base(c) - eps_base(null) > / |eps_base(c) - eps_base(null)|^2

1 in the untouched model, 0 where the prompt does no more than the empty one, -eta at ESD's target.  It shows a run
under way and is no verdict: which rho means "gone" differs between objects, styles and attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..concepts import NULL_PROMPT, Concept
from ..denoiser import Condition, Denoiser, batched, predict
from ..settings import Settings
from ..train import stream_generator
from ..trajectory import TrajectoryStep, cfg_trajectory

LEVELS = 6
"""Noise levels of a held-out trajectory at which the residual is measured; each takes two passes a time."""

STREAM = 2
"""The random stream of held-out trajectories; those of the training examples are 0 and 1."""


@dataclass(frozen=True)
class HeldOut:
    """One trajectory under a prompt that no training example comes from: x "n c h w", sigma "n", and the base's change.

    `change` is eps_base(prompt) - eps_base(null), "n c h w".
    """

    prompt: str
    x: Tensor
    sigma: Tensor
    change: Tensor


def hold_out(
    denoiser: Denoiser, conditions: Mapping[str, Condition], concepts: Sequence[Concept], settings: Settings
) -> list[HeldOut]:
    """Sample a trajectory by the base under each concept's student prompt; 2 * LEVELS passes a concept."""
    generator = stream_generator(settings.seed, STREAM)
    grid = denoiser.sigmas(settings.num_inference_steps)[:-1]
    chosen = torch.linspace(0, len(grid) - 1, min(LEVELS, len(grid))).round().long()
    sigmas = grid[chosen][:, None].to(denoiser.device)
    made = []
    for prompt in dict.fromkeys(concept.student_prompt for concept in concepts):
        noise = torch.randn((1, *denoiser.latent_shape), generator=generator).to(denoiser.device)
        pair = conditions[NULL_PROMPT], [conditions[prompt]]
        steps = list(cfg_trajectory(denoiser, noise, *pair, sigmas, settings.guidance_scale))
        changes = [_change(denoiser, pair[0], pair[1][0], step) for step in steps]
        parts = ([s.x for s in steps], [s.sigma for s in steps], changes)
        made.append(HeldOut(prompt, *(torch.cat(part) for part in parts)))
    return made


@torch.no_grad()
def _change(denoiser: Denoiser, null: Condition, asked: Condition, step: TrajectoryStep) -> Tensor:
    """Return what the prompt changes at a step, "1 ..."; with embedded guidance the trajectory did not compute it."""
    if step.cond is not None and step.uncond is not None:
        return step.cond - step.uncond
    uncond, cond = predict(denoiser, torch.cat([step.x] * 2), step.sigma.repeat(2), batched([null, asked])).chunk(2)
    return cond - uncond


@torch.no_grad()
def signed_residual(denoiser: Denoiser, conditions: Mapping[str, Condition], points: HeldOut) -> float:
    """Measure rho of the student, the mean over the noise levels; 2 * LEVELS passes."""
    both = batched([conditions[NULL_PROMPT], conditions[points.prompt]])
    shares = []
    with denoiser.student():
        for x, sigma, change in zip(points.x, points.sigma, points.change, strict=True):
            uncond, cond = predict(denoiser, x.expand(2, *x.shape), sigma.expand(2), both)
            shares.append(((cond - uncond) * change).sum() / change.square().sum().clamp(min=1e-30))
    return float(torch.stack(shares).mean())


def percent_left(residual: float) -> int:
    """Round a residual to what people are shown: 100 for the untouched model, 0 where the prompt does nothing more."""
    return round(100 * min(1.0, max(0.0, residual)))
