"""Draw the charts in docs/pictures, and fill in the tables of the guides, from lab/bench/quality.json:
`python run.py bench quality_charts`.

A panel for each task: how often the judge finds what was erased, and the worse of neighbours and rest, against eta
(esd-x, the base as source) and for each method (eta 1).  Standard library only.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import _tables

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "pictures"
PANEL, GAP, EDGE = (210, 120), 56, 46
GONE, KEPT = "#d1495b", "#2a7f9e"
NAMES = {"erased": "what was erased is found", "kept": "neighbours and the rest are found (the worse of both)"}
Row = dict[str, Any]
Curves = dict[str, list[tuple[str, float, float]]]
"""For each task: label of the place on the axis, share of erased pictures in which it is found, share kept."""


def curves(rows: list[Row], setting: str, order: list[Any]) -> Curves:
    """The rows in which at most this one setting differs from the defaults, in order."""
    chosen: dict[str, dict[Any, Row]] = {}
    for row in rows:
        if set(row["change"]) <= {setting} and row["settings"]["seed"] == 0:
            chosen.setdefault(row["task"], {})[row["settings"][setting]] = row
    return {
        task: [(_label(at), found[at]["erased"]["after"], _kept(found[at])) for at in order if at in found]
        for task, found in chosen.items()
    }


def _kept(row: Row) -> float:
    return min(row["neighbours"]["after"], row["rest"]["after"])


def _label(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def chart(title: str, found: Curves, lines: bool) -> str:
    """All panels as one SVG, three in a row; curves where the axis is a number, pairs of bars where it is a name."""
    across = 3
    width = EDGE + across * (PANEL[0] + GAP)
    height = 74 + -(-len(found) // across) * (PANEL[1] + 64)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11" fill="#222">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        text(EDGE, 24, title, "start", 'font-size="14" font-weight="bold"'),
    ]
    for i, (colour, name) in enumerate(zip((GONE, KEPT), NAMES.values(), strict=True)):
        parts += [f'<rect x="{EDGE + 220 * i}" y="36" width="10" height="10" fill="{colour}"/>']
        parts += [text(EDGE + 220 * i + 15, 45, name, "start")]
    for i, (task, points) in enumerate(found.items()):
        x, y = EDGE + (i % across) * (PANEL[0] + GAP), 84 + (i // across) * (PANEL[1] + 64)
        parts += [f'<g transform="translate({x} {y})">', *axes(task), *(_curves if lines else _bars)(points), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def axes(task: str) -> list[str]:
    """Return the head of a panel, and its lines of shares."""
    width, height = PANEL
    made = [text(0, -8, task, "start", 'font-weight="bold"')]
    for share in (0, 0.5, 1):
        y = height * (1 - share)
        made += [f'<path d="M0 {y:g}H{width}" stroke="#ddd"/>', text(-5, y + 4, f"{share:.0%}", "end")]
    return made


def _curves(points: list[tuple[str, float, float]]) -> list[str]:
    made: list[str] = []
    numbers = [float(label) for label, *_ in points]
    places = [12 + (PANEL[0] - 24) * n / max(numbers) for n in numbers]
    for column, colour in ((2, KEPT), (1, GONE)):
        at = [f"{x:.1f} {PANEL[1] * (1 - point[column]):.1f}" for x, point in zip(places, points, strict=True)]
        made += [f'<path d="M{"L".join(at)}" fill="none" stroke="{colour}" stroke-width="2"/>']
        made += [f'<circle cx="{a.split()[0]}" cy="{a.split()[1]}" r="3.5" fill="{colour}"/>' for a in at]
    return made + [
        text(x, PANEL[1] + 16, f"\u03b7 {label}", "middle") for x, (label, *_) in zip(places, points, strict=True)
    ]


def _bars(points: list[tuple[str, float, float]]) -> list[str]:
    made: list[str] = []
    space = PANEL[0] / len(points)
    for i, (label, *shares) in enumerate(points):
        for j, (share, colour) in enumerate(zip(shares, (GONE, KEPT), strict=True)):
            height = max(PANEL[1] * share, 1)  # nothing found is a line
            x, y = space * i + space / 2 - 22 + 22 * j, PANEL[1] - height
            made += [f'<rect x="{x:.1f}" y="{y:.1f}" width="20" height="{height:.1f}" fill="{colour}"/>']
        made += [text(space * i + space / 2, PANEL[1] + 16, label, "middle")]
    return made


def text(x: float, y: float, words: str, anchor: str, more: str = "") -> str:
    """Return words at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(words)}</text>'


def charts(rows: list[Row]) -> dict[str, str]:
    """File name -> SVG."""
    methods = ["esd-x", "esd-x-strict", "esd-u"]
    return {
        "quality_eta.svg": chart(
            "Playground, esd-x, 200 steps at 1e-4: found after erasing, by eta",
            curves(rows, "eta", [0.0, 1.0, 2.0, 4.0]),
            lines=True,
        ),
        "quality_method.svg": chart(
            "Playground, eta 1, 200 steps at 1e-4: found after erasing, by method",
            curves(rows, "method", methods),
            lines=False,
        ),
    }


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    figures = ROOT / "lab" / "bench" / "quality.json"
    parser.add_argument("--json", metavar="FILE", type=Path, default=figures, help="the figures to draw")
    chosen = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = json.loads(chosen.json.read_text("utf-8"))["rows"]
    for name, svg in charts(rows).items():
        (FOLDER / name).write_text(svg, "utf-8")
        print(f"docs/pictures/{name}: {len(svg)} bytes")
    for path in _tables.FILES:
        path.write_text(_tables.filled(path.read_text("utf-8"), rows), "utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
