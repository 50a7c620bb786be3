"""Pictures of several prompts from one MODEL or more, as the stock KSampler draws them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ....esd.errors import EsdError
from ..families import latent_of
from ..parts import require_parts
from ..progress import Progress

BATCH = 8
"""Pictures drawn at once."""

SEEDS = 2**64


@dataclass(frozen=True)
class SamplerChoice:
    """The widgets of a KSampler."""

    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    width: int
    height: int


@dataclass(frozen=True)
class Sample:
    """One picture: its prompt, and the seed of its noise."""

    prompt: str
    seed: int


def samples_of(prompts: Sequence[str], first_seed: int, seeds_per_prompt: int = 1) -> list[Sample]:
    """Every prompt with its seeds: they count on from picture to picture, so that no two share their noise."""
    repeated = [prompt for prompt in prompts for _ in range(seeds_per_prompt)]
    return [Sample(prompt, (first_seed + i) % SEEDS) for i, prompt in enumerate(repeated)]


def draw(model: Any, clip: Any, vae: Any, prompts: Sequence[str], choice: SamplerChoice) -> Tensor:
    """One picture a prompt, "b h w c" in 0 ... 1; prompt i starts from the noise of seed + i."""
    return draw_rows({"": model}, clip, vae, samples_of(prompts, choice.seed), choice)[""]


def draw_rows(
    models: Mapping[str, Any], clip: Any, vae: Any, samples: Sequence[Sample], choice: SamplerChoice
) -> dict[str, Tensor]:
    """Draw the same pictures from each model, "b h w c" in 0 ... 1 by label; a model that occurs twice draws once."""
    require_parts(clip, vae)
    conditions = encode_prompts(clip, ["", *(s.prompt for s in samples)])
    distinct = {id(model): model for model in models.values()}
    progress = Progress(len(distinct) * len(samples) * choice.steps)
    drawn = {key: _draw_one(model, vae, conditions, samples, choice, progress) for key, model in distinct.items()}
    return {label: drawn[id(model)] for label, model in models.items()}


def _draw_one(
    model: Any,
    vae: Any,
    conditions: Mapping[str, Any],
    samples: Sequence[Sample],
    choice: SamplerChoice,
    progress: Progress,
) -> Tensor:
    batches = _batches(samples, conditions)
    return torch.cat([draw_batch(model, vae, conditions, batch, choice, progress) for batch in batches])


def draw_batch(
    model: Any,
    vae: Any,
    conditions: Mapping[str, Any],
    samples: Sequence[Sample],
    choice: SamplerChoice,
    progress: Progress,
    negative: str = "",
) -> Tensor:
    """Draw pictures in one batch, "b h w c" in 0 ... 1; their encoded prompts have equally many tokens."""
    shape = latent_of(model, choice.width, choice.height)
    report = partial(_report, progress, len(samples))
    pictures: Tensor = vae.decode(_sample(model, conditions, samples, choice, shape, report, negative))
    return pictures


def _batches(samples: Sequence[Sample], conditions: Mapping[str, Any]) -> Iterator[Sequence[Sample]]:
    """Shots that follow each other and whose prompts have equally many tokens, at most BATCH of them."""
    for _, alike in groupby(samples, lambda sample: conditions[sample.prompt][0][0].shape[1]):
        batch = list(alike)
        yield from (batch[first : first + BATCH] for first in range(0, len(batch), BATCH))


def _report(progress: Progress, pictures: int, *step: object) -> None:
    progress.advance(pictures)


def encode_prompts(clip: Any, prompts: Sequence[str]) -> dict[str, Any]:
    """Return the host's conditioning of each prompt, each encoded once."""
    return {prompt: clip.encode_from_tokens_scheduled(clip.tokenize(prompt)) for prompt in dict.fromkeys(prompts)}


def _sample(
    model: Any,
    conditions: Mapping[str, Any],
    samples: Sequence[Sample],
    choice: SamplerChoice,
    shape: tuple[int, ...],
    callback: Callable[..., None],
    negative: str,
) -> Tensor:
    empty = torch.zeros((len(samples), *shape))
    noise = torch.cat([comfy.sample.prepare_noise(empty[:1], sample.seed) for sample in samples])
    positive = _batched([conditions[sample.prompt] for sample in samples])
    latents: Tensor = comfy.sample.sample(
        model,
        noise,
        choice.steps,
        choice.cfg,
        choice.sampler_name,
        choice.scheduler,
        positive,
        conditions[negative],
        empty,
        callback=callback,
        disable_pbar=True,
        seed=choice.seed,
    )
    return latents


def _batched(conditions: list[list[Any]]) -> list[Any]:
    """One conditioning whose tensors are "b ...", a row a picture; the host then runs them in one batch."""
    extra = dict(conditions[0][0][1])
    if isinstance(extra.get("pooled_output"), Tensor):
        extra["pooled_output"] = torch.cat([c[0][1]["pooled_output"] for c in conditions])
    return [[torch.cat([c[0][0] for c in conditions]), extra]]


def prompt_lines(text: str) -> list[str]:
    """One prompt a line, blank lines skipped."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise EsdError("There are no prompts to draw: write one prompt a line.")
    return lines


def samplers() -> list[str]:
    """Return the sampler names of KSampler."""
    return list(comfy.samplers.KSampler.SAMPLERS)


def schedulers() -> list[str]:
    """Return the scheduler names of KSampler."""
    return list(comfy.samplers.KSampler.SCHEDULERS)
