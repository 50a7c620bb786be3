"""The residual that a run measures against what judges find: `python run.py bench until_gone_chart` draws it.

A panel for each kind of task.  Each judgement of a run that `bench until_gone` followed is two dots: the own words'
mean residual with how often the concept is found under them, and the contexts' with how often under unseen prompts.
Lines stand at the residuals at which a concept counts as gone (esd/until_gone.py).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from quality_charts import EDGE, FOLDER, GAP, GONE, KEPT, PANEL, ROOT, axes, text

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
    return "several objects" if task.endswith("objects") else "objects" if ":" in task else "attributes"


def dots(row: Mapping[str, Any]) -> Iterator[tuple[str, Dot]]:
    """Yield a row's dot for each group of prompts."""
    own = [next(iter(each.values())) for each in row["residuals"]]
    around = [rho for each in row["residuals"] for rho in list(each.values())[1:]]
    for group, values in (("bare", own), ("unseen", around)):
        found = row[group]
        shares = (found[judge] / found["n"] for judge in ("first", "second"))
        yield group, Dot(sum(values) / len(values), *shares)


def spearman(pairs: Sequence[tuple[float, float]]) -> float:
    """Return the correlation of the ranks, equal values sharing theirs."""
    a, b = (_ranks([pair[i] for pair in pairs]) for i in (0, 1))
    middle = (len(pairs) - 1) / 2
    both = sum((x - middle) * (y - middle) for x, y in zip(a, b, strict=True))
    each = [sum((x - middle) ** 2 for x in ranks) for ranks in (a, b)]
    return both / max((each[0] * each[1]) ** 0.5, 1e-12)


def _ranks(values: Sequence[float]) -> list[float]:
    return [sum(v < value for v in values) + (sum(v == value for v in values) - 1) / 2 for value in values]


def limits(panel: str) -> tuple[float, float]:
    """Return the residuals at which such a concept counts as gone."""
    from esd.until_gone import GONE as BY_KIND

    return BY_KIND["style" if panel == "styles" else "attribute" if panel == "attributes" else "object"]


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
    panels: dict[str, list[tuple[str, Dot]]] = {}
    for row in rows:
        panels.setdefault(kind(row["task"]), []).extend(dots(row))
    (FOLDER / "until_gone.svg").write_text(chart(panels), "utf-8")
    print("| tasks | prompts | judgements | rank correlation, first judge | second judge |\n|---|---|---|---|---|")
    for name, found in panels.items():
        for group, (words, _) in GROUPS.items():
            own = [dot for which, dot in found if which == group]
            by = [
                spearman([(dot.residual, share(dot)) for dot in own]) for share in (lambda d: d.first, lambda d: d[2])
            ]
            print(f"| {name} | {words} | {len(own)} | {by[0]:.2f} | {by[1]:.2f} |")


if __name__ == "__main__":
    main()
