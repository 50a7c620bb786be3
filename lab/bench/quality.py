"""Erased and kept, judged, for each kind of task and setting: `python run.py bench quality`.

Every task is run for a fixed number of steps, and with method, eta and the source of the examples changed, one at a
time; `--full` crosses the three for the object too.
Rows are printed as they come, as a Markdown table.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import product, zip_longest
from typing import Any

from _playground_run import FIXED, MODELS, SIZE, Playground, as_json, short, write_json

REPEATS = 16
"""Pictures of what is erased, in each row."""


@dataclass(frozen=True)
class Task:
    """What to erase, and which pictures are judged: what goes, what is near it, and the rest."""

    name: str
    concepts: list[dict[str, Any]]
    gone: list[Any]
    near: list[Any]
    rest: list[Any]
    unseen: list[Any] = field(default_factory=list)
    replaced: list[Any] = field(default_factory=list)
    keeps: str = ""


def tasks(world: Any) -> list[Task]:
    """The tasks of the table."""
    seen = world.Judged
    objects = [seen(o, "object", o) for o in world.OBJECTS[::3]]

    def rest(*without: str) -> list[Any]:
        return [each for each in objects if each.name not in without]

    def near(name: str, each: int = 8) -> list[Any]:
        return [seen(o, "object", o) for o in world.NEAR_NEIGHBOURS[name] for _ in range(each)]

    def attribute(word: str) -> Task:
        whole = f"face wearing {word}"
        concept = {"erase": word, "erase_from": whole}
        return Task(word, [concept], _many(seen(whole, "object", whole)), near(whole), rest("face", whole))

    cat = _many(seen("cat", "object", "cat"))
    unseen = [
        seen(p, "object", "cat")
        for p in ("a picture of a cat", "ink style cat on a blue background", "cat in sepia style on a pink background")
        for _ in range(4)
    ]
    four = ("cat", "rocket", "guitar", "teapot")
    four_gone = [seen(o, "object", o) for o in four for _ in range(REPEATS // 4)]
    four_near = [each for name in four for each in near(name, 4)]
    styled = {s: [seen(f"{o} in {s} style", "style", s) for o in world.OBJECTS[:24]] for s in world.STYLES}
    other_styles = [styled[("noto", "fluent", "sepia")[i % 3]][i] for i in range(24)]
    in_other = [seen(each.prompt, "object", each.prompt.split(" in ")[0]) for each in other_styles]
    return [
        Task("object: cat", [{"erase": "cat"}], cat, near("cat"), rest("cat"), unseen),
        Task(
            "style: ink",
            [{"erase": "ink style"}],
            _many(seen("ink style", "style", "ink")),
            other_styles,
            in_other,
            unseen=styled["ink"][:REPEATS],
        ),
        attribute("sunglasses"),
        attribute("a cowboy hat"),
        Task(
            "replace: cat by dog",
            [{"erase": "cat", "replace_with": "dog"}],
            cat,
            near("cat"),
            rest("cat"),
            replaced=_many(seen("cat", "object", "dog")),
        ),
        Task("four objects", [{"erase": o} for o in four], four_gone, four_near, rest(*four)),
        Task(
            "four objects, keeps",
            [{"erase": o} for o in four],
            four_gone,
            four_near,
            rest(*four),
            keeps="tiger\nairplane\nviolin\nteacup",
        ),
    ]


def _many(judged: Any) -> list[Any]:
    return [judged] * REPEATS


METHODS = {"sd1": ("esd-x", "esd-x-strict", "esd-u"), "sd35": ("esd-x", "selfattn", "esd-all")}
"""Of a model with joint attention: that of the text stream, that of the picture's, and all weights."""

RANKS = {"sd1": (), "sd35": (16, 4)}


def variants(full: bool, task: Task, name: str = "sd1") -> Iterator[dict[str, Any]]:
    """The settings to try: the defaults first, then one change at a time; with `full`, all crossed for the object."""
    methods, etas, sources = METHODS[name], (1.0, 0.0, 2.0, 4.0), ("base", "student")
    one = [{"method": m} for m in methods[1:]] + [{"eta": e} for e in etas[1:]] + [{"sampler_model": sources[1]}]
    one = [{"rank": r} for r in RANKS[name]] + one
    attribute = any("erase_from" in concept for concept in task.concepts)
    one = [change for change in one if not (attribute and change.get("eta") == 0.0)]  # it would have nothing to learn
    yield from ({}, *one)
    if full and task.name.startswith("object"):
        first = (methods[0], etas[0], sources[0])
        for choice in product(methods, etas, sources):
            if sum(a != b for a, b in zip(choice, first, strict=True)) > 1:
                yield dict(zip(("method", "eta", "sampler_model"), choice, strict=True))


def run(world: Playground, task: Task, change: dict[str, Any], seed: int) -> dict[str, Any]:
    """One row: erase, draw, judge."""
    from esd_pack.esd.concepts import make_concept, make_keep
    from esd_pack.esd.presets import with_preset
    from esd_pack.esd.settings import Settings

    preset = change.pop("preset", "custom")
    settings = with_preset(Settings(**{**SIZE, **FIXED, "seed": seed, **change}), preset)
    concepts = [make_concept(**c) for c in task.concepts]
    keeps = [make_keep(task.keeps, 1.0)] if task.keeps else []
    erased, seconds = world.erase(concepts, keeps, settings)
    near = {(each.head, each.name) for each in task.near}
    rest = [each for each in task.rest if (each.head, each.name) not in near]
    groups = {"erased": task.gone, "neighbours": task.near, "rest": rest}
    groups |= {name: g for name, g in (("unseen", task.unseen), ("replaced", task.replaced)) if g}
    rates = world.rates(erased.model, groups)
    row = {"task": task.name, "change": change, "settings": asdict(settings), "seconds": seconds, **as_json(rates)}
    words = ", ".join(f"{k} {v}" for k, v in change.items()) or (preset if preset != "custom" else "defaults")
    extra = rates.get("unseen") or rates.get("replaced")
    counted = [short(each) for each in (rates["erased"], rates["neighbours"], rates["rest"])]
    shown = (task.name, words, *counted, short(extra) if extra else "", f"{seconds:.0f}")
    print("| " + " | ".join(str(each) for each in shown) + " |", flush=True)
    return row


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--world", choices=tuple(MODELS), default="sd1", help="the model (default: %(default)s)")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", default="", help="tasks whose name contains this")
    parser.add_argument("--preset", default="", help="run this preset instead of the variants, for every task")
    parser.add_argument("--seeds", type=int, default=1)
    chosen = parser.parse_args()
    world = Playground(name=chosen.world)
    from esd_pack.commands.playground import world as words

    print("| task | change | erased | neighbours | rest | unseen or replaced | s |\n|---|---|---|---|---|---|---|")
    rows = []
    for task, change in in_order([t for t in tasks(words) if chosen.only in t.name], chosen):
        rows += [run(world, task, dict(change), seed) for seed in range(chosen.seeds)]
        write_json(chosen.json, rows, chosen.world)


def in_order(every: list[Task], chosen: argparse.Namespace) -> list[tuple[Task, dict[str, Any]]]:
    """All tasks at their first setting, then all at the next, so that a table that is stopped early says most."""
    if chosen.preset:
        return [(task, {"preset": chosen.preset}) for task in every]
    columns = [[(task, change) for change in variants(chosen.full, task, chosen.world)] for task in every]
    return [pair for row in zip_longest(*columns) for pair in row if pair]


if __name__ == "__main__":
    main()
