"""The jobs of a batch: models x what is erased x settings, each with its key and its graph."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from esd_pack.esd.passes import planned_passes
from esd_pack.esd.settings import OFF, Settings
from esd_pack.esd.until_gone import settled

from .graphs import Ending, Graph, erased_lines, merging_graph, training_graph
from .schema import MERGING
from .spec import Batch, Evaluation, Variant, Wanted

Json = dict[str, Any]

LAYOUT = 1
"""Counts up when the same file of jobs would give other results."""

INTERMEDIATE = ("difference",)


@dataclass(frozen=True)
class Job:
    """One graph for one host; `needs` are the jobs whose differences it opens."""

    key: str
    name: str
    model: str
    concepts: tuple[str, ...]
    settings: str
    graph: Json
    files: dict[str, str]
    passes: int
    """At most, of the network."""
    needs: tuple[str, ...] = ()
    is_part: bool = False
    """Whether it is only there to be merged."""

    @property
    def title(self) -> str:
        """What people are told of it."""
        words = f"{self.model}: {', '.join(self.concepts)}{f', {self.settings}' if self.settings else ''}"
        return words if len(words) < 100 else f"{words[:96]} ..."


def part_name(key: str) -> str:
    """Return the name under which a host finds the difference of a job that is merged."""
    return f"batch-{key}.safetensors"


def jobs_of(batch: Batch) -> list[Job]:
    """Return every job once, a model's together, parts before what merges them."""
    made: dict[str, Job] = {}
    for model in batch.models:
        of_model = [
            job for variant in batch.variants for group in batch.groups for job in _jobs(batch, model, variant, group)
        ]
        for job in sorted(of_model, key=lambda each: bool(each.needs)):
            made.setdefault(job.key, job)
    return list(made.values())


def _jobs(batch: Batch, model: str, variant: Variant, group: Sequence[Wanted]) -> Iterator[Job]:
    if batch.by != MERGING or len(group) == 1:
        yield _training(batch, model, variant, group, Ending(batch.evaluation, batch.keeps, batch.save))
        return
    parts = [_training(batch, model, variant, [each], Ending(None, (), INTERMEDIATE), True) for each in group]
    yield from parts
    yield _merging(batch, model, variant, group, tuple(part.key for part in parts))


def _training(
    batch: Batch, model: str, variant: Variant, group: Sequence[Wanted], ending: Ending, is_part: bool = False
) -> Job:
    about: dict[str, Any] = {
        "concepts": [asdict(each) for each in group],
        "keeps": [asdict(each) for each in batch.keeps],
    }
    about |= {"settings": _counted(variant.settings), "save": ending.save, "evaluation": _plain(ending.evaluation)}
    key = _key(model, about)
    graph = training_graph(_folder(key), model, group, batch.keeps, variant.settings, ending)
    concepts, settings = settled([each.made() for each in group], variant.settings)
    passes = planned_passes(settings, concepts, batch.keeps) + drawing_passes(group, batch, ending.evaluation)
    return _job(key, model, variant, group, graph, passes, is_part=is_part)


def _merging(batch: Batch, model: str, variant: Variant, group: Sequence[Wanted], needs: tuple[str, ...]) -> Job:
    about: dict[str, Any] = {
        "parts": needs,
        "merge": batch.merge,
        "save": batch.save,
        "evaluation": _plain(batch.evaluation),
    }
    about["kept"] = [asdict(each) for each in batch.keeps]
    key = _key(model, about)
    names = [part_name(each) for each in needs]
    ending = Ending(batch.evaluation, batch.keeps, batch.save)
    graph = merging_graph(_folder(key), model, names, batch.merge, group, ending)
    return _job(key, model, variant, group, graph, drawing_passes(group, batch, batch.evaluation), needs)


def _job(
    key: str,
    model: str,
    variant: Variant,
    group: Sequence[Wanted],
    graph: Graph,
    passes: int,
    needs: tuple[str, ...] = (),
    is_part: bool = False,
) -> Job:
    words = tuple(each.concept for each in group)
    group_name = group[0].group or "-".join(words)
    name = f"{_slug(model.rpartition('.')[0] or model)}-{_slug(group_name)}-{key[:8]}"
    return Job(key, name, model, words, variant.name, graph.nodes, graph.files, passes, needs, is_part)


def _counted(settings: Settings) -> Json:
    """Return the settings by which a job is known; without robustness as before there was any."""
    return {name: value for name, value in asdict(settings).items() if (name, value) != ("robustness", OFF)}


def _plain(evaluation: Evaluation | None) -> Json | None:
    return asdict(evaluation) if evaluation else None


def _key(model: str, about: Json) -> str:
    text = json.dumps({"layout": LAYOUT, "model": model, **about}, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _folder(key: str) -> str:
    return f"esd/batch/{key}"


def _slug(words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:40] or "x"


def drawing_passes(group: Sequence[Wanted], batch: Batch, evaluation: Evaluation | None) -> int:
    """Return the network passes of an evaluation: two models, two predictions a step, and the judge's own."""
    if evaluation is None:
        return 0
    kept = evaluation.kept or [prompt for keep in batch.keeps for prompt in keep.prompts]
    rows = len(erased_lines(group, evaluation)) + len(kept)
    pictures = 2 * rows * evaluation.samples
    answers = 0 if evaluation.judge == "playground" else 3 * (1 + rows + len(evaluation.alternatives))
    return pictures * (2 * evaluation.steps + answers)
