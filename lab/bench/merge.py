"""Erased one by one and merged, or in one run? `python run.py bench merge --count 4` judges both, with both judges.

Each object is erased alone with the defaults; the erasures are then merged in each way and put on the model.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from _playground_run import SIZE, write_json
from defaults import SIXTEEN, Bench, Task, objects_task


def rows(bench: Bench, names: tuple[str, ...], seed: int, **changes: Any) -> Iterator[dict[str, Any]]:
    """Yield one run of all, then the merged singles."""
    task = objects_task(bench.words, f"{len(names)} objects", names)
    together = bench.run(task, seed, "default", **changes)
    yield {"how": "one run", **together}
    singles = [_single(bench, name, seed, changes) for name in names]
    passes, seconds = (round(sum(each[kind] for each in singles), 1) for kind in ("passes", "seconds"))
    for mode in _modes():
        about = {"how": mode, "task": task.name, "seed": seed, "passes": int(passes), "seconds": seconds, **changes}
        yield {**about, **_merged(bench, task, [each["weights"] for each in singles], mode)}


def _modes() -> tuple[str, ...]:
    from esd_pack.esd.merge import MODES

    return MODES


def _single(bench: Bench, name: str, seed: int, changes: dict[str, Any]) -> dict[str, Any]:
    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.settings import Settings

    erased, seconds = bench.world.erase([make_concept(name)], [], Settings(**SIZE, seed=seed, **changes))
    return {"weights": erased.weights, "passes": erased.passes, "seconds": seconds}


def _merged(bench: Bench, task: Task, weights: list[Any], mode: str) -> dict[str, Any]:
    from esd_pack.esd.merge import merge
    from esd_pack.nodes.host.model.apply import apply
    from esd_pack.nodes.host.model.text_tokens import tokens_of

    loaded = bench.world.loaded
    return bench.counts(apply(loaded.model, merge(weights, mode, tokens_of(loaded.clip)), 1.0), task)


def shown(row: dict[str, Any]) -> str:
    """One line of the table: found before > after by the first judge, and by the second."""
    cells = []
    for name in ("bare", "unseen", "near", "rest"):
        (before, after), (also_before, also_after) = row[name]["first"], row[name]["second"]
        cells.append(f"{before} > {after}, {also_before} > {also_after} of {row[name]['n']}")
    return f"| {row['task']} | {row['how']} | {row['passes']} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=16, help="how many objects, up to 16 (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from-nothing", action="store_true", help="without the start in closed form")
    parser.add_argument("--json", metavar="FILE", help="write the rows there, anew after each")
    chosen = parser.parse_args()
    bench, made = Bench(), []
    print("| task | how | passes | own words | unseen prompts | neighbours | rest |\n|" + " --- |" * 7, flush=True)
    changes = {"closed_form": False} if chosen.from_nothing else {}
    for row in rows(bench, SIXTEEN[: chosen.count], chosen.seed, **changes):
        made.append(row)
        print(shown(row), flush=True)
        write_json(chosen.json, made)


if __name__ == "__main__":
    main()
