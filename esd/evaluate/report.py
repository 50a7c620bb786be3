"""What an evaluation found, as data: JSON for programs, a CSV of every picture, and a page for people."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .attack import Comeback
from .compare import ArmRates
from .in_model import Measured
from .metrics import Change, Score, rate_words
from .page import escaped, page, picture, table

SCHEMA = "esd-evaluation-1"
"""The layout of the JSON; a change that readers would notice gets the next number."""

COLUMNS = ("model", "case", "role", "prompt", "seed", "label", "answer", "score", "found")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of cells that table programs would run as formulas."""


@dataclass(frozen=True)
class Report:
    """Both halves may be empty: found rates by role with every picture's score, and measures inside the model.

    `about` says how it was made, as pairs of name and value; `judge` is the judge's card.  `arms` are several models
    beside each other.  `seconds` are those of a new picture by model: reports that differ in them alone are equal.
    """

    title: str
    about: tuple[tuple[str, str], ...] = ()
    judge: str = ""
    changes: tuple[Change, ...] = ()
    scores: tuple[Score, ...] = ()
    concepts: tuple[Measured, ...] = ()
    keeps: tuple[Measured, ...] = ()
    name: str = ""
    arms: tuple[ArmRates, ...] = ()
    seconds: tuple[tuple[str, float], ...] = field(default=(), compare=False)
    attacks: tuple[Comeback, ...] = ()


@dataclass(frozen=True)
class PicturePair:
    """JPEG files of one prompt and seed, before and after the erasure; `label` is what a judge looks for in them."""

    role: str
    prompt: str
    seed: int
    before: bytes
    after: bytes
    label: str = ""


def to_json(report: Report) -> str:
    """Return the report as JSON; figures that are no numbers are null."""
    return json.dumps(_plain({"schema": SCHEMA, **asdict(report)}), ensure_ascii=True, indent=1, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_csv(scores: Iterable[Score]) -> str:
    """One line a picture; a text that a table program would take for a formula gets an apostrophe before it."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for score in scores:
        writer.writerow([_cell(getattr(score, column)) for column in COLUMNS])
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def to_text(report: Report) -> str:
    """Return the figures in lines, as a node shows them."""
    lines = [_change_line(change) for change in report.changes]
    lines += [f"{arm.name}: " + ", ".join(f"{role} {rate_words(r)}" for role, r in arm.rates) for arm in report.arms]
    lines += [
        f'"{m.prompt}": residual {m.residual:.2f} ({_levels(m)}), null drift {m.null_drift:.2f}'
        for m in report.concepts
    ]
    lines += [f'keep "{m.prompt}": drift {m.drift:.2f}' for m in report.keeps]
    lines += [str(each) for each in report.attacks]
    return "\n".join(lines)


def _change_line(change: Change) -> str:
    return (
        f"{change.role}: found before {rate_words(change.before)}, after {rate_words(change.after)}; "
        f"p = {change.p_value:.2g} (exact McNemar)"
    )


def _levels(measured: Measured) -> str:
    return f"high noise {measured.high:.2f}, low noise {measured.low:.2f}"


def to_html(report: Report, pairs: Sequence[PicturePair] = ()) -> str:
    """Return a page that needs no other file; every text in it is escaped, and it runs no script."""
    parts = [
        table(("setting", "value"), [*report.about, *([("judge", report.judge)] if report.judge else [])]),
        _found(report.changes),
        _arms(report.arms),
        _attacks(report.attacks),
        _inside(report),
        _gallery(pairs),
        _scores(report.scores),
    ]
    return page(report.title, parts)


def _found(changes: Sequence[Change]) -> str:
    rows = [
        (
            c.role,
            rate_words(c.before),
            rate_words(c.after),
            c.only_before,
            c.only_after,
            f"{c.p_value:.2g}",
            c.after.method,
        )
        for c in changes
    ]
    head = ("role", "found before", "found after", "only before", "only after", "p (McNemar)", "interval")
    return "<h2>Found by the judge</h2>" + table(head, rows) if rows else ""


def _arms(arms: Sequence[ArmRates]) -> str:
    """Return a line a model and role, with the test against the first model."""
    p_values = {(arm.name, change.role): f"{change.p_value:.2g}" for arm in arms for change in arm.changes}
    rows = [
        (arm.name, role, rate_words(found), p_values.get((arm.name, role), ""), found.method)
        for arm in arms
        for role, found in arm.rates
    ]
    head = ("model", "role", "found", "p against the first (McNemar)", "interval")
    return "<h2>Beside each other</h2>" + table(head, rows) if rows else ""


def _attacks(attacks: Sequence[Comeback]) -> str:
    figures = [(each.prompt, each.own, each.attacked, each.control) for each in attacks]
    found = [(each.prompt, how, rate_words(rate)) for each in attacks for how, rate in each.found]
    tables = table(("concept", "residual", "under attack", "control"), figures)
    return f"<h2>Brought back</h2>{tables}{table(('concept', 'drawn by', 'found'), found)}" if attacks else ""


def _inside(report: Report) -> str:
    concepts = [
        (m.prompt, f"{m.residual:.3f}", f"{m.high:.3f}", f"{m.low:.3f}", f"{m.null_drift:.3f}") for m in report.concepts
    ]
    keeps = [(m.prompt, f"{m.drift:.3f}") for m in report.keeps]
    levels = [
        (m.prompt, *(f"{sigma:.2f}: {rho:.2f}" for sigma, rho in zip(m.sigmas, m.residuals, strict=True)))
        for m in report.concepts
    ]
    found = table(("concept", "residual", "high noise", "low noise", "null drift"), concepts)
    found += table(("residual by noise level",), levels) + table(("keep", "drift"), keeps)
    return "<h2>Inside the model</h2>" + found if found else ""


def _gallery(pairs: Sequence[PicturePair]) -> str:
    shown = "".join(
        f"<figure>{picture(p.before)} {picture(p.after)}"
        f"<figcaption>{escaped(p.role)}: {escaped(p.prompt)}, seed {p.seed}</figcaption></figure>"
        for p in pairs
    )
    return f"<h2>Before and after, same noise</h2>{shown}" if shown else ""


def _scores(scores: Sequence[Score]) -> str:
    rows = [
        (s.model, s.case, s.role, s.prompt, s.seed, s.label, s.answer, f"{s.score:.3f}", int(s.found)) for s in scores
    ]
    return f"<details><summary>Every picture</summary>{table(COLUMNS, rows)}</details>" if rows else ""
