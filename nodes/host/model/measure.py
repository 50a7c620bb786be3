"""A MODEL measured against its base by what the two predict: no picture, no judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ....esd.concepts import Concept, Keep, prompts_of
from ....esd.errors import EsdError
from ....esd.evaluate.in_model import Measured, measure
from ....esd.random_streams import MEASURING, stream_generator
from ....esd.residual import LEVELS, as_spec, hold_out
from ....esd.settings import Settings
from ..progress import Progress
from .conditioning import encode
from .host_model import HostModel, as_host_model
from .oom import translate_oom
from .pair import PairDenoiser, frozen_denoiser, require_pair

PASSES = 2 * LEVELS + 4 * LEVELS
"""Of one trajectory: sampling it, and asking both MODELs there."""


@dataclass(frozen=True)
class MeasureChoice:
    """How many trajectories a prompt has, their steps and first seed, and the picture's size (0: the family's own)."""

    trajectories: int
    steps: int
    seed: int
    width: int
    height: int


def is_guided(model: Any, base: Any) -> bool:
    """Whether a MODEL has functions in its sampling that its base has not."""
    return any(
        len(model.model_options.get(kind, ())) > len(base.model_options.get(kind, ()))
        for kind in ("sampler_pre_cfg_function", "sampler_post_cfg_function")
    ) or ("sampler_cfg_function" in model.model_options and "sampler_cfg_function" not in base.model_options)


def compared(model: Any, base: Any) -> tuple[HostModel, HostModel]:
    """Return the base and the MODEL, in this order; raise EsdError where their predictions do not compare."""
    hosts = as_host_model(base), as_host_model(model)
    require_pair(*hosts)
    if is_guided(model, base):
        raise EsdError(
            "This MODEL is guided while it samples, which its predictions alone do not show: connect the MODEL from "
            "before that node, or judge pictures with Evaluate."
        )
    return hosts


@dataclass(frozen=True)
class InModel:
    """The figures of every concept and of every keep prompt."""

    concepts: tuple[Measured, ...]
    keeps: tuple[Measured, ...]


def measure_models(
    model: Any, base: Any, clip: Any, concepts: Sequence[Concept], keeps: Sequence[Keep], choice: MeasureChoice
) -> InModel:
    """Measure a MODEL against its base on trajectories of the base; raise EsdError where the two do not compare."""
    hosts = compared(model, base)
    latent = hosts[0].latent_shape(choice.width, choice.height)
    kept = list(dict.fromkeys(prompt for keep in keeps for prompt in keep.prompts))
    shown = list(dict.fromkeys(concept.student_prompt for concept in concepts))
    progress = Progress(len([*shown, *kept]) * choice.trajectories * PASSES)
    with translate_oom("the MODELs were measured", "choose a smaller width and height"):
        conditions = encode(hosts[0], clip, prompts_of(concepts, keeps), latent, hosts[0].device)
        with torch.inference_mode(False), torch.no_grad():
            both = [frozen_denoiser(host, latent, choice.steps, progress.advance) for host in hosts]
            pair = PairDenoiser(*both)
            settings = Settings(
                seed=choice.seed,
                num_inference_steps=choice.steps,
                guidance_scale=hosts[0].family.guidance_scale,
            )

            def of(prompt: str) -> Measured:
                seeds = range(choice.seed, choice.seed + choice.trajectories)
                draws = [stream_generator(seed, MEASURING) for seed in seeds]
                held = [hold_out(pair, conditions, [as_spec(prompt)], settings, each)[0] for each in draws]
                return measure(pair, conditions, held)

            return InModel(tuple(map(of, shown)), tuple(map(of, kept)))
