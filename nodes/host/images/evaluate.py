"""Pictures of a prompt set from a base and an erased MODEL, same noise for both, and what a judge says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ....esd.evaluate.judge import Judge
from ....esd.evaluate.kept_rows import Keeper, NoKeeper
from ....esd.evaluate.metrics import Score
from ..model.fingerprint import digest_of
from ..model.oom import translate_oom
from ..parts import require_parts
from ..progress import Progress
from .shots import Shot, in_order, require_sizes, runs
from .studio import Studio, batch_of

CHUNK = 32
"""Pictures that are drawn before they are judged: judge and MODEL then change places in memory less often."""

KEPT_PICTURES = 64
"""Of each role, for the report: the first so many."""

BASE, ERASED_MODEL = "base", "erased"


@dataclass(frozen=True)
class KeptPicture:
    """A picture "h w 3" in bytes, with what was said of it."""

    score: Score
    picture: Tensor


@dataclass(frozen=True)
class Drawn:
    """The scores of each MODEL in one order, pictures for the report, seconds a new picture, and the judge's card."""

    scores: Mapping[str, tuple[Score, ...]]
    pictures: Mapping[str, tuple[KeptPicture, ...]]
    seconds: Mapping[str, float]
    card: str


def evaluate(
    base: Any,
    erased: Any,
    clip: Any,
    vae: Any,
    shots: Sequence[Shot],
    labels: Sequence[str],
    judge: Judge,
    negative: str = "",
    keeper: Keeper | None = None,
) -> Drawn:
    """Draw all shots from both MODELs and judge them; raise EsdError before anything is drawn where it can be known.

    Shots that are drawn alike go together, so the scores are not in the order of the rows, but in one for both MODELs.
    A negative prompt is told to the erased MODEL alone, in the place of the rows' own.
    """
    require_parts(clip, vae)
    judge.check(labels, {(shot.choice.width, shot.choice.height) for shot in shots})
    for model in (base, erased):
        require_sizes(model, shots)
    ordered = in_order(shots)
    progress = Progress(2 * sum(shot.choice.steps for shot in ordered))
    arms = {BASE: (base, ordered), ERASED_MODEL: (erased, [_with_negative(shot, negative) for shot in ordered])}
    studios = {name: Studio(arms[name][0], clip, vae, keeper or NoKeeper(), progress) for name in arms}
    with translate_oom("pictures were drawn", "choose a smaller width and height"):
        ready = judge.ready(labels, studios[BASE].teacher(shots[0].choice))
        made = {name: list(_judged(name, studios[name], arms[name][1], labels, ready)) for name in arms}
    return Drawn(
        {name: tuple(score for score, _ in each) for name, each in made.items()},
        {name: tuple(KeptPicture(s, p) for s, p in each if p is not None) for name, each in made.items()},
        {name: studio.seconds / studio.drawn for name, studio in studios.items() if studio.drawn},
        ready.card,
    )


def _with_negative(shot: Shot, negative: str) -> Shot:
    return replace(shot, row=replace(shot.row, negative=negative)) if negative else shot


def _judged(
    name: str, studio: Studio, shots: Sequence[Shot], labels: Sequence[str], judge: Judge
) -> Iterator[tuple[Score, Tensor | None]]:
    """Yield each shot's score, and its picture where it is one for the report."""
    shown = list(zip(shots, _first_of_each_role(shots), strict=True))
    for chunk in runs(shown, lambda each: each[0].drawing, CHUNK):
        alike, reported = [shot for shot, _ in chunk], [wanted for _, wanted in chunk]
        scores, pictures = _scored(studio, alike, reported, labels, judge)
        for i, shot in enumerate(alike):
            score = replace(scores[i], model=name, case=shot.row.case, role=shot.row.role)
            yield score, pictures[i] if reported[i] else None


def _first_of_each_role(shots: Sequence[Shot]) -> Iterator[bool]:
    seen: dict[str, int] = {}
    for shot in shots:
        seen[shot.row.role] = seen.get(shot.row.role, 0) + 1
        yield seen[shot.row.role] <= KEPT_PICTURES


def _scored(
    studio: Studio, shots: Sequence[Shot], reported: Sequence[bool], labels: Sequence[str], judge: Judge
) -> tuple[dict[int, Score], dict[int, Tensor]]:
    """Return scores, and what pictures were needed, by the place of the shot: new scores, or pictures to report."""
    keys = [_score_key(key, shot, labels, judge) for key, shot in zip(studio.keys(shots), shots, strict=True)]
    found = {i: score for i, key in enumerate(keys) if key and (score := studio.keeper.score(key))}
    needed = [i for i in range(len(shots)) if i not in found or reported[i]]
    studio.progress.advance(shots[0].choice.steps * (len(shots) - len(needed)))
    pictures = dict(zip(needed, studio.pictures([shots[i] for i in needed]), strict=True))
    new = [i for i in needed if i not in found]
    given = _ask(judge, [pictures[i] for i in new], [shots[i] for i in new], labels) if new else []
    for i, score in zip(new, given, strict=True):
        found[i] = score
        if keys[i]:
            studio.keeper.keep_score(keys[i], score)
    return found, pictures


def _score_key(key: str, shot: Shot, labels: Sequence[str], judge: Judge) -> str:
    return digest_of(key, judge.identity, shot.row.label, list(labels)) if key and judge.identity else ""


def _ask(judge: Judge, pictures: Sequence[Tensor], shots: Sequence[Shot], labels: Sequence[str]) -> list[Score]:
    verdicts = judge.judge(batch_of(pictures), labels)
    scores = []
    for i, shot in enumerate(shots):
        row, place = shot.row, verdicts.labels.index(shot.row.label)
        figures = float(verdicts.scores[i, place]), bool(verdicts.found[i, place])
        answer = verdicts.answers[i][place]
        scores.append(Score("", row.case, row.prompt, row.role, row.label, shot.seed, answer, *figures))
    return scores


def draw_all(
    model: Any, clip: Any, vae: Any, shots: Sequence[Shot], keeper: Keeper | None = None
) -> tuple[tuple[Shot, ...], list[Tensor]]:
    """Draw all shots; returns them in the order drawn, and their pictures "h w 3" in bytes."""
    require_parts(clip, vae)
    require_sizes(model, shots)
    ordered = in_order(shots)
    studio = Studio(model, clip, vae, keeper or NoKeeper(), Progress(sum(shot.choice.steps for shot in ordered)))
    with translate_oom("pictures were drawn", "choose a smaller width and height"):
        pictures = [
            p for chunk in runs(ordered, lambda shot: shot.drawing, len(ordered)) for p in studio.pictures(chunk)
        ]
    return tuple(ordered), pictures
