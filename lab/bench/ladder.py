"""From the published procedure to the defaults, step by step: `python run.py bench ladder` counts passes, and judges.

The arms are the steps that the defaults took.  All arms of a task run in turn, and again for each repeat, which is a
seed of its own; the published one, which takes most of the time, only as often as is asked for.  A backward counts as
two passes, and what a run measures counts too.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from typing import Any

from _playground_run import write_json
from defaults import Bench, Task, tasks

FROM_NOTHING = {"closed_form": False}
STEPS_200 = {"learning_rate": 1e-4, "steps": 200, "stop": "after all steps"}
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "published": ("official-2026", {}),
    "our settings, 200 steps": ("default", {**FROM_NOTHING, **STEPS_200}),
    "until it is gone": ("default", {**FROM_NOTHING, "learning_rate": 1e-4}),
    "at the rate that it finds": ("default", FROM_NOTHING),
    "from the start in closed form": ("default", {}),
    "the same at rank 16": ("default", {"rank": 16}),
}
"""Preset and changes of each step of the ladder."""

PUBLISHED, DEFAULT = "published", "from the start in closed form"
TASKS = ("object: church", "style: sepia", "sunglasses", "four objects", "sixteen objects")
SHORT_ONLY = "sixteen objects"
"""A task for the defaults alone: the other arms take hours of it."""


def rows(bench: Bench, chosen: list[Task], arms: list[str], repeats: int, published: int) -> Iterator[dict[str, Any]]:
    """Yield a row a run: all arms of a task in turn, then the next repeat."""
    for seed in range(repeats):
        for task in chosen:
            for arm in arms:
                preset, changes = ARMS[arm]
                if (arm == PUBLISHED and seed >= published) or (task.name == SHORT_ONLY and arm != DEFAULT):
                    continue
                yield {"arm": arm, **bench.run(task, seed, preset, **changes)}


def table(made: list[dict[str, Any]]) -> str:
    """Return medians over the repeats of passes and seconds, and found after of all pictures, by both judges."""
    lines = ["| task | arm | repeats | passes | s | own words | unseen | near | rest |\n|" + " --- |" * 9]
    for task, arm in dict.fromkeys((row["task"], row["arm"]) for row in made):
        runs = [row for row in made if (row["task"], row["arm"]) == (task, arm)]
        passes, seconds = (statistics.median(run[name] for run in runs) for name in ("passes", "seconds"))
        groups = (_pooled(runs, name) for name in ("bare", "unseen", "near", "rest"))
        lines.append(f"| {task} | {arm} | {len(runs)} | {passes:,.0f} | {seconds:.0f} | {' | '.join(groups)} |")
    return "\n".join(lines)


def _pooled(runs: list[dict[str, Any]], group: str) -> str:
    first, second = (sum(run[group][judge][1] for run in runs) for judge in ("first", "second"))
    return f"{first}, {second} of {sum(run[group]['n'] for run in runs)}"


def main() -> None:
    """Run the ladder, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the rows there, anew after each")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--published", type=int, default=1, help="repeats of the published arm (default: %(default)s)")
    chosen = parser.parse_args()
    bench, made = Bench(), []
    by_name = {task.name: task for task in tasks(bench.words)}
    for row in rows(bench, [by_name[name] for name in chosen.tasks], chosen.arms, chosen.repeats, chosen.published):
        made.append(row)
        print(row["task"], row["arm"], row["seed"], row["passes"], row["seconds"], flush=True)
        write_json(chosen.json, made)
    print(table(made))


if __name__ == "__main__":
    main()
