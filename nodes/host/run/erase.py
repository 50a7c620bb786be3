"""A whole run on the host's MODEL: encode, sample, train, and hand back a clone with the differences as patches."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import torch

from ....esd.concepts import Concept, Keep, prompts_of
from ....esd.denoiser import Condition
from ....esd.erasure import Erasure
from ....esd.errors import EsdError
from ....esd.passes import planned_passes, together_of
from ....esd.selection import ParameterInfo, row_slices, select
from ....esd.settings import OFF, Settings, check
from ....esd.train import StepCallback
from ....esd.until_gone import settled
from ..families import require_plain_weights
from ..files.metadata import origin_of
from ..files.picture_size import sized
from ..model.apply import apply
from ..model.backward import training_mode
from ..model.conditioning import Guidance, encode
from ..model.host_model import HostModel, as_host_model
from ..model.loaded import restore_injected_layers, restore_own_weights
from ..model.memory import LOWER_MEMORY_HINT, Gauge, cast_bytes, ensure_free, estimate, gb, with_room
from ..model.network import compute_dtype, require_own_network, require_visible, weights_of
from ..model.offload import Offload, has_memory_of_its_own, with_streaming
from ..model.oom import translate_oom
from ..model.rehearsal import stage
from ..model.streaming import streaming
from ..progress import Progress
from .monitor import MonitorOptions, train_or_reuse
from .numerics import training_numerics
from .plan import RESIDUAL, Job, Plan, make_denoiser
from .preview import preview_bytes
from .start import robust_keeps, starting_edits, text_weights

log = logging.getLogger("esd")


@dataclass(frozen=True)
class Erased:
    """What a run gives: the erased MODEL, its weights, the loss of every step, and how many network passes it took."""

    model: Any
    weights: Erasure
    losses: list[float]
    passes: int = 0

    @property
    def curves(self) -> dict[str, list[float]]:
        """What the losses output holds: the loss of every step, and the worst residual of every check.

        Where the closed-form start was enough there is no loss: the residual stands for it, from 1 in the MODEL.
        """
        residual = json.loads(self.weights.metadata.get(RESIDUAL, "{}")).get("worst", [])
        return {"loss": self.losses or [1.0, *residual], **({"residual": residual} if residual else {})}


def erase_model(
    model: Any,
    clip: Any,
    concepts: Sequence[Concept],
    keeps: Sequence[Keep],
    settings: Settings,
    base: Path | None = None,
    monitor: MonitorOptions | None = None,
    on_step: StepCallback = lambda step: False,
) -> Erased:
    """Erase the concepts from a clone of the MODEL; raises EsdError before any training where it can know.

    With `monitor` the run is shown on a node and kept on the disk; without, `on_step` hears of every step instead.
    """
    concepts, settings = settled(concepts, sized(settings, base))
    plan = make_plan(model, settings)
    with translate_oom("the prompts were encoded", "close other programs, then queue again"):
        prompts, guidance = prompts_of(concepts, keeps), guidance_of(plan.settings)
        conditions = encode(plan.host, clip, prompts, plan.latent_shape, plan.device, guidance)
        if plan.settings.robustness != OFF:
            keeps = [*keeps, robust_keeps(plan, clip, conditions, concepts, keeps)]
            more = [prompt for prompt in prompts_of(concepts, keeps) if prompt not in conditions]
            conditions |= encode(plan.host, clip, more, plan.latent_shape, plan.device, guidance)
        start = starting_edits(plan, clip, conditions, concepts, keeps)
    plan = fitted(plan, conditions, keeps, monitor.vae if monitor and monitor.preview_every else None)
    progress = Progress(planned_passes(plan.settings, concepts, keeps), monitor.node if monitor else None)
    exact = training_numerics(plan.settings.deterministic)
    with translate_oom("training", LOWER_MEMORY_HINT), torch.inference_mode(False), training_mode(), exact:
        gauge = Gauge(plan.device)
        denoiser = make_denoiser(plan, progress.advance, start.edits)
        job = Job(plan, conditions, concepts, keeps, base, denoiser, progress, gauge, start.without_styles)
        with streaming(denoiser.network, plan.offload.streamed, plan.device):
            weights, losses = train_or_reuse(job, monitor) if monitor else _train_headless(job, on_step)
    taken = "" if gauge.peak is None else f", {gb(gauge.peak)} taken where {gb(plan.need.total)} were estimated"
    log.info("ESD: %d steps, %d network passes%s", len(losses), progress.done, taken)
    return Erased(apply(model, weights, 1.0), weights, losses, progress.done)


def _train_headless(job: Job, on_step: StepCallback) -> tuple[Erasure, list[float]]:
    origin = origin_of(job.base)
    training = job.train(on_step=on_step)
    return job.weights(origin, training), training.losses


def make_plan(model: Any, settings: Settings) -> Plan:
    """Check the MODEL and the settings, and choose what is left to choose."""
    host = as_host_model(model)
    restore_injected_layers(model)
    if host.is_quantised:  # such weights are shared as they are, and not asked of the host one by one
        restore_own_weights(model)
    require_own_network(host)
    check(settings)
    settings = replace(settings, guidance_scale=settings.guidance_scale or host.family.guidance_scale)
    dtype = _dtype(settings.precision, host)
    latent = host.latent_shape(settings.width, settings.height)
    if not settings.rank:
        require_plain_weights(model, "training them", _PLAIN)
    weights = weights_of(host.network)
    names = select(settings.method, weights, host.family.layer_names)
    names = low_rank_names(settings, names, weights) if settings.rank else names
    begun = host.family.layer_names.begun_too(names, weights) if settings.closed_form else []
    names = [*names, *begun]
    require_visible(host, names)
    settings = replace(settings, closed_form=settings.closed_form and bool(text_weights(host, names)))
    rows = row_slices(settings.method, weights, host.family.layer_names)
    checkpointing = settings.gradient_checkpointing == "on"
    rows = {name: rows[name] for name in names if name in rows}
    return Plan(host, settings, names, latent, host.device, dtype, checkpointing, rows=rows, begun=begun)


_PLAIN = "load the fp16, bf16 or fp32 file (weight_dtype default), or set rank to 16 in Erase Settings."


def guidance_of(settings: Settings) -> Guidance:
    """Return the embedded guidance that the settings ask for; other networks have no such input."""
    return Guidance(settings.guidance_scale, settings.training_guidance)


def low_rank_names(settings: Settings, names: Sequence[str], weights: Sequence[ParameterInfo]) -> list[str]:
    """Return the matrices of Linear layers among the selected weights: biases have no low rank and stay frozen."""
    kinds = {weight.name: weight.kind for weight in weights}
    others = [name for name in names if kinds[name] != "linear"]
    if others:
        raise EsdError(
            f'rank {settings.rank} trains Linear layers alone, and "{settings.method}" has {len(others)} other weights '
            f"such as {others[0]}: choose esd-x, or set rank to 0."
        )
    return [name for name in names if name.endswith(".weight")]


def fitted(plan: Plan, conditions: Mapping[str, Condition], keeps: Sequence[Keep], vae: Any = None) -> Plan:
    """Return the plan with the memory that it needs, for which room is made; raise EsdError where that is not enough.

    Recomputes activations where that is left to choose and memory asks for it, and then lets blocks visit the device.
    """
    longest = max(conditions.values(), key=lambda each: sum(t.numel() for t in each.tensors.values()))
    on = stage(plan.host, plan.student, plan.latent_shape, plan.device, plan.dtype, longest)
    preview = preview_bytes(vae, plan.latent_shape, plan.device)
    choices = (False, True) if plan.settings.gradient_checkpointing == "auto" else (plan.gradient_checkpointing,)
    if plan.host.is_quantised:  # else backward keeps every weight that a layer has made plain
        choices = choices[-1:]
    for gradient_checkpointing in choices:
        need = estimate(on, plan.settings, plan.device, gradient_checkpointing, together_of(plan.settings, keeps))
        need = replace(need, activations=need.activations + cast_bytes(plan.host, plan.dtype), preview=preview)
        need, free = with_room(need, plan.host, plan.device, plan.dtype)
        if need.total <= free:
            break
    offload = Offload()
    if need.total > free and gradient_checkpointing and has_memory_of_its_own(plan.device):
        need, free, offload = with_streaming(need, plan.host, plan.device, plan.dtype)
    log.info("ESD: %s trains %d tensors; memory needed: %s", plan.settings.method, plan.trained, need)
    ensure_free(need, free, plan.device)
    if offload.streamed:
        log.info("ESD: %s", offload)
    return replace(plan, gradient_checkpointing=gradient_checkpointing, need=need, offload=offload)


def _dtype(precision: str, host: HostModel) -> torch.dtype:
    """Return the network's compute precision; the trained weights and the loss are float32 in any case.

    A float16 MODEL trains in float16 with a scaled loss where the device computes in it: of all half precisions that
    comes nearest to float32 (lab/bench/precision.py), and the MODEL's loaded weights need not be copied.
    """
    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision in named:
        return named[precision]
    stored, device = host.computing_dtype, host.device
    if stored is torch.float16 and compute_dtype(stored, device) is not stored:
        return torch.bfloat16 if comfy.model_management.should_use_bf16(device) else torch.float32
    return stored
