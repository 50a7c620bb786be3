"""How easily a concept comes back: searches in the space of conditions, and pictures from the base's first steps.

With b = eps_base(c) - eps_base(null) on held-out trajectories of the base, a search moves free tokens A (esd/slots.py)
until the student answers as the base did under the concept, and

    attack residual = < eps_student(A) - eps_student(null), b > / |b|^2     1 brought back, 0 not at all

It is the twin inside the model of attacks that search prompts (UnlearnDiffAtk, Zhang et al., ECCV 2024).  The search
and what it is measured on are different trajectories.  The same search for something that no model knows, b upside
down, is its control: free tokens alone reach that much.

An inversion finds tokens that explain the base's own pictures (textual inversion, Gal et al., ICLR 2023, as an attack
in Pham et al., "Circumventing Concept Erasure Methods", ICLR 2024).  In a completion the base draws the first steps
and the student the others ("When Are Concepts Erased from Diffusion Models?", NeurIPS 2025).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean

import torch
from torch import Tensor

from ..concepts import NULL_PROMPT, Concept
from ..denoiser import Condition, Denoiser, batched, predict
from ..examples import TargetSpec
from ..residual import HeldOut, signed_residuals
from ..slots import Slots, move, open_slots
from ..trajectory import euler_step
from .likelihood import Noised
from .metrics import Rate, rate_words

TOGETHER = 2
"""Samples that go through the network in one call of a search."""

ATTACKED = "\n(attacked)"
"""No prompt is this one."""


@dataclass(frozen=True)
class Spread:
    """A residual: the mean over held-out trajectories, and the lowest and the highest of them."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """In words."""
        return f"{self.mean:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Comeback:
    """What is left of a concept under its own words, under the strongest condition found, and in the control.

    `found` are the pictures in which a judge finds it, by how they were drawn.
    """

    prompt: str
    own: Spread
    attacked: Spread
    control: Spread
    found: tuple[tuple[str, Rate], ...] = ()

    @property
    def excess(self) -> float:
        """By how much the attack brings more back than free tokens bring of anything."""
        return self.attacked.mean - self.control.mean

    def __str__(self) -> str:
        """One line for each figure."""
        said = f"residual {self.own}, under attack {self.attacked}, control {self.control}"
        return "\n".join([f'"{self.prompt}": {said}', *(f"{how}: found {rate_words(r)}" for how, r in self.found)])


def attacked_spec(concept: Concept) -> TargetSpec:
    """Return what measures how much of a concept comes back: of an attribute what its words add to the prompt."""
    prompt = concept.student_prompt
    return TargetSpec(prompt, NULL_PROMPT, prompt, 1.0, null=concept.silent_prompt or NULL_PROMPT)


def upside_down(points: HeldOut) -> HeldOut:
    """Return points of a concept that no model knows: what this one changes, turned upside down."""
    turned = points.change.flip(-2)
    return replace(points, base=turned, change=turned)


def residual_under(
    denoiser: Denoiser, conditions: Mapping[str, Condition], told: Condition, points: Sequence[HeldOut]
) -> Spread:
    """Measure what any condition brings back in the student; 2 passes a level."""
    asked = [replace(each, prompt=ATTACKED) for each in points]
    found = signed_residuals(denoiser, {**conditions, ATTACKED: told}, asked, 2 * TOGETHER)
    means = [float(each.mean()) for each in found]
    return Spread(fmean(means), min(means), max(means))


def search(
    denoiser: Denoiser,
    conditions: Mapping[str, Condition],
    starts: Sequence[Slots],
    points: Sequence[HeldOut],
    steps: int,
    generator: torch.Generator,
) -> Slots:
    """Move the slots of each start for so many steps towards the base's answers at the points; return the best.

    A start takes TOGETHER passes a step, forward and back, and the points 1 each and 2 for each start.
    """
    x, sigma = torch.cat([p.x for p in points]), torch.cat([p.sigma for p in points])
    told = [conditions[p.null] for p in points for _ in p.x]
    wanted = torch.cat([p.change for p in points])
    for rows in torch.arange(len(x)).split(TOGETHER):
        with torch.no_grad():
            wanted[rows] += predict(denoiser, x[rows], sigma[rows], batched([told[row] for row in rows]))
    ended = []
    for slots in starts:
        for _ in range(steps):
            rows = torch.randperm(len(x), generator=generator)[:TOGETHER].to(x.device)
            slots = move(slots, denoiser, x[rows], sigma[rows], wanted[rows])
        ended.append((residual_under(denoiser, conditions, slots.condition, points).mean, slots))
    return max(ended, key=lambda each: each[0])[1]


def starts_of(conditions: Mapping[str, Condition], concept: Concept) -> list[Slots]:
    """Return where a search begins: beside the concept's own words, and beside the empty prompt."""
    return [open_slots(conditions[prompt]) for prompt in (concept.student_prompt, NULL_PROMPT)]


def invert(
    denoiser: Denoiser, slots: Slots, latents: Tensor, noised: Noised, levels: Tensor, steps: int,
    generator: torch.Generator,
) -> Slots:  # fmt: skip
    """Move slots until the student predicts the noise in pictures, clean latents "b c h w", at noise levels "n"."""
    for _ in range(steps):
        rows = torch.randperm(len(latents), generator=generator)[:TOGETHER]
        places = torch.randint(len(levels), (len(rows),), generator=generator)
        noise = torch.randn(latents[rows].shape, generator=generator).to(latents.device)
        clean, sigma = latents[rows.to(latents.device)], levels[places].to(latents.device)
        x = noised(clean, noise, sigma)
        slots = move(slots, denoiser, x, sigma, raw_of(denoiser, clean, x, sigma))
    return slots


def raw_of(denoiser: Denoiser, clean: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """Return the raw output that stands for clean latents: they follow from it by one factor and one offset."""
    nothing = denoiser.denoised(torch.zeros_like(x), x, sigma)
    factor = denoiser.denoised(torch.ones_like(x), x, sigma) - nothing
    return (clean - nothing) / factor


@torch.no_grad()
def draw(
    denoiser: Denoiser, null: Condition, told: Condition, noise: Tensor, steps: int, guidance: float, by_base: int = 0
) -> Tensor:
    """Draw clean latents "b c h w" from noise; the base takes so many of the first steps, the student the others."""
    sigmas = denoiser.sigmas(steps).to(noise.device)
    x = denoiser.pure_noise(noise, sigmas[0].expand(len(noise)))
    both = batched([null] * len(noise) + [told] * len(noise))
    for step, (sigma, after) in enumerate(pairwise(sigmas)):
        here = sigma.expand(len(noise))
        with nullcontext() if step < by_base else denoiser.student():
            uncond, cond = predict(denoiser, torch.cat([x, x]), here.repeat(2), both).chunk(2)
        x = euler_step(denoiser, uncond + guidance * (cond - uncond), x, here, after.expand(len(noise)))
    return x
