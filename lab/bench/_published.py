"""The official procedure of March 2026 on diffusers, for the benches: one network, its parameters swapped.

One point: the frozen face walks k of 50 guided steps from fresh noise, answers the prompts at that level, and the
student face is trained towards the target, batch 1, Adam.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lab.reference import published as reference  # noqa: E402


class PublishedTrainer:
    """Base and student values of the trained parameters, swapped into one UNet."""

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        concept: Any,
        names: Sequence[str],
        lr: float,
        eta: float,
        steps: int = 50,
    ) -> None:
        """`steps` is the grid of its walks."""
        self.unet, self.scheduler, self.concept = unet, scheduler, concept
        self.settings = reference.Settings(eta=eta, steps=steps)
        self.parameters = reference.trainable(unet, names)
        self.base = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.student = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=lr)

    def use(self, values: dict[str, Tensor]) -> None:
        """Put one face's values into the network."""
        for name, parameter in self.parameters.items():
            parameter.data = values[name]

    def step(self, noise: Tensor, k: int) -> float:
        """One training point from injected noise, walked to grid index k; returns its loss."""
        concept, settings = self.concept, self.settings
        self.use(self.base)
        point = reference.walk(
            self.unet, self.scheduler, noise, settings.steps, k, concept.null, concept.student, settings.guidance
        )
        seen = reference.predictions(self.unet, self.scheduler, point, settings.steps, concept)
        # without "erase from" the official code has no third answer to ask for: the anchor is the concept itself
        wanted = reference.target(seen.anchor, seen.erase, seen.null, settings.eta)
        self.use(self.student)
        x = reference.network_input(self.scheduler, point, settings.steps)
        value = (reference.call(self.unet, x, point.t, concept.student) - wanted).square().mean()
        self.optimizer.zero_grad()
        value.backward()
        self.optimizer.step()
        return float(value.detach())
