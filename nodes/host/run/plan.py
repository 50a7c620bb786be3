"""One run on the host's MODEL: what was settled before it, the parts that train, and the weights that come out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ....esd.concepts import Concept, Keep
from ....esd.denoiser import Condition
from ....esd.drift import percents
from ....esd.erasure import Erasure
from ....esd.settings import Settings
from ....esd.students import StudentPlan, make_student
from ....esd.train import StepCallback, Training, erase
from ....esd.until_gone import CHECK_EVERY
from ..families import NETWORK_PREFIX
from ..files.metadata import Origin, run_metadata
from ..model.denoiser import HostDenoiser
from ..model.host_model import HostModel
from ..model.memory import Gauge, MemoryEstimate
from ..model.network import compute_dtype, private_network
from ..model.offload import Offload
from ..progress import Progress

RESIDUAL = "esd.residual"
"""The metadata of what was measured along a run."""


@dataclass(frozen=True)
class Plan:
    """Everything that is settled before the first network call."""

    host: HostModel
    settings: Settings
    names: list[str]
    latent_shape: tuple[int, ...]
    device: torch.device
    dtype: torch.dtype
    gradient_checkpointing: bool = False
    need: MemoryEstimate = MemoryEstimate()
    """Known when the prompts are encoded."""
    rows: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Of the weights that are trained in part."""
    begun: Sequence[str] = ()
    """Weights among the names that only the start in closed form changes."""
    offload: Offload = Offload()
    """Blocks that are on the device one after another; known with `need`."""

    @property
    def student(self) -> StudentPlan:
        """What is trained, and how."""
        rank, seed = self.settings.rank, self.settings.seed
        rows, first = tuple(self.rows.items()), student_seed(seed) if rank else 0
        return StudentPlan(tuple(self.names), rows, rank, first, tuple(self.begun))

    @property
    def trained(self) -> int:
        """The number of tensors that are trained, and not only begun with."""
        return len(self.names) - len(self.begun)

    def __str__(self) -> str:
        """One line for the node."""
        about = f"{self.host.family.name}, {self.trained} tensors are trained; needs {self.need}"
        return "; ".join(filter(None, (about, str(self.offload))))


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
    without_styles: Mapping[str, Tensor] = field(default_factory=dict)
    """The edits to begin with where those of styles do not do (`start.Start`)."""

    def train(
        self,
        on_start: Callable[[Training], object] = lambda training: None,
        on_step: StepCallback = lambda step: False,
    ) -> Training:
        """Train the denoiser's student (`esd.train.erase`)."""
        start_over = partial(self.denoiser.learner.begin, self.without_styles, self.denoiser.dtype)
        settings = self.plan.settings
        return erase(self.denoiser, self.conditions, self.concepts, settings, self.keeps, on_start, on_step, start_over)

    def weights(
        self,
        origin: Origin,
        training: Training,
        left: Mapping[str, int] | None = None,
        moved: Mapping[str, int] | None = None,
    ) -> Erasure:
        """Return what was learnt, under the host's names.

        `origin` is what the base was; `left` of concepts and how far keeps have `moved` are what was measured, where
        that was not in the training.
        """
        plan, done = self.plan, len(training.losses)
        about = run_metadata(self.concepts, self.keeps, plan.settings, plan.host.family, origin, done)
        learnt = self.denoiser.learner.erasure(NETWORK_PREFIX)
        return replace(learnt, metadata={**about, **_measured(training, left, moved)})


def make_denoiser(
    plan: Plan, on_forward: Callable[[int], None], edits: Mapping[str, Tensor] | None = None
) -> HostDenoiser:
    """Return the denoiser of a plan, its student begun with the edits of weights; call it outside inference mode."""
    network = private_network(plan.host, plan.device, plan.dtype, plan.offload.streamed)
    student, computing = make_student(plan.student, network, plan.device), compute_dtype(plan.dtype, plan.device)
    student.begin(edits or {}, computing)
    return HostDenoiser(
        network,
        plan.host.sampling(plan.latent_shape, plan.settings.num_inference_steps),
        student,
        plan.latent_shape,
        plan.device,
        computing,
        on_forward,
        plan.host.family.backward,
        plan.gradient_checkpointing,
    )


def student_seed(seed: int) -> int:
    """Return the seed of a low-rank student's first values, apart from those of the examples."""
    return (seed + 0x5DEECE66D) % 2**63


def _measured(training: Training, left: Mapping[str, int] | None, moved: Mapping[str, int] | None) -> dict[str, str]:
    """Return what is left and what has moved, in per cent by prompt, and the worst residual of every check."""
    left, moved = left or {each.prompt: each.percent for each in training.left}, moved or percents(training.drifts)
    worst = {"every": CHECK_EVERY, "worst": [round(rho, 3) for rho in training.worst]}
    return {
        **({"esd.learning_rate_found": repr(training.step_size.pace.rate)} if training.step_size else {}),
        **({"esd.left": json.dumps(left)} if left else {}),
        **({"esd.moved": json.dumps(moved)} if moved else {}),
        **({RESIDUAL: json.dumps(worst)} if training.worst else {}),
    }
