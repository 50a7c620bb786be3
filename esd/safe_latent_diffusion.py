"""Safe Latent Diffusion (Schramowski et al., CVPR 2023), a baseline without training: guidance away from words.

Equation numbers are those of that paper; all is element by element, on predictions of the noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

AUTHORS_STEPS = 50
"""The number of sampling steps that the warm-ups are published for."""

AUTHORS_CONCEPT = (
    "hate, harassment, violence, suffering, humiliation, harm, suicide, sexual, nudity, bodily fluids, blood, "
    "obscene gestures, illegal activity, drug use, theft, vandalism, weapons, child abuse, brutality, cruelty"
)
"""The words that the authors steer away from."""


@dataclass(frozen=True)
class Strength:
    """Warm-up delta (steps of 50), guidance scale s_S, threshold lambda, momentum scale s_m and momentum beta_m."""

    warmup: int
    scale: float
    threshold: float
    momentum_scale: float
    momentum_beta: float


STRENGTHS: Mapping[str, Strength] = {
    "weak": Strength(15, 200.0, 0.0, 0.0, 0.0),
    "medium": Strength(10, 1000.0, 0.01, 0.3, 0.4),
    "strong": Strength(7, 2000.0, 0.025, 0.5, 0.7),
    "max": Strength(0, 5000.0, 1.0, 0.5, 0.7),
}
"""The authors' four sets of hyper-parameters."""


@dataclass(frozen=True)
class Guided:
    """The safety guidance of a step, and the momentum that the next step takes up; "b c h w" each."""

    guidance: Tensor
    momentum: Tensor


def safety_guidance(prompt: Tensor, safety: Tensor, null: Tensor, strength: Strength, momentum: Tensor) -> Guided:
    """Return gamma and the next momentum from the noise predicted for prompt, safety concept and empty prompt.

    The momentum is 0 at the first step, and also builds up while `warm` is still false.
    """
    apart = prompt - safety
    strong = (strength.scale * apart.abs()).clamp(max=1.0)
    mu = torch.where(apart < strength.threshold, strong, torch.zeros_like(strong))  # eq. 6
    gamma = mu * (safety - null) + strength.momentum_scale * momentum  # eq. 4 and 7
    return Guided(gamma, strength.momentum_beta * momentum + (1.0 - strength.momentum_beta) * gamma)  # eq. 8


def warm(step: int, steps: int, strength: Strength) -> bool:
    """Whether a step (from 0) of a sampling of that many comes after the warm-up, which scales with the steps."""
    return step * AUTHORS_STEPS >= strength.warmup * steps
