"""How easily erasures come back, and what it costs: `python run.py bench robustness` attacks each arm of a few tasks.

An object, an attribute and a style; the defaults, the two levels of *robustness*, and UCE.  Each is judged under its
own words and unseen prompts, on its neighbours and the rest, and attacked as ESD Attack does.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, replace
from typing import Any

import torch
from _playground_run import SIZE, write_json
from defaults import Bench, Task, tasks

TASKS = ("object: cat", "sunglasses", "style: ink")
ARMS = ("default", "light", "strong", "UCE")
ASKED = ("search_steps", "trajectories", "attack_seed")
LABELS = {"object: cat": "cat", "sunglasses": "face wearing sunglasses", "style: ink": "ink style"}


def erased(bench: Bench, task: Task, arm: str, seed: int) -> tuple[Any, dict[str, Any]]:
    """Return the MODEL of an arm, and what it took."""
    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.settings import Settings

    concepts, start = [make_concept(**each) for each in task.concepts], time.process_time()
    if arm == "UCE":
        from esd_pack.esd.unified_concept_editing import RIDGE
        from esd_pack.nodes.host.model.apply import apply
        from esd_pack.nodes.host.model.unified_concept_editing import unified_concept_editing

        loaded = bench.world.loaded
        with torch.inference_mode(False), torch.no_grad():
            weights = unified_concept_editing(loaded.model, loaded.clip, concepts, (), RIDGE)
        made = {"steps": 0, "passes": 0, "kept": []}
        return apply(loaded.model, weights, 1.0), {**made, "cpu_seconds": round(time.process_time() - start, 1)}
    robustness = "off" if arm == "default" else arm
    done, _ = bench.world.erase(concepts, [], Settings(**SIZE, seed=seed, robustness=robustness))
    made = {"steps": len(done.losses), "passes": done.passes, "kept": done.weights.metadata["esd.keeps"]}
    return done.model, {**made, "cpu_seconds": round(time.process_time() - start, 1)}


def attacked(bench: Bench, task: Task, model: Any, chosen: argparse.Namespace) -> dict[str, Any]:
    """Return what ESD Attack reports of a MODEL."""
    from esd_pack.esd.concepts import make_concept
    from esd_pack.nodes.host.images.attack import AttackChoice, attack_models
    from esd_pack.nodes.host.images.judges import playground_judge

    loaded, concepts = bench.world.loaded, [make_concept(**each) for each in task.concepts]
    choice = AttackChoice(
        search_steps=chosen.search_steps, trajectories=chosen.trajectories, pictures=chosen.attacked, steps=10, cfg=3.0,
        seed=chosen.attack_seed, **SIZE,
    )  # fmt: skip
    with torch.inference_mode():
        (found,) = attack_models(
            model, loaded.model, loaded.clip, loaded.vae, concepts, playground_judge(), LABELS[task.name], choice
        )
    return asdict(found.comeback)


def shown(row: dict[str, Any]) -> str:
    """One line of the table."""
    cells = [f"{row[group]['first'][1]} of {row[group]['n']}" for group in ("bare", "unseen", "near", "rest")]
    spreads = [f"{row['attack'][name]['mean']:.2f}" for name in ("own", "attacked", "control")]
    ways = [f"{rate['found']} of {rate['n']}" for _, rate in row["attack"]["found"][2:]]
    return f"| {row['task']} | {row['arm']} | {row['passes']} | " + " | ".join([*cells, *spreads, *ways]) + " |"


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the rows there, anew after each")
    parser.add_argument("--only", nargs="*", default=list(TASKS), choices=TASKS, help="which tasks")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=ARMS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=8, help="at most so many of each group (default: %(default)s)")
    parser.add_argument("--attacked", type=int, default=8, help="pictures of each attack (default: %(default)s)")
    parser.add_argument("--search-steps", type=int, default=60)
    parser.add_argument("--trajectories", type=int, default=2)
    parser.add_argument("--attack-seed", type=int, default=100)
    chosen = parser.parse_args()
    bench, rows = Bench(), []
    bench.judges = {"first": bench.judges["first"]}
    print("| task | arm | passes | own words | unseen | near | rest | residual | attack | control | attack | "
          "inversion | completion |", flush=True)  # fmt: skip
    for task in (each for each in tasks(bench.words) if each.name in chosen.only):
        few = replace(task, groups={name: _spread(group, chosen.pictures) for name, group in task.groups.items()})
        for arm in chosen.arms:
            model, made = erased(bench, few, arm, chosen.seed)
            row = {"task": task.name, "arm": arm, "seed": chosen.seed, **made, **bench.counts(model, few)}
            row |= {
                "attack": attacked(bench, task, model, chosen),
                "asked": {k: v for k, v in vars(chosen).items() if k in ASKED},
            }
            rows.append(row)
            print(shown(row), flush=True)
            write_json(chosen.json, rows)


def _spread(group: list[Any], count: int) -> list[Any]:
    """Return so many of a group, evenly spread."""
    return [group[i * len(group) // count] for i in range(min(count, len(group)))]


if __name__ == "__main__":
    main()
