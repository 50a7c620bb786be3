"""Scores out of a report, by the cells of a table; and the table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from . import inprocess
from .playground.world import Judged
from .tables import CELLS, Prompt

if TYPE_CHECKING:
    from .playground.judge import Verdict

Json = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """An eraser of a concept: found before and after by cell, seconds a picture, and what a saved file still does."""

    concept: str
    eraser: str
    cells: Mapping[str, Json]
    seconds: float | None
    saved: Json | None

    def as_json(self) -> Json:
        """All of it."""
        return asdict(self)


def cells_of(report: Json, prompts: Sequence[Prompt]) -> dict[str, Json]:
    """Return found rates and McNemar's test of each cell from a report's scores, which name their prompts."""
    inprocess.as_package()
    from esd_pack.esd.evaluate.metrics import Score, changes

    cell_of = {(prompt.words, prompt.label): prompt.cell for prompt in prompts}
    scores = [Score(**{**each, "role": cell_of[each["prompt"], each["label"]]}) for each in report["scores"]]
    half = len(scores) // 2
    return {change.role: asdict(change) for change in changes(scores[:half], scores[half:])}


def counted(groups: Mapping[str, Sequence[Judged]], before: Verdict, after: Verdict) -> dict[str, Any]:
    """Return what changed in each group of expected names from the verdicts on all of them, one after the other."""
    inprocess.as_package()
    from esd_pack.esd.evaluate.metrics import Score, changes

    rows = [(role, judged) for role, group in groups.items() for judged in group]
    arms = []
    for verdict in (before, after):
        said = [verdict.names(judged.head)[i] for i, (_, judged) in enumerate(rows)]
        arms.append(
            [
                Score("", str(i), judged.prompt, role, judged.name, i, answer, 1.0, answer == judged.name)
                for i, ((role, judged), answer) in enumerate(zip(rows, said, strict=True))
            ]
        )
    return {change.role: change for change in changes(*arms)}


def seconds_of(report: Json) -> float | None:
    """Return the seconds of a new picture of the erased MODEL; None where all were kept from an earlier run."""
    return dict(report["seconds"]).get("erased")


def screen(title: str, judge: str, lines: Sequence[Line], note: str) -> str:
    """Return the table as Markdown, with what it is of."""
    shown = [cell for cell in CELLS if any(cell in line.cells for line in lines)]
    head = ["concept", "eraser", *shown, "s a picture", "in a saved checkpoint"]
    cells = [head, ["---"] * len(head), *(_row(line, shown) for line in lines)]
    about = [f"{title}. Found before > after (95 % interval after).", f"Judge: {judge}."]
    return "\n".join([*about, *([note] if note else []), "", *map(_joined, cells)])


def row(line: Line) -> str:
    """Return one line of the table, as soon as it is there."""
    return _joined(_row(line, CELLS))


def _joined(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _row(line: Line, shown: Sequence[str]) -> list[str]:
    seconds = "" if line.seconds is None else f"{line.seconds:.2f}"
    saved = "" if line.saved is None else _found(line.saved)
    return [line.concept, line.eraser, *(_cell(line.cells.get(cell)) for cell in shown), seconds, saved]


def _cell(change: Json | None) -> str:
    return f"{change['before']['found']} > {_found(change['after'])}" if change else ""


def _found(rate: Json) -> str:
    low, high = (100 * rate["interval"][end] for end in ("low", "high"))
    return f"{rate['found']} of {rate['n']} ({low:.0f} to {high:.0f} %)"
