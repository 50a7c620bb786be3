"""One run on the host's MODEL: what was settled before it, the parts that train, and the weights that come out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ....esd.concepts import Concept, Keep
from ....esd.denoiser import Condition
from ....esd.erasure import Erasure
from ....esd.settings import Settings
from ....esd.train import StepCallback, Training, erase
from ....esd.until_gone import CHECK_EVERY
from ..families import NETWORK_PREFIX
from ..files.metadata import Origin, run_metadata
from ..model.denoiser import HostDenoiser
from ..model.host_model import HostModel
from ..model.memory import Gauge, MemoryEstimate
from ..model.network import compute_dtype, private_network
from ..progress import Progress


@dataclass(frozen=True)
class Plan:
    """Everything that is settled before the first network call."""

    host: HostModel
    settings: Settings
    names: list[str]
    latent_shape: tuple[int, int, int]
    device: torch.device
    dtype: torch.dtype
    gradient_checkpointing: bool = False
    need: MemoryEstimate = MemoryEstimate()
    """Known when the prompts are encoded."""

    def __str__(self) -> str:
        """One line for the node."""
        return f"{self.host.family.name}, {len(self.names)} tensors are trained; needs {self.need}"


@dataclass(frozen=True)
class Job:
    """The parts of a run, made outside inference mode."""

    plan: Plan
    conditions: Mapping[str, Condition]
    concepts: Sequence[Concept]
    keeps: Sequence[Keep]
    base: Path | None
    denoiser: HostDenoiser
    progress: Progress
    gauge: Gauge

    def train(
        self,
        on_start: Callable[[Training], object] = lambda training: None,
        on_step: StepCallback = lambda step: False,
    ) -> Training:
        """Train the denoiser's student (`esd.train.erase`)."""
        return erase(self.denoiser, self.conditions, self.concepts, self.plan.settings, self.keeps, on_start, on_step)

    def weights(self, origin: Origin, training: Training, left: Mapping[str, int] | None = None) -> Erasure:
        """Return what was learnt, under the host's names; `origin` is what the base was, `left` what was measured."""
        differences = {NETWORK_PREFIX + name: t for name, t in self.denoiser.difference().items()}
        about = run_metadata(
            self.concepts, self.keeps, self.plan.settings, self.plan.host.family, origin, len(training.losses)
        )
        return Erasure(differences, {**about, **_measured(training, left)})


def make_denoiser(plan: Plan, on_forward: Callable[[int], None]) -> HostDenoiser:
    """Return the denoiser of a plan; call it outside inference mode."""
    return HostDenoiser(
        private_network(plan.host, plan.device, plan.dtype),
        plan.host.sampling(),
        plan.names,
        plan.latent_shape,
        plan.device,
        compute_dtype(plan.dtype, plan.device),
        on_forward,
        plan.gradient_checkpointing,
    )


def _measured(training: Training, left: Mapping[str, int] | None) -> dict[str, str]:
    """Return what was found to be left, in per cent by prompt, and the worst residual of every check, as metadata."""
    left = left or {each.prompt: each.percent for each in training.left}
    worst = {"every": CHECK_EVERY, "worst": [round(rho, 3) for rho in training.worst]}
    return {
        **({"esd.left": json.dumps(left)} if left else {}),
        **({"esd.residual": json.dumps(worst)} if training.worst else {}),
    }
