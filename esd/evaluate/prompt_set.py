"""Prompt sets: what is drawn to measure an erasure, read from CSV files as published, or from lines of text."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import EsdError

ERASED, KEPT, ALTERNATIVE = "erased", "kept", "alternative"
ROLES = (ERASED, KEPT, ALTERNATIVE, "control", "attack")
"""What a row is for.  Alternatives are not drawn: they are further answers that a judge may give."""

ALIASES: Mapping[str, tuple[str, ...]] = {
    "case_number": ("case_number",),
    "prompt": ("prompt", "adv_prompt"),
    "role": ("role", "group"),
    "label": ("label", "artist", "class", "label_str", "categories"),
    "seed": ("seed", "evaluation_seed", "sd_seed"),
    "guidance": ("guidance", "evaluation_guidance", "sd_guidance_scale"),
    "width": ("width", "sd_image_width"),
    "height": ("height", "sd_image_height"),
    "negative": ("negative",),
    "samples": ("samples",),
}
"""Columns by the names that published sets give them; the first that a file has counts."""

ARROW = "->"
SEEDS = 2**64
MOST_ROWS, MOST_SAMPLES = 100_000, 1000
SMALLEST_SIDE, LARGEST_SIDE, SIDE_STEP = 16, 16384, 8
MOST_GUIDANCE = 100.0


@dataclass(frozen=True)
class PromptRow:
    """One prompt, and the label that a judge should find in its pictures; sizes in pixels; None is the node's own."""

    case: str
    prompt: str
    role: str
    label: str
    seed: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    negative: str = ""
    samples: int = 1


@dataclass(frozen=True)
class PromptSet:
    """Rows with a name."""

    name: str
    rows: tuple[PromptRow, ...]

    @property
    def drawn(self) -> tuple[PromptRow, ...]:
        """The rows that have pictures."""
        return tuple(row for row in self.rows if row.role != ALTERNATIVE)

    @property
    def labels(self) -> tuple[str, ...]:
        """Every answer that a judge may give, each once."""
        return tuple(dict.fromkeys(row.label for row in self.rows))


def rows_of_lines(text: str, role: str) -> tuple[PromptRow, ...]:
    """One prompt a line, "prompt -> label" where the label has other words; a line may repeat."""
    rows: list[PromptRow] = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        _require_whole(line, f"The {role} prompt {len(rows) + 1}")
        left, arrow, right = (part.strip() for part in line.rpartition(ARROW))
        prompt, label = (left, right) if arrow else (line, line)
        if not (prompt and label):
            raise EsdError(f'The line "{line:.100}" lacks its prompt or its label: write prompt -> label, or a prompt.')
        rows.append(PromptRow(f"{role} {len(rows) + 1}", prompt, role, label))
    return tuple(rows)


def rows_of_csv(data: bytes, name: str, role: str = ERASED) -> tuple[PromptRow, ...]:
    """Read a UTF-8 CSV file with one header row; rows without a role take `role`.

    Raises EsdError, which names row and column, for what cannot be used; rows count from 1 below the header.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EsdError(f'"{name:.100}" is no UTF-8 text (byte {error.start}): save it as CSV UTF-8.') from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns = _columns(reader.fieldnames or (), name)
        cells = list(reader)
    except csv.Error as error:
        raise EsdError(
            f'"{name:.100}" is no CSV file ({error}, line {reader.line_num}): save it as CSV UTF-8.'
        ) from error
    if not 0 < len(cells) <= MOST_ROWS:
        raise EsdError(f'"{name:.100}" has {len(cells)} rows below its header: it needs 1 to {MOST_ROWS}.')
    return tuple(_row(cell, columns, number, role) for number, cell in enumerate(cells, 1))


def selected(rows: Sequence[PromptRow], label_contains: str = "", first: int = 0) -> tuple[PromptRow, ...]:
    """Rows whose label holds the words, whatever their case, and of these the first so many (0: all)."""
    words = label_contains.strip().casefold()
    chosen = [row for row in rows if words in row.label.casefold()]
    if not chosen:
        raise EsdError(
            f'No row has a label with "{label_contains:.100}" in it: write other words, or none for all rows.'
        )
    return tuple(chosen[: first or None])


def with_guidance(rows: Sequence[PromptRow], per_row: bool) -> tuple[PromptRow, ...]:
    """Rows as they are, or all with the node's guidance."""
    return tuple(rows) if per_row else tuple(replace(row, guidance=None) for row in rows)


def prompt_set(name: str, rows: Sequence[PromptRow]) -> PromptSet:
    """Put rows together; raises EsdError where none of them can be drawn."""
    made = PromptSet(name, tuple(rows))
    if not made.drawn:
        raise EsdError("The prompt set has nothing to draw: write prompts for what was erased, or choose a file.")
    return made


def _columns(header: Sequence[str], name: str) -> dict[str, str]:
    """Return the file's name of each column that is known here."""
    there = {column.strip().casefold(): column for column in reversed(header) if column is not None}
    found = {
        ours: next(there[theirs] for theirs in names if theirs in there)
        for ours, names in ALIASES.items()
        if there.keys() & set(names)
    }
    if "prompt" not in found:
        seen = ", ".join(header) or "none"
        raise EsdError(f'"{name:.100}" has no column "prompt", only {seen:.300}: name the column of the prompts so.')
    return found


def _row(cells: Mapping[Any, Any], columns: Mapping[str, str], number: int, role: str) -> PromptRow:
    if None in cells:
        raise EsdError(f"Row {number} has more cells than the header: put texts with commas into double quotes.")
    values = {ours: (cells[theirs] or "").strip() for ours, theirs in columns.items()}
    made: dict[str, Any] = {}
    for ours, value in values.items():
        where = f'Row {number}, column "{columns[ours]}"'
        _require_whole(value, where)
        if value and ours in _READERS:
            made[ours] = _READERS[ours](value, where)
    prompt = values["prompt"]
    if not prompt:
        raise EsdError(f'Row {number}, column "{columns["prompt"]}" is empty: write a prompt, or take the row out.')
    case = values.get("case_number") or str(number)
    made.setdefault("role", role)
    return PromptRow(case, prompt, label=values.get("label") or prompt, negative=values.get("negative", ""), **made)


def _require_whole(text: str, where: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise EsdError(f"{where} holds half of a character, as broken copies do: type it anew.")


_WHOLE = re.compile(r"(\d{1,20})(?:\.0+)?", re.ASCII)
"""Table programs write whole numbers with an empty fraction when another row of the column has none."""


def _whole(low: int, high: int, wanted: str, step: int = 1) -> Callable[[str, str], int]:
    def read(value: str, where: str) -> int:
        match = _WHOLE.fullmatch(value)
        if match is None or not low <= int(match[1]) <= high or int(match[1]) % step:
            raise EsdError(f'{where} is "{value:.40}": write {wanted}.')
        return int(match[1])

    return read


def _guidance(value: str, where: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number <= MOST_GUIDANCE:
        raise EsdError(f'{where} is "{value:.40}": write a number from 0 to {MOST_GUIDANCE:g}.')
    return number


def _role(value: str, where: str) -> str:
    if value.casefold() not in ROLES:
        raise EsdError(f'{where} is "{value:.40}": write one of {", ".join(ROLES)}.')
    return value.casefold()


_SIDE = _whole(
    SMALLEST_SIDE, LARGEST_SIDE, f"pixels from {SMALLEST_SIDE} to {LARGEST_SIDE} in steps of {SIDE_STEP}", SIDE_STEP
)
_READERS: Mapping[str, Callable[[str, str], Any]] = {
    "seed": _whole(0, SEEDS - 1, "a whole number from 0 to 2^64 - 1"),
    "guidance": _guidance,
    "width": _SIDE,
    "height": _SIDE,
    "samples": _whole(1, MOST_SAMPLES, f"a whole number from 1 to {MOST_SAMPLES}"),
    "role": _role,
}
