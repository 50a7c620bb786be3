"""A whole run on the host's MODEL: encode, walk, train, and hand back a clone with the differences as patches."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import torch

from ...esd.concepts import Concept, Keep, prompts_of
from ...esd.examples import COARSEST, keep_lessons
from ...esd.selection import select
from ...esd.settings import Settings, check
from ...esd.train import Report, erase
from ...esd.weights import ErasedWeights
from .apply import apply
from .conditions import encode
from .denoiser import HostDenoiser
from .families import NETWORK_PREFIX, Family, identify, native_latent
from .interrupt import Progress, Ticker, say
from .memory import Need, clear, estimate, free_for, require
from .network import private_network, weights_of
from .provenance import run_metadata
from .watch import Watch

log = logging.getLogger("esd")


@dataclass(frozen=True)
class Erased:
    """What a run gives: the erased MODEL, its weights, and the loss of every step."""

    model: Any
    weights: ErasedWeights
    losses: list[float]


@dataclass(frozen=True)
class Plan:
    """Everything that is settled before the first network call."""

    family: Family
    settings: Settings
    names: list[str]
    latent_shape: tuple[int, int, int]
    device: torch.device
    dtype: torch.dtype
    checkpointing: bool
    need: Need


def erase_model(
    model: Any,
    clip: Any,
    concepts: Sequence[Concept],
    keeps: Sequence[Keep],
    settings: Settings,
    base: Path | None = None,
    node_id: str | None = None,
    watch: Watch = Watch(),
    report: Report | None = None,
) -> Erased:
    """Erase the concepts from a clone of the MODEL; raises EsdError before any training where it can know.

    `node_id` is the node that shows progress; `report` hears of every step instead of it.
    """
    plan = make_plan(model, settings)
    say(node_id, f"{plan.family.name}, {len(plan.names)} tensors learn; needs {plan.need}")
    conditions = encode(model, clip, prompts_of(concepts, keeps), plan.latent_shape, plan.device)
    clear(plan.device)
    progress = Progress(planned_passes(plan.settings, keeps), node_id)
    with torch.inference_mode(False), _training_mode():
        denoiser = make_denoiser(model, plan, progress.passed)
        losses = erase(denoiser, conditions, concepts, keeps, plan.settings, report or Ticker(node_id))
        differences = {NETWORK_PREFIX + name: t for name, t in denoiser.difference().items()}
    log.info("ESD: %d steps, %d network passes, last loss %.3g", len(losses), progress.done, losses[-1])
    metadata = run_metadata(concepts, keeps, plan.settings, plan.family, base, len(losses))
    weights = ErasedWeights(differences, metadata)
    return Erased(apply(model, weights, 1.0), weights, losses)


def make_plan(model: Any, settings: Settings) -> Plan:
    """Check the MODEL and the settings, choose what is left to choose, and make sure that memory suffices."""
    family = identify(model)
    check(settings)
    settings = replace(settings, walk_guidance=settings.walk_guidance or family.walk_guidance)
    latent = native_latent(family, model, settings.width, settings.height)
    device = model.load_device
    dtype = _dtype(settings.precision, model, device)
    names = select(settings.method, weights_of(model.model.diffusion_model), family.naming)
    checkpointing = settings.checkpointing == "on"
    need = estimate(model, names, latent, settings, device, dtype, checkpointing)
    if settings.checkpointing == "auto" and not free_for(need, device):
        checkpointing = True
        need = estimate(model, names, latent, settings, device, dtype, checkpointing)
    log.info("ESD: %s, %s trains %d tensors; memory needed: %s", family.name, settings.method, len(names), need)
    require(need, device)
    return Plan(family, settings, names, latent, device, dtype, checkpointing, need)


def _dtype(precision: str, model: Any, device: torch.device) -> torch.dtype:
    """The network's compute precision; the trained weights and the loss are float32 in any case."""
    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision in named:
        return named[precision]
    stored = model.model.diffusion_model.dtype
    if stored is torch.float16:  # gradients of 1e-8 vanish in fp16, so it is never chosen by itself
        return torch.bfloat16 if comfy.model_management.should_use_bf16(device) else torch.float32
    return stored


def make_denoiser(model: Any, plan: Plan, passed: Callable[[int], None]) -> HostDenoiser:
    """The denoiser of a plan; call it outside inference mode."""
    network = private_network(model, plan.device, plan.dtype)
    return HostDenoiser(
        network,
        _ordinary_sampling(model),
        plan.names,
        plan.latent_shape,
        plan.device,
        plan.dtype,
        passed,
        plan.checkpointing,
    )


def _ordinary_sampling(model: Any) -> Any:
    """The MODEL's sampling object with ordinary tensors: its own sigmas belong to inference mode."""
    return copy.deepcopy(model.get_model_object("model_sampling"))


def planned_passes(settings: Settings, keeps: Sequence[Keep]) -> int:
    """An estimate of a run's network passes: walks of two prompts, and the student's own (its forward counts)."""
    streams = 2 if keep_lessons(keeps) else 1
    drawn = settings.points if not settings.refresh else -(-settings.points // settings.refresh) * settings.pool_size
    per_walk = min(settings.points_per_walk, settings.walk_steps)
    if settings.coarse_walks:
        levels: float = max(per_walk, COARSEST) + 1
    else:
        levels = settings.walk_steps * per_walk / (per_walk + 1)  # the mean of the last of so many random levels
    return round(streams * (drawn / per_walk * 2 * levels + settings.points))


class _training_mode:
    """Tell hosts that ask (`comfy.model_management.in_training`) that gradients are wanted, and take it back."""

    def __enter__(self) -> None:
        self.before = getattr(comfy.model_management, "in_training", None)
        if self.before is not None:
            comfy.model_management.in_training = True

    def __exit__(self, *error: object) -> None:
        if self.before is not None:
            comfy.model_management.in_training = self.before
