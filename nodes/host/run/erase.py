"""A whole run on the host's MODEL: encode, walk, train, and hand back a clone with the differences as patches."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import torch

from ....esd.concepts import Concept, Keep, prompts_of
from ....esd.denoiser import Condition
from ....esd.erasure import ErasedWeights
from ....esd.examples import COARSEST, keep_lessons
from ....esd.selection import select
from ....esd.settings import Settings, check
from ....esd.train import Report, Training
from ..families import identify, native_latent
from ..files.metadata import origin_of
from ..model.apply import apply
from ..model.conditioning import encode
from ..model.injected import take_back_layers
from ..model.memory import LESS, estimate, gb, require, roomy
from ..model.network import compute_dtype, require_own_network, require_visible, weights_of
from ..model.oom import shortage_said
from ..model.rehearsal import stage
from ..progress import Progress
from .gauge import Gauge
from .monitor import Watch, watched
from .numerics import training_numerics
from .plan import Job, Plan, make_denoiser
from .preview import preview_bytes

log = logging.getLogger("esd")


@dataclass(frozen=True)
class Erased:
    """What a run gives: the erased MODEL, its weights, and the loss of every step."""

    model: Any
    weights: ErasedWeights
    losses: list[float]


def erase_model(
    model: Any,
    clip: Any,
    concepts: Sequence[Concept],
    keeps: Sequence[Keep],
    settings: Settings,
    base: Path | None = None,
    watch: Watch | None = None,
    report: Report = lambda step: False,
) -> Erased:
    """Erase the concepts from a clone of the MODEL; raises EsdError before any training where it can know.

    With `watch` the run is shown on a node and kept on the disk; without, `report` hears of every step instead.
    """
    plan = make_plan(model, settings)
    with shortage_said("the prompts were encoded", "close other programs, then queue again"):
        conditions = encode(model, clip, prompts_of(concepts, keeps), plan.latent_shape, plan.device)
    plan = fitted(plan, model, conditions, keeps, watch.vae if watch and watch.preview_every else None)
    progress = Progress(planned_passes(plan.settings, keeps), watch.node if watch else None)
    exact = training_numerics(plan.settings.deterministic)
    with shortage_said("training", LESS), torch.inference_mode(False), _training_mode(), exact:
        gauge = Gauge(plan.device)
        denoiser = make_denoiser(model, plan, progress.passed)
        training = Training(denoiser, conditions, concepts, keeps, plan.settings)
        job = Job(model, plan, conditions, concepts, keeps, base, denoiser, training, progress, gauge)
        weights, losses = watched(job, watch) if watch else _plainly(job, report)
    taken = "" if gauge.peak is None else f", {gb(gauge.peak)} taken where {gb(plan.need.total)} were foretold"
    log.info("ESD: %d steps, %d network passes, last loss %.3g%s", len(losses), progress.done, losses[-1], taken)
    return Erased(apply(model, weights, 1.0), weights, losses)


def _plainly(job: Job, report: Report) -> tuple[ErasedWeights, list[float]]:
    origin = origin_of(job.base)
    for step in job.training:
        if report(step):
            break
    return job.weights(origin), job.training.losses


def make_plan(model: Any, settings: Settings) -> Plan:
    """Check the MODEL and the settings, and choose what is left to choose."""
    family = identify(model)
    take_back_layers(model)
    require_own_network(model)
    check(settings)
    settings = replace(settings, walk_guidance=settings.walk_guidance or family.walk_guidance)
    latent = native_latent(family, model, settings.width, settings.height)
    device = model.load_device
    dtype = _dtype(settings.precision, model, device)
    names = select(settings.method, weights_of(model.model.diffusion_model), family.naming)
    require_visible(model, names)
    return Plan(family, settings, names, latent, device, dtype, settings.checkpointing == "on")


def fitted(plan: Plan, model: Any, conditions: Mapping[str, Condition], keeps: Sequence[Keep], vae: Any = None) -> Plan:
    """The plan with the memory that it needs, for which room is made; raises EsdError where that is not enough.

    Recomputes activations where that is left to choose and memory asks for it.
    """
    longest = max(conditions.values(), key=lambda each: sum(t.numel() for t in each.tensors.values()))
    shapes = {name: tuple(t.shape) for name, t in longest.tensors.items()}
    on = stage(model, plan.names, plan.latent_shape, plan.device, plan.dtype, shapes)
    preview = preview_bytes(vae, plan.latent_shape, plan.device)
    choices = (False, True) if plan.settings.checkpointing == "auto" else (plan.checkpointing,)
    for checkpointing in choices:
        need = estimate(on, plan.settings, plan.device, checkpointing, streams_of(keeps))
        need, free = roomy(replace(need, preview=preview), model, plan.device, plan.dtype)
        if need.total <= free:
            break
    log.info("ESD: %s trains %d tensors; memory needed: %s", plan.settings.method, len(plan.names), need)
    require(need, free, plan.device)
    return replace(plan, checkpointing=checkpointing, need=need)


def _dtype(precision: str, model: Any, device: torch.device) -> torch.dtype:
    """The network's compute precision; the trained weights and the loss are float32 in any case.

    A float16 MODEL trains in float16 with a scaled loss where the device computes in it: of all half precisions that
    comes nearest to float32 (lab/bench/precision.py), and the MODEL's loaded weights need not be copied.
    """
    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision in named:
        return named[precision]
    stored: torch.dtype = model.model.diffusion_model.dtype
    if stored is torch.float16 and compute_dtype(stored, device) is not stored:
        return torch.bfloat16 if comfy.model_management.should_use_bf16(device) else torch.float32
    return stored


def streams_of(keeps: Sequence[Keep]) -> int:
    """How many streams of examples a run draws from: one of the concepts, and one of the keeps where they teach."""
    return 2 if keep_lessons(keeps) else 1


def planned_passes(settings: Settings, keeps: Sequence[Keep]) -> int:
    """An estimate of a run's network passes: walks of two prompts, and the student's own (its forward counts)."""
    drawn = settings.points if not settings.refresh else -(-settings.points // settings.refresh) * settings.pool_size
    per_walk = min(settings.points_per_walk, settings.walk_steps)
    if settings.coarse_walks:
        levels: float = max(per_walk, COARSEST) + 1
    else:
        levels = settings.walk_steps * per_walk / (per_walk + 1)  # the mean of the last of so many random levels
    return round(streams_of(keeps) * (drawn / per_walk * 2 * levels + settings.points))


class _training_mode:
    """Tell hosts that ask (`comfy.model_management.in_training`) that gradients are wanted, and take it back."""

    def __enter__(self) -> None:
        self.before = getattr(comfy.model_management, "in_training", None)
        if self.before is not None:
            comfy.model_management.in_training = True

    def __exit__(self, *error: object) -> None:
        if self.before is not None:
            comfy.model_management.in_training = self.before
