"""The tables of lab/bench/quality.json in docs/quality.md, each between two comments that name it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FILES = (ROOT / "docs" / "quality.md",)
HEAD = """| task | change from the defaults | erased | neighbours | rest | unseen prompts, or the replacement |
|---|---|---|---|---|---|
"""
Row = dict[str, Any]


def _changes(row: Row) -> int:
    return len(row["change"])


CHOSEN: dict[str, Callable[[Row], bool]] = {
    "one change": lambda row: _changes(row) < 2,
    "crossed": lambda row: _changes(row) > 1,
}
"""Name of a table: which rows it has."""


def table(rows: list[Row]) -> str:
    """Rows as Markdown, tasks in the order in which they first come."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    return HEAD + "".join(_line(row) for row in sorted(rows, key=lambda row: tasks.index(row["task"])))


def _line(row: Row) -> str:
    change = ", ".join(f"{name} {_value(value)}" for name, value in row["change"].items()) or "none"
    rates = [_rate(row.get(name)) for name in ("erased", "neighbours", "rest")]
    return f"| {' | '.join([row['task'], change, *rates, _rate(row.get('unseen') or row.get('replaced'))])} |\n"


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _rate(rate: dict[str, Any] | None) -> str:
    return f"{rate['before']:.0%} > {rate['after']:.0%} ({rate['n']})" if rate else ""


def filled(text: str, rows: list[Row]) -> str:
    """A text with the tables that it names put in anew."""
    for name, belongs in CHOSEN.items():
        begin, end = f"<!-- table: {name} -->\n", f"<!-- end of table: {name} -->"
        if begin in text:
            before, rest = text.split(begin)
            text = before + begin + table([row for row in rows if belongs(row)]) + end + rest.split(end)[1]
    return text
