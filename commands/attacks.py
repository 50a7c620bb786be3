"""The table of attacks: how easily what an eraser took away comes back (standard library only)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from . import arms

Json = dict[str, Any]

TABLE = "attack"
HEAD = ("concept", "eraser", "own residual", "under attack", "control")


@dataclass(frozen=True)
class Line:
    """What ESD Attack reports of one concept in one MODEL."""

    concept: str
    eraser: str
    comeback: Mapping[str, Any]

    def as_json(self) -> Json:
        """All of it."""
        return asdict(self)

    @property
    def cells(self) -> list[str]:
        """Return the line's words: residuals, and in how many pictures of each kind the concept is found."""
        spreads = [_spread(self.comeback[name]) for name in ("own", "attacked", "control")]
        rates = [f"{rate['found']} of {rate['n']}" for _, rate in self.comeback["found"]]
        return [self.concept, self.eraser, *spreads, *rates]


def _spread(spread: Mapping[str, float]) -> str:
    return f"{spread['mean']:.2f} ({spread['low']:.2f} to {spread['high']:.2f})"


def add(studio: arms.Studio, arm: arms.Made, judge: list[Any], sampling: Json, pictures: int, name: str) -> None:
    """Add the attack on what an eraser made; its report goes through a file in the output folder."""
    links = {"model": arm.model, "base_model": studio.model, "clip": studio.clip, "vae": studio.vae, "judge": judge}
    concept = studio.prompt.get("concept")
    wanted = {name: sampling[name] for name in ("steps", "cfg", "width", "height")}
    studio.add(
        "attack", "ESDAttack", concepts=["concept", 0] if concept else studio.concepts(), pictures=pictures,
        file_name=name, **links, **wanted,
    )  # fmt: skip


def row(line: Line) -> str:
    """Return one line of the table, as soon as it is there."""
    return "| " + " | ".join(line.cells) + " |"


def screen(title: str, judge: str, lines: Sequence[Line]) -> str:
    """Return the table as Markdown, with what it is of."""
    ways = [how for how, _ in lines[0].comeback["found"]] if lines else []
    head = [*HEAD, *(f"found: {how}" for how in ways)]
    about = f"{title}. Residuals: the mean of held-out trajectories (lowest to highest). Judge: {judge}."
    rule = "| " + " | ".join(["---"] * len(head)) + " |"
    return "\n".join([about, "", "| " + " | ".join(head) + " |", rule, *map(row, lines)])
