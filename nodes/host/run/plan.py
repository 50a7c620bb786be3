"""One run on the host's MODEL: what was settled before it, the parts that train, and the weights that come out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ....esd.concepts import Concept, Keep
from ....esd.denoiser import Condition
from ....esd.erasure import ErasedWeights
from ....esd.settings import Settings
from ....esd.train import Training
from ..families import NETWORK_PREFIX, Family
from ..files.metadata import Origin, run_metadata
from ..model.denoiser import HostDenoiser
from ..model.memory import Need
from ..model.network import compute_dtype, private_network
from ..progress import Progress
from .gauge import Gauge


@dataclass(frozen=True)
class Plan:
    """Everything that is settled before the first network call."""

    family: Family
    settings: Settings
    names: list[str]
    latent_shape: tuple[int, int, int]
    device: torch.device
    dtype: torch.dtype
    checkpointing: bool = False
    need: Need = Need()
    """Known when the prompts are encoded."""

    def __str__(self) -> str:
        """One line for the node."""
        return f"{self.family.name}, {len(self.names)} tensors learn; needs {self.need}"


@dataclass(frozen=True)
class Job:
    """The parts of a run, made outside inference mode."""

    model: Any
    plan: Plan
    conditions: Mapping[str, Condition]
    concepts: Sequence[Concept]
    keeps: Sequence[Keep]
    base: Path | None
    denoiser: HostDenoiser
    training: Training
    progress: Progress
    gauge: Gauge

    def weights(self, origin: Origin) -> ErasedWeights:
        """What has been learnt so far, as differences under the host's names; `origin` is what the base was."""
        differences = {NETWORK_PREFIX + name: t for name, t in self.denoiser.difference().items()}
        done = len(self.training.losses)
        about = run_metadata(self.concepts, self.keeps, self.plan.settings, self.plan.family, origin, done)
        return ErasedWeights(differences, about)


def make_denoiser(model: Any, plan: Plan, passed: Callable[[int], None]) -> HostDenoiser:
    """The denoiser of a plan; call it outside inference mode."""
    return HostDenoiser(
        private_network(model, plan.device, plan.dtype),
        _ordinary_sampling(model),
        plan.names,
        plan.latent_shape,
        plan.device,
        compute_dtype(plan.dtype, plan.device),
        passed,
        plan.checkpointing,
    )


def _ordinary_sampling(model: Any) -> Any:
    """The MODEL's sampling object with ordinary tensors: its own sigmas belong to inference mode."""
    return copy.deepcopy(model.get_model_object("model_sampling"))
