"""Pictures of a prompt set from a base and an erased MODEL, same noise for both, and what a judge says of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ....esd.errors import EsdError
from ....esd.evaluate.judge import Judge
from ....esd.evaluate.metrics import Score
from ....esd.evaluate.prompt_set import PromptRow, PromptSet
from ..families import spatial_ratio
from ..model.oom import translate_oom
from ..parts import require_parts
from ..progress import Progress
from .sampling import BATCH, SEEDS, Sample, SamplerChoice, draw_batch, encode_prompts

CHUNK = 32
"""Pictures that are drawn before they are judged: judge and MODEL then change places in memory less often."""

KEPT_PICTURES = 64
"""Of each role, for the report: the first so many."""

DETERMINISTIC = frozenset(
    ("euler", "heun", "heunpp2", "dpm_2", "lms", "dpmpp_2m", "ddim", "uni_pc", "uni_pc_bh2", "ipndm", "ipndm_v", "deis")
)
"""Samplers whose steps draw no noise and look at each picture alone: the others draw one picture at a time."""

BASE, ERASED_MODEL = "base", "erased"


@dataclass(frozen=True)
class Shot:
    """One picture of a row: its seed, and how it is drawn."""

    row: PromptRow
    seed: int
    choice: SamplerChoice


@dataclass(frozen=True)
class KeptPicture:
    """A picture "h w 3" in bytes, with what was said of it."""

    score: Score
    picture: Tensor


@dataclass(frozen=True)
class Drawn:
    """The scores of each MODEL, in one order, and the pictures that are kept for the report."""

    scores: Mapping[str, tuple[Score, ...]]
    pictures: Mapping[str, tuple[KeptPicture, ...]]


def shots_of(prompts: PromptSet, samples: int, choice: SamplerChoice) -> list[Shot]:
    """Return every picture of a set: a row's own seed, guidance and size count before the node's.

    Seeds of a row count on from its own; rows without one count on from the node's, so that no two share their noise.
    """
    shots: list[Shot] = []
    free = 0
    for row in prompts.drawn:
        count = row.samples * samples
        first = row.seed if row.seed is not None else choice.seed + free
        free += count if row.seed is None else 0
        own = replace(
            choice,
            cfg=choice.cfg if row.guidance is None else row.guidance,
            width=row.width or choice.width,
            height=row.height or choice.height,
        )
        shots += [Shot(row, (first + i) % SEEDS, own) for i in range(count)]
    return shots


def evaluate(
    base: Any, erased: Any, clip: Any, vae: Any, shots: Sequence[Shot], labels: Sequence[str], judge: Judge
) -> Drawn:
    """Draw all shots from both MODELs and judge them; raise EsdError before anything is drawn where it can be known.

    Shots that are drawn alike go together, so the scores are not in the order of the rows, but in one for both MODELs.
    """
    require_parts(clip, vae)
    judge.check(labels, {(shot.choice.width, shot.choice.height) for shot in shots})
    for model in (base, erased):
        _require_sizes(model, shots)
    shots = sorted(shots, key=lambda shot: (shot.choice.cfg, shot.choice.width, shot.choice.height, shot.row.negative))
    progress = Progress(2 * sum(shot.choice.steps for shot in shots))
    scores: dict[str, tuple[Score, ...]] = {}
    pictures: dict[str, tuple[KeptPicture, ...]] = {}
    with translate_oom("pictures were drawn", "choose a smaller width and height"):
        for name, model in ((BASE, base), (ERASED_MODEL, erased)):
            made = list(_judged(name, model, clip, vae, shots, labels, judge, progress))
            scores[name] = tuple(score for score, _ in made)
            pictures[name] = tuple(KeptPicture(score, picture) for score, picture in made if picture is not None)
    return Drawn(scores, pictures)


def _require_sizes(model: Any, shots: Sequence[Shot]) -> None:
    ratio = spatial_ratio(model)
    for shot in shots:
        if shot.choice.width % ratio or shot.choice.height % ratio:
            raise EsdError(
                f"The size {shot.choice.width} x {shot.choice.height} of row {shot.row.case:.40} does not fit this "
                f"MODEL: both must be multiples of {ratio}."
            )


def _judged(
    name: str,
    model: Any,
    clip: Any,
    vae: Any,
    shots: Sequence[Shot],
    labels: Sequence[str],
    judge: Judge,
    progress: Progress,
) -> Iterator[tuple[Score, Tensor | None]]:
    """Yield each shot's score, and its picture where it is kept."""
    kept: dict[str, int] = {}
    for chunk in _runs(shots, _drawing, CHUNK):
        pictures = _draw(model, clip, vae, chunk, progress)
        verdicts = judge.judge(pictures, labels)
        for i, shot in enumerate(chunk):
            row, place = shot.row, verdicts.labels.index(shot.row.label)
            figures = float(verdicts.scores[i, place]), bool(verdicts.found[i, place])
            score = Score(
                name, row.case, row.prompt, row.role, row.label, shot.seed, verdicts.answers[i][place], *figures
            )
            kept[row.role] = kept.get(row.role, 0) + 1
            yield score, _bytes(pictures[i]) if kept[row.role] <= KEPT_PICTURES else None


def _draw(model: Any, clip: Any, vae: Any, shots: Sequence[Shot], progress: Progress) -> Tensor:
    """Draw shots that are drawn alike, in batches where that changes no picture."""
    choice, negative = _drawing(shots[0])
    conditions = encode_prompts(clip, [negative, *(shot.row.prompt for shot in shots)])
    most = BATCH if choice.sampler_name in DETERMINISTIC else 1
    parts = []
    for batch in _runs(shots, lambda shot: conditions[shot.row.prompt][0][0].shape[1], most):
        samples = [Sample(shot.row.prompt, shot.seed) for shot in batch]
        seeded = replace(choice, seed=samples[0].seed)  # what a sampler's own noise starts from
        parts.append(draw_batch(model, vae, conditions, samples, seeded, progress, negative))
    return torch.cat(parts)[..., :3]


def _drawing(shot: Shot) -> tuple[SamplerChoice, str]:
    return shot.choice, shot.row.negative


def _runs(shots: Sequence[Shot], key: Callable[[Shot], object], most: int) -> Iterator[list[Shot]]:
    """Shots that follow each other with one key, at most so many of them."""
    for _, alike in groupby(shots, key):
        run = list(alike)
        yield from (run[first : first + most] for first in range(0, len(run), most))


def _bytes(picture: Tensor) -> Tensor:
    return (picture.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
