"""What a file of jobs asks for, checked: models, concepts, settings, keeps, evaluation, formats and resources."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from esd_pack.esd.concepts import Concept, Keep, make_concept, make_keep
from esd_pack.esd.contexts import make_rules, with_contexts
from esd_pack.esd.errors import EsdError
from esd_pack.esd.merge import DEFAULT as DEFAULT_MERGE
from esd_pack.esd.presets import PRESETS
from esd_pack.esd.settings import Settings, check

from . import schema
from .lines import Document, Where, read

T = TypeVar("T")
Json = dict[str, Any]


@dataclass(frozen=True)
class Contexts:
    """The inputs of ESD Contexts."""

    kind: str = "auto"
    templates: str = ""
    carriers: str = ""


@dataclass(frozen=True)
class Wanted:
    """A concept with the inputs of its nodes, and as the method knows it."""

    concept: str
    erase_from: str = ""
    replace_with: str = ""
    weight: float = 1.0
    group: str = ""
    contexts: Contexts | None = None

    @property
    def words(self) -> str:
        """What a prompt says of it."""
        return self.erase_from or self.concept

    def made(self) -> Concept:
        """Return the checked concept."""
        concept = make_concept(self.concept, self.erase_from, self.replace_with, self.weight)
        rules = self.contexts
        return with_contexts(concept, make_rules(rules.kind, rules.templates, rules.carriers)) if rules else concept


@dataclass(frozen=True)
class Variant:
    """Settings with a name."""

    name: str
    settings: Settings


@dataclass(frozen=True)
class Evaluation:
    """The inputs of ESD Prompt Set and ESD Evaluate."""

    judge: str = schema.JUDGES[0]
    erased: tuple[str, ...] = ("[concept]",)
    kept: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()
    samples: int = 4
    seed: int = 0
    steps: int = 20
    cfg: float = 7.5
    sampler_name: str = "euler"
    scheduler: str = "normal"
    width: int = 512
    height: int = 512
    in_model: bool = True


@dataclass(frozen=True)
class Resources:
    """What a worker takes of a Ray cluster, and how it gets the base files."""

    gpus: float = 1
    cpus: float = 1
    memory_gb: float = 0
    base_files: str = schema.PATH
    largest_gb: float = 8


@dataclass(frozen=True)
class Batch:
    """The whole file."""

    name: str
    models: tuple[str, ...]
    groups: tuple[tuple[Wanted, ...], ...]
    """What each result lacks."""
    by: str
    merge: str
    variants: tuple[Variant, ...]
    keeps: tuple[Keep, ...]
    evaluation: Evaluation | None
    save: tuple[str, ...]
    results: str
    resources: Resources


def load(path: Path) -> Batch:
    """Read and check a file of jobs; raise EsdError with line and cure."""
    return from_document(read(path))


def from_document(document: Document) -> Batch:
    """Check what has been read."""
    schema.check(document, schema.jobs_schema())
    data: Json = document.data
    wanted = [_concept(document, place) for place in range(len(data["concepts"]))]
    together = data.get("together", schema.EACH)
    evaluation = _evaluation(document, data["evaluate"]) if "evaluate" in data else None
    return Batch(
        data.get("name", Path(document.name).stem),
        _distinct(document, "models"),
        tuple(_groups(document, wanted, together)),
        data.get("by", schema.DEFAULT_BY),
        data.get("merge", DEFAULT_MERGE),
        _variants(document),
        tuple(_keep(document, place) for place in range(len(data.get("keep", ())))),
        evaluation,
        _distinct(document, "save") or ("difference",),
        data.get("results", ""),
        Resources(**data.get("ray", {})),
    )


def _distinct(document: Document, key: str) -> tuple[str, ...]:
    found = document.data.get(key, ())
    for place, each in enumerate(found):
        if each in found[:place]:
            raise document.error((key, place), f'"{each:.100}" stands there twice: keep one of them.')
    return tuple(found)


def _at(document: Document, where: Where, make: Callable[[], T]) -> T:
    """Let the method check; what it says gets the line."""
    try:
        return make()
    except EsdError as error:
        raise document.error(where, str(error)) from error


def _concept(document: Document, place: int) -> Wanted:
    given, where = document.data["concepts"][place], ("concepts", place)
    given = {"concept": given} if isinstance(given, str) else dict(given)
    contexts = given.pop("contexts", document.data.get("contexts"))
    wanted = Wanted(**given, contexts=_contexts(contexts) if contexts else None)
    _at(document, where, wanted.made)
    return wanted


def _contexts(given: Json) -> Contexts:
    lines = {name: "\n".join(given.get(name, ())) for name in ("templates", "carriers")}
    return Contexts(given.get("kind", "auto"), **lines)


def _groups(document: Document, wanted: list[Wanted], together: str) -> Iterator[tuple[Wanted, ...]]:
    for place, each in enumerate(wanted):
        if (together == schema.GROUPS) != bool(each.group):
            cure = "add one" if together == schema.GROUPS else "take it away, or write together: groups"
            words = "no group" if together == schema.GROUPS else "a group"
            raise document.error(("concepts", place), f'"{each.concept:.60}" has {words}: {cure}.')
        if each in wanted[:place]:
            raise document.error(("concepts", place), f'"{each.concept:.60}" stands there twice: keep one of them.')
    if together == schema.EACH:
        yield from ((each,) for each in wanted)
    else:
        for group in dict.fromkeys(each.group for each in wanted):
            yield tuple(each for each in wanted if each.group == group)


def _variants(document: Document) -> tuple[Variant, ...]:
    given = document.data.get("settings", [{}])
    several = isinstance(given, list)
    made: list[Variant] = []
    for place, each in enumerate(given if several else [given]):
        where: Where = ("settings", place) if several else ("settings",)
        variant = _variant(each, f"settings {place + 1}" if several and len(given) > 1 else "")
        if variant.name in [other.name for other in made]:
            raise document.error(where, f'Two settings are called "{variant.name}": give each a name of its own.')
        _at(document, where, lambda checked=variant.settings: check(checked))  # type: ignore[misc]
        made.append(variant)
    return tuple(made)


def _variant(given: Json, name: str) -> Variant:
    """Return settings: what is written counts before what the preset says."""
    values = {key: value for key, value in given.items() if key not in ("name", "preset")}
    return Variant(given.get("name", name), Settings(**{**PRESETS.get(given.get("preset", ""), {}), **values}))


def _keep(document: Document, place: int) -> Keep:
    given = document.data["keep"][place]
    given = {"prompts": [given]} if isinstance(given, str) else given
    return _at(
        document, ("keep", place), lambda: make_keep("\n".join(given["prompts"]), float(given.get("weight", 1.0)))
    )


def _evaluation(document: Document, given: Mapping[str, Any]) -> Evaluation:
    tuples = {field.name: tuple(given[field.name]) for field in fields(Evaluation) if _is_list(given, field.name)}
    for place, each in enumerate(tuples.get("erased", ())):
        if "[concept]" not in each:
            raise document.error(
                ("evaluate", "erased", place), f'"{each:.60}" does not say where the concept goes: write [concept].'
            )
    return Evaluation(**{**given, **tuples})


def _is_list(given: Mapping[str, Any], name: str) -> bool:
    return isinstance(given.get(name), list)
