"""The residual that a run measures against what judges find: `python run.py bench until_gone_chart` draws it.

A panel for each kind of task.  Each judgement of a run that `bench until_gone` followed is two dots: the own words'
mean residual with how often the concept is found under them, and the contexts' with how often under unseen prompts.
Lines stand at the residuals at which a concept counts as gone (esd/until_gone.py).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from quality_charts import EDGE, FOLDER, GAP, GONE, KEPT, PANEL, ROOT, axes, text
from scipy.stats import spearmanr

from esd import until_gone

FIGURES = ROOT / "lab" / "bench" / "until_gone_seeds.json"
LEAST, MOST = -0.6, 1.1
"""The residuals that the panels show; what is beyond is drawn at the edge."""

GROUPS = {"bare": ("own words", GONE), "unseen": ("contexts, and prompts never used in training", KEPT)}


class Dot(NamedTuple):
    """A residual, and the shares found there by the two judges."""

    residual: float
    first: float
    second: float


def kind(task: str) -> str:
    """Return the panel of a task."""
    if "style" in task:
        return "styles"
    if task.endswith("objects"):
        return "several objects"
    return "objects" if task.startswith("object:") else "attributes and replacements"


def dots(row: Mapping[str, Any]) -> Iterator[tuple[str, Dot]]:
    """Yield a row's dot for each group of prompts."""
    own = [next(iter(each.values())) for each in row["residuals"]]
    around = [rho for each in row["residuals"] for rho in list(each.values())[1:]]
    for group, values in (("bare", own), ("unseen", around)):
        found = row[group]
        shares = (found[judge] / found["n"] for judge in ("first", "second"))
        yield group, Dot(sum(values) / len(values), *shares)


def by_kind(rows: list[dict[str, Any]]) -> dict[str, list[tuple[str, Dot]]]:
    """Return the dots of each panel."""
    panels: dict[str, list[tuple[str, Dot]]] = {}
    for row in rows:
        panels.setdefault(kind(row["task"]), []).extend(dots(row))
    return panels


def limits(panel: str) -> tuple[float, float]:
    """Return the residuals at which such a concept counts as gone."""
    if panel.startswith("attributes"):
        return until_gone.INSTEAD
    return until_gone.GONE["style" if panel == "styles" else "object"]


def chart(panels: Mapping[str, list[tuple[str, Dot]]]) -> str:
    """Return all panels as one SVG, two in a row."""
    width, height = EDGE + 2 * (PANEL[0] + GAP), 74 + -(-len(panels) // 2) * (PANEL[1] + 64)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11" fill="#222">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        text(EDGE, 24, "Found by the first judge, by residual", "start", 'font-size="14" font-weight="bold"'),
    ]
    for i, (name, colour) in enumerate(GROUPS.values()):
        parts += [f'<circle cx="{EDGE + 5 + 110 * i}" cy="41" r="4" fill="{colour}"/>']
        parts += [text(EDGE + 15 + 110 * i, 45, name, "start")]
    for i, (name, found) in enumerate(panels.items()):
        x, y = EDGE + (i % 2) * (PANEL[0] + GAP), 84 + (i // 2) * (PANEL[1] + 64)
        parts += [f'<g transform="translate({x} {y})">', *axes(name), *_panel(name, found), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _panel(name: str, found: list[tuple[str, Dot]]) -> list[str]:
    made = [text(_across(rho), PANEL[1] + 16, f"{rho:g}", "middle") for rho in (-0.5, 0.0, 0.5, 1.0)]
    for limit, (_, colour) in zip(limits(name), GROUPS.values(), strict=True):
        made += [f'<path d="M{_across(limit):.1f} 0V{PANEL[1]}" stroke="{colour}" stroke-dasharray="3 3"/>']
    for group, dot in found:
        y = PANEL[1] * (1 - dot.first)
        made += [f'<circle cx="{_across(dot.residual):.1f}" cy="{y:.1f}" r="2.5" fill="{GROUPS[group][1]}"/>']
    return made


def _across(rho: float) -> float:
    return PANEL[0] * (min(max(rho, LEAST), MOST) - LEAST) / (MOST - LEAST)


def main() -> None:
    """Draw the chart, and print how residual and found rate go together in each panel."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE", type=Path, default=FIGURES, help="the figures to draw")
    rows = json.loads(parser.parse_args().json.read_text("utf-8"))["rows"]
    panels = by_kind(rows)
    (FOLDER / "until_gone.svg").write_text(chart(panels), "utf-8")
    print("| tasks | prompts | judgements | rank correlation, first judge | second judge |\n|---|---|---|---|---|")
    for name, found in panels.items():
        for group, (words, _) in GROUPS.items():
            own = [dot for which, dot in found if which == group]
            residuals = [dot.residual for dot in own]
            by = [spearmanr(residuals, [dot[judge] for dot in own]).statistic for judge in (1, 2)]
            print(f"| {name} | {words} | {len(own)} | {by[0]:.2f} | {by[1]:.2f} |")


if __name__ == "__main__":
    main()
