"""Do the shipped defaults erase every kind of task? `python run.py bench defaults` judges each, seed by seed.

Objects, styles, attributes, a replacement, and several concepts in one run, each judged by both judges on prompts that
the training never saw too.  `--preset official-2026` runs a published procedure instead; `--from-nothing`, `--rank`,
`--method` and `--rate` change one thing each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from _playground_run import MODELS, SIZE, Playground, write_json

from commands.playground.tasks import CARRIERS, erased_from, find_task, unseen_prompts
from lab.playground.recipe.judges import SecondJudge
from lab.playground.recipe.measure import SECOND_JUDGE

PICTURES, UNSEEN, REST = 24, 16, 24
ATTRIBUTES = ("sunglasses", "a cowboy hat", "a halo")
OBJECTS = ("cat", "church", "penguin", "banana", "rocket", "key", "ghost", "tulip")
EIGHT = ("cat", "rocket", "guitar", "teapot", "penguin", "church", "banana", "bus")
SIXTEEN = (*EIGHT, "owl", "violin", "pizza", "cactus", "key", "crown", "shark", "balloon")


@dataclass(frozen=True)
class Task:
    """What to erase, and the prompts that are judged: (prompt, head of the judge, name that it gives)."""

    name: str
    concepts: list[dict[str, str]]
    groups: dict[str, list[Any]] = field(default_factory=dict)


def tasks(world: Any) -> Iterator[Task]:
    """Yield the tasks of the table."""
    yield from (objects_task(world, f"object: {name}", (name,)) for name in OBJECTS)
    yield from (_styles(world, f"style: {name}", (name,)) for name in ("ink", "sepia", "fluent"))
    yield from (_attribute(world, name) for name in ATTRIBUTES)
    replaced = objects_task(world, "replace: cat by dog", ("cat",))
    dogs = [world.Judged("cat", "object", "dog")] * PICTURES
    yield Task(replaced.name, [{"erase": "cat", "replace_with": "dog"}], {**replaced.groups, "replaced": dogs})
    yield _styles(world, "two styles", ("ink", "sepia"))
    yield objects_task(world, "four objects", EIGHT[:4])
    yield objects_task(world, "eight objects", EIGHT)
    yield objects_task(world, "sixteen objects", SIXTEEN)


def objects_task(world: Any, title: str, names: tuple[str, ...]) -> Task:
    """Erase objects: their own words, unseen prompts, neighbours and the rest."""
    seen = world.Judged
    near = [o for name in names for o in world.NEAR_NEIGHBOURS.get(name, ()) if o not in names]
    groups = {
        "bare": [seen(name, "object", name) for name in names for _ in range(max(3, PICTURES // len(names)))],
        "unseen": unseen_prompts([find_task(name) for name in names], UNSEEN),
        "near": [seen(o, "object", o) for o in near for _ in range(max(1, PICTURES // max(len(near), 1)))],
        "rest": [seen(o, "object", o) for o in world.OBJECTS[::3] if o not in (*names, *near)],
    }
    return Task(title, [{"erase": name} for name in names], groups)


def _styles(world: Any, title: str, names: tuple[str, ...]) -> Task:
    seen, others = world.Judged, [style for style in world.STYLES if style not in names]
    groups = {
        "bare": [seen(f"{s} style", "style", s) for s in names for _ in range(PICTURES // len(names))],
        "unseen": unseen_prompts([find_task(f"{s} style") for s in names], UNSEEN),
        "near": [
            seen(f"{o} in {others[i % len(others)]} style", "style", others[i % len(others)])
            for i, o in enumerate(CARRIERS[:PICTURES])
        ],
        "rest": [seen(o, "object", o) for o in world.OBJECTS[::3]],
    }
    return Task(title, [{"erase": f"{s} style"} for s in names], groups)


def _attribute(world: Any, name: str) -> Task:
    seen, whole = world.Judged, f"face wearing {name}"
    near = world.NEAR_NEIGHBOURS[whole]
    groups = {
        "bare": [seen(whole, "object", whole)] * PICTURES,
        "unseen": unseen_prompts([erased_from(name, whole)], UNSEEN),
        "near": [seen(o, "object", o) for o in near for _ in range(PICTURES // len(near))],
        "rest": [seen(o, "object", o) for o in world.OBJECTS[::3] if o not in (whole, *near)],
    }
    return Task(name, [{"erase": name, "erase_from": whole}], groups)


class Bench:
    """The playground with both judges, and what they found in the untouched model."""

    def __init__(self, name: str = "sd1") -> None:
        self.world = Playground(name=name)
        from esd_pack.commands.playground import world as words

        self.words = words
        self.judges = {"first": self.world.judge, "second": SecondJudge(words.HEADS).load(SECOND_JUDGE)}
        self.base: dict[Any, dict[str, list[bool]]] = {}

    def hits(self, model: Any, judged: list[Any], seed: int = 0) -> dict[str, list[bool]]:
        """For each judge, in which pictures it finds what the prompt names; other pictures for each seed."""
        found = {}
        images = self.world.pictures(model, [each.prompt for each in judged], 1000 * (seed + 1))
        for name, judge in self.judges.items():
            found[name] = judge.judge(images).hits(judged)
        return found

    def before(self, judged: list[Any], seed: int) -> dict[str, list[bool]]:
        """The same of the untouched model, drawn once."""
        key = (seed, *judged)
        if key not in self.base:
            self.base[key] = self.hits(self.world.loaded.model, judged, seed)
        return self.base[key]

    def run(self, task: Task, seed: int, preset: str, **changes: Any) -> dict[str, Any]:
        """One row: erase, draw, judge."""
        from esd_pack.esd.concepts import make_concept
        from esd_pack.esd.presets import with_preset
        from esd_pack.esd.settings import Settings

        settings = replace(with_preset(Settings(**SIZE, seed=seed), preset), **changes)
        concepts = [make_concept(**each) for each in task.concepts]
        erased, seconds = self.world.erase(concepts, [], settings)
        told = erased.weights.metadata
        row = {"task": task.name, "seed": seed, "preset": preset, **changes}
        row |= {"steps": len(erased.losses), "passes": erased.passes, "seconds": round(seconds, 1)}
        row |= {"rate": float(told.get("esd.learning_rate_found", 0)), "left": json.loads(told.get("esd.left", "{}"))}
        return {**row, **self.counts(erased.model, task, seed)}

    def counts(self, model: Any, task: Task, seed: int = 0) -> dict[str, Any]:
        """For each group of prompts: how many there are, and for each judge found before and after."""
        judged = [each for group in task.groups.values() for each in group]
        before, after = self.before(judged, seed), self.hits(model, judged, seed)
        found: dict[str, Any] = {}
        start = 0
        for name, group in task.groups.items():
            part = slice(start, start + len(group))
            found[name] = {"n": len(group), **{j: [sum(before[j][part]), sum(after[j][part])] for j in self.judges}}
            start += len(group)
        return found


def shown(row: dict[str, Any]) -> str:
    """One line of the table: found after, by the first judge and the second."""
    names = ("bare", "unseen", "near", "rest", "replaced")
    cells = [f"{row[g]['first'][1]}/{row[g]['second'][1]} of {row[g]['n']}" if g in row else "" for g in names]
    about = (row["task"], row["seed"], f"{row['rate']:.1e}", row["steps"], row["passes"], *cells)
    return "| " + " | ".join(map(str, about)) + " |"


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the rows there, anew after each")
    parser.add_argument("--world", choices=tuple(MODELS), default="sd1", help="the model (default: %(default)s)")
    parser.add_argument("--only", default="", help="tasks whose name contains this")
    parser.add_argument("--preset", default="default", help="run this preset instead")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds a task, of the run and of the pictures")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--from-nothing", action="store_true", help="without the start in closed form")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--method", default="")
    parser.add_argument("--rate", type=float, default=0.0, help="a learning rate; 0: found by the run")
    chosen = parser.parse_args()
    asked = {"rank": chosen.rank, "method": chosen.method, "learning_rate": chosen.rate}
    changes = {name: value for name, value in asked.items() if value}
    changes |= {"closed_form": False} if chosen.from_nothing else {}
    bench, rows = Bench(chosen.world), []
    print(
        "| task | seed | rate | steps | passes | bare | unseen | near | rest | replaced |\n|" + " --- |" * 10,
        flush=True,
    )
    for seed in range(chosen.first_seed, chosen.first_seed + chosen.seeds):
        for task in tasks(bench.words):
            if chosen.only in task.name:
                rows.append(bench.run(task, seed, chosen.preset, **changes))
                print(shown(rows[-1]), flush=True)
                write_json(chosen.json, rows, chosen.world)


if __name__ == "__main__":
    main()
