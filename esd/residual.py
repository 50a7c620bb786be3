"""The signed residual: what a prompt still does in the student, as a share of what it did in the base.

With delta(p) = eps_student(p) - eps_base(p), and b = eps_base(erase) - eps_base(null):

    rho = 1 + < delta(prompt) - delta(null), b > / |b|^2

Where the prompt is the concept itself this is < eps_student(c) - eps_student(null), b > / |b|^2: 1 in the untouched
model, 0 where the prompt does no more than the empty one, -eta at ESD's target.  With "erase from" it says how much of
the concept's own direction is left in that prompt: 1, then 0, and 1 - eta at the target.  In a context the carrier
takes the place of the empty prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .concepts import NULL_PROMPT
from .denoiser import Condition, Denoiser, batched, predict
from .examples import TargetSpec
from .settings import Settings
from .trajectory import TrajectoryStep, cfg_trajectory

LEVELS = 6
"""Noise levels of a held-out trajectory at which the residual is measured; each takes two passes a time."""


@dataclass(frozen=True)
class HeldOut:
    """One trajectory under a prompt that no training example comes from: x "n c h w", sigma "n".

    `base` is eps_base(prompt) - eps_base(null), `change` is eps_base(erase) - eps_base(null), and `silent` is
    eps_base(null), "n c h w" each.
    """

    prompt: str
    null: str
    x: Tensor
    sigma: Tensor
    base: Tensor
    change: Tensor
    silent: Tensor


def hold_out(
    denoiser: Denoiser,
    conditions: Mapping[str, Condition],
    specs: Sequence[TargetSpec],
    settings: Settings,
    generator: torch.Generator,
    levels: int = LEVELS,
) -> list[HeldOut]:
    """Sample a trajectory of so many levels, evenly spaced from pure noise, by the base under each prompt.

    Each level takes 2 passes, or 3 in a context.  No call is larger than those of the training's own trajectories.
    """
    batches = [specs[i : i + settings.trajectory_batch] for i in range(0, len(specs), settings.trajectory_batch)]
    return [each for batch in batches for each in _hold_out(denoiser, conditions, batch, settings, generator, levels)]


@torch.no_grad()
def _hold_out(
    denoiser: Denoiser,
    conditions: Mapping[str, Condition],
    specs: Sequence[TargetSpec],
    settings: Settings,
    generator: torch.Generator,
    levels: int,
) -> list[HeldOut]:
    grid = denoiser.sigmas(settings.num_inference_steps)[:-1]
    chosen = torch.arange(min(levels, len(grid))) * len(grid) // min(levels, len(grid))
    sigmas = grid[chosen][:, None].to(denoiser.device).expand(-1, len(specs))
    noise = torch.randn((len(specs), *denoiser.latent_shape), generator=generator).to(denoiser.device)
    prompts = [conditions[spec.prompt] for spec in specs]
    steps = list(cfg_trajectory(denoiser, noise, conditions[NULL_PROMPT], prompts, sigmas, settings.guidance_scale))
    return [_row(denoiser, conditions, steps, row, spec) for row, spec in enumerate(specs)]


def _row(
    denoiser: Denoiser, conditions: Mapping[str, Condition], steps: list[TrajectoryStep], row: int, spec: TargetSpec
) -> HeldOut:
    """Return one trajectory of a batch; what sampling it did not compute is asked for, a level at a time."""
    x, sigma = torch.stack([s.x[row] for s in steps]), torch.stack([s.sigma[row] for s in steps])
    known: dict[str, Tensor] = {}
    if steps[0].cond is not None:  # with embedded guidance the trajectory has neither prompt without it
        known[NULL_PROMPT] = torch.stack([s.uncond[row] for s in steps if s.uncond is not None])
        known[spec.prompt] = torch.stack([s.cond[row] for s in steps if s.cond is not None])
    for prompt in {spec.prompt, spec.erase, spec.null} - known.keys():
        told = batched([conditions[prompt]])
        known[prompt] = torch.cat([predict(denoiser, x[i : i + 1], sigma[i : i + 1], told) for i in range(len(x))])
    null = known[spec.null]
    return HeldOut(spec.prompt, spec.null, x, sigma, known[spec.prompt] - null, known[spec.erase] - null, null)


def signed_residuals(
    denoiser: Denoiser, conditions: Mapping[str, Condition], points: Sequence[HeldOut], at_most: int = 2
) -> list[Tensor]:
    """Measure rho of the student at each level ("n") of each trajectory, as `residuals_and_drifts` does."""
    return [rho for rho, _ in residuals_and_drifts(denoiser, conditions, points, at_most)]


@torch.no_grad()
def residuals_and_drifts(
    denoiser: Denoiser, conditions: Mapping[str, Condition], points: Sequence[HeldOut], at_most: int = 2
) -> list[tuple[Tensor, float]]:
    """Measure rho of the student at each level ("n") of each trajectory, and how far the empty prompt has drifted.

    That is |eps_student(null) - eps_base(null)| / |b|, over all levels; in a context the carrier is in its place.
    It takes 2 passes a level.  No call holds more than `at_most` samples, or a level's two.
    """
    x, sigma = torch.cat([p.x for p in points]), torch.cat([p.sigma for p in points])
    asked = [(conditions[p.prompt], conditions[p.null]) for p in points for _ in p.x]
    moved, silent, size = [], [], max(1, at_most // 2)
    with denoiser.student():
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            both = batched([told for prompts in zip(*asked[rows], strict=True) for told in prompts])
            cond, uncond = predict(denoiser, torch.cat([x[rows]] * 2), sigma[rows].repeat(2), both).chunk(2)
            moved.append((cond - uncond).flatten(1))
            silent.append(uncond)
    base, change = (torch.cat([getattr(p, name) for p in points]).flatten(1) for name in ("base", "change"))
    effect = change.square().sum(1).clamp(min=1e-30)
    rho = 1 + ((torch.cat(moved) - base) * change).sum(1) / effect
    drift = (torch.cat(silent) - torch.cat([p.silent for p in points])).flatten(1).square().sum(1)
    levels = [len(p.x) for p in points]
    drifts = [float((d.sum() / e.sum()).sqrt()) for d, e in zip(drift.split(levels), effect.split(levels), strict=True)]
    return list(zip(rho.split(levels), drifts, strict=True))


def signed_residual(denoiser: Denoiser, conditions: Mapping[str, Condition], points: HeldOut) -> float:
    """Return the mean over the noise levels of one trajectory."""
    (found,) = signed_residuals(denoiser, conditions, [points])
    return float(found.mean())


def as_spec(prompt: str) -> TargetSpec:
    """Return the target of a prompt that is erased as it is, for measuring what it does."""
    return TargetSpec(prompt, NULL_PROMPT, prompt, 1.0)


def percent_left(residual: float, gone: float = 0.0) -> int:
    """Round a residual to what people are shown: 100 for the untouched model, 0 from where a concept counts as gone."""
    return round(100 * min(1.0, max(0.0, (residual - gone) / (1.0 - gone))))
