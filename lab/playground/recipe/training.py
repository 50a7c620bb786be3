"""A training loop that can be stopped at any time and goes on from its last saved state, bit for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import files

SAVE_EVERY = 120.0  # seconds
Progress = Callable[[int, int], None]
Loss = Callable[[torch.Generator], Tensor]


@dataclass(frozen=True)
class Plan:
    """How long and how fast a network is trained, with AdamW on a cosine."""

    steps: int
    batch: int
    rate: float
    warm_up: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    decay: float = 0.01
    clip: float = 1.0
    average: float = 0.0
    """How much of the average of the weights stays at each step; 0: the last weights are the result."""

    seed: int = 0

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warm = min(1.0, (step + 1) / self.warm_up) if self.warm_up else 1.0
        return self.rate * warm * (1 + math.cos(math.pi * step / self.steps)) / 2


class Training:
    """A network, its optimiser and its average, with the step they have come to."""

    def __init__(self, module: nn.Module, plan: Plan, file: Path, source: str = "") -> None:
        """Goes on from `file` if that is there; raises ValueError if it was begun with another plan or `source`."""
        self.module, self.plan, self.file, self.step = module, plan, file, 0
        self.settings = f"{asdict(plan)!r} {source}"
        self.average = {name: value.detach().clone() for name, value in module.named_parameters()}
        self.optimiser = torch.optim.AdamW(module.parameters(), plan.rate, plan.betas, weight_decay=plan.decay)
        if file.exists():
            self._take_up(torch.load(file, weights_only=True))

    @property
    def done(self) -> bool:
        """Whether all steps were made."""
        return self.step >= self.plan.steps

    def run(self, loss: Loss, progress: Progress, stop_after: int | None = None) -> None:
        """Make the steps that are left, or `stop_after` of them; each step has a random stream of its own."""
        last = self.plan.steps if stop_after is None else min(self.plan.steps, self.step + stop_after)
        saved, first = time.monotonic(), self.step
        while self.step < last:
            progress(self.step - first, last - first)
            self._make_step(loss)
            if time.monotonic() - saved > SAVE_EVERY:
                self.save()
                saved = time.monotonic()
        self.save()

    def _make_step(self, loss: Loss) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.rate_at(self.step)
        random = torch.Generator().manual_seed(self.plan.seed * 10_000_019 + self.step)
        self.optimiser.zero_grad()
        loss(random).backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), self.plan.clip)
        self.optimiser.step()
        self.step += 1
        # follows fast at first, so that the start is soon forgotten
        kept = min(self.plan.average, self.step / (self.step + 10))
        with torch.no_grad():
            for name, value in self.module.named_parameters():
                self.average[name].lerp_(value, 1 - kept)

    def result(self) -> dict[str, Tensor]:
        """The trained parameters by name: their average where the plan asks for one."""
        last = {name: value.detach() for name, value in self.module.named_parameters()}
        return self.average if self.plan.average else last

    def save(self) -> None:
        """Write all that the next run needs."""
        state = {"plan": self.settings, "step": self.step, "module": self.module.state_dict()}
        files.save_state({**state, "average": self.average, "optimiser": self.optimiser.state_dict()}, self.file)

    def _take_up(self, state: dict[str, Any]) -> None:
        if state["plan"] != self.settings:
            raise ValueError(
                f"{self.file} was begun with other settings, objects or networks: go on with those, choose another "
                "--folder, or delete the file."
            )
        self.step, self.average = state["step"], state["average"]
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
