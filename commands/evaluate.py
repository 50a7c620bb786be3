"""Measure erasures in a running ComfyUI, table by table: `python commands/evaluate.py baselines`, with its Python.

Without --base all of it runs on the small playground model and its judge.  What was drawn is kept in
output/esd/evaluations: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # this file's folder is not where its package is found
    HERE = Path(os.path.abspath(__file__)).parent
    sys.path[:] = [str(HERE.parent), *(entry for entry in sys.path if os.path.abspath(entry or ".") != str(HERE))]

from commands import arms, attacks, check, inprocess, places, rates, tables, talk  # noqa: E402
from commands.playground.world import CHECKPOINT  # noqa: E402
from commands.recipe import DRAWING  # noqa: E402
from commands.talk import Address, ServerError  # noqa: E402

Json = dict[str, Any]

FORMAT = "esd-table-1"
FOLDER = "esd/tables"
SAVED = "checkpoints/esd-table"
PROMPTS = "esd-table.csv"
FIRST_SEED = 1000
MOST_ATTACKED = 64
"""Pictures of each attack."""

NO_SEED = -1
"""No training has it, so that none that was kept is removed with a saved file."""

REAL = {"steps": 20, "cfg": 7.5, "sampler_name": "euler", "scheduler": "normal", "width": 512, "height": 512}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that the command has however it is started."""
    parser.add_argument("table", choices=tables.TABLES, metavar="TABLE", help=", ".join(tables.TABLES))
    parser.add_argument("--base", default="", metavar="FILE", help="a checkpoint of your own, as ComfyUI lists it")
    parser.add_argument(
        "--concept", default="", metavar="WORDS", help="only this concept of the table, or one of yours"
    )
    parser.add_argument(
        "--erased", nargs="*", default=[], metavar="CONCEPT=FILE",
        help="erasures in models/esd; what has none is trained with the defaults",
    )  # fmt: skip
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="a CSV file, as published: its rows are what is drawn"
    )
    parser.add_argument("--label", default="", help="what the judge looks for in rows of --prompts that are to go")
    parser.add_argument(
        "--judge", default="", metavar="JUDGE",
        help="playground, base, prototypes:VISION, clip:VISION,TEXT or file:NAME[,CUT] (default: the playground's, or "
        "base for a checkpoint of yours)",
    )  # fmt: skip
    parser.add_argument("--pictures", type=int, default=64, metavar="N", help="pictures a cell (default: %(default)s)")
    parser.add_argument("--only", nargs="*", choices=arms.ARMS, metavar="ERASER", help=", ".join(arms.ARMS))
    parser.add_argument("--training-steps", type=int, default=0, metavar="N", help="train so many, for a quick look")
    parser.add_argument("--sampling", nargs="*", default=[], metavar="NAME=VALUE", help="of " + ", ".join(REAL))
    parser.add_argument("--saved", type=int, default=16, metavar="N", help="pictures of each saved file (0: none)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures to this file")


def own_parser() -> argparse.ArgumentParser:
    """Return the command line for a ComfyUI that runs already."""
    parser = argparse.ArgumentParser(prog="evaluate.py", description=__doc__)
    parser.add_argument("--url", default=check.URL, help="where ComfyUI answers (default: %(default)s)")
    parser.add_argument("--comfyui", type=Path, metavar="FOLDER", help="ComfyUI's own folder, where main.py is")
    parser.add_argument("--models", type=Path, metavar="FOLDER", help="the models folder that this ComfyUI uses")
    add_options(parser)
    return parser


@dataclass
class Run:
    """What a table is made with."""

    server: Address
    options: argparse.Namespace
    base: str
    judge: str
    sampling: Json
    files: dict[str, str]
    outputs: list[Path]
    card: str = ""
    lines: list[Any] = field(default_factory=list)


def run(options: argparse.Namespace) -> int:
    """Make the table, and print it after each line; raises ServerError where nothing can begin."""
    target = options.json and options.json.absolute()
    check.require_packages()
    table = tables.TABLES[options.table]
    server = Address(options.url)
    argv = check.greeted(server)["system"]["argv"]
    host = places.host_folder(options.comfyui, argv)
    base, outputs = options.base or CHECKPOINT.name, places.output_folders(argv, host)
    made = Run(server, options, base, _judge(options), _sampling(options), _files(options), outputs)
    attacked = options.table == attacks.TABLE
    make: Callable[[Run, tables.Task, str], Any] = attack_line if attacked else line
    show: Callable[[Any], str] = attacks.row if attacked else rates.row
    with places.checkpoint_in_place(server, places.models_folders(options.models, argv, host)):
        for task in tasks(table, options):
            for eraser in _erasers(options):
                made.lines.append(make(made, task, eraser))
                print(show(made.lines[-1]), flush=True)
                _write(target, table, made)
    note = "" if options.base else table.note
    shown = (table.title, made.card, made.lines)
    print("\n" + (attacks.screen(*shown) if attacked else rates.screen(*shown, note)))
    print(f"\nThe reports are in ComfyUI's output folder, in {FOLDER}.")
    return 0


def tasks(table: tables.Table, options: argparse.Namespace) -> Iterator[tables.Task]:
    """Yield what the options ask for; raise ServerError where the table has no prompts of its own for real weights."""
    if options.prompts:
        yield _from_file(options)
        return
    source = table.real if options.base else table.playground
    if source is None and options.concept:
        yield tables.task(options.concept, [(options.concept, options.concept)], [], [], options.pictures)
        return
    if source is None:
        raise ServerError(
            f"The table {options.table} needs prompts for your model: name a CSV file with --prompts, and the concept "
            "with --concept."
        )
    found = [task for task in source(options.pictures) if options.concept in ("", task.concept)]
    if not found:
        raise ServerError(f'The table {options.table} has no "{options.concept}": leave out --concept to see all.')
    yield from found


def _from_file(options: argparse.Namespace) -> tables.Task:
    """Return the rows of a CSV file: those whose label has the concept in it are to go, the others should stay."""
    if not options.concept:
        raise ServerError("Rows of a file need a concept: name what was erased with --concept.")
    inprocess.as_package()
    from esd_pack.esd.errors import EsdError
    from esd_pack.esd.evaluate.prompt_set import rows_of_csv

    try:
        rows = rows_of_csv(options.prompts.read_bytes(), options.prompts.name)
    except (OSError, EsdError) as error:
        raise ServerError(f"{options.prompts.name} cannot be used: {error}") from error
    goes = [bool(options.label) or options.concept.casefold() in row.label.casefold() for row in rows]
    cells = [tables.ERASED if gone else tables.REST for gone in goes]
    prompts = tuple(
        tables.Prompt(row.prompt, options.label or row.label, cell, row.seed)
        for row, cell in zip(rows, cells, strict=True)
    )
    return tables.Task(options.concept, prompts[: options.pictures * (1 if all(goes) else 5)])


def begun(made: Run, task: tables.Task, eraser: str) -> tuple[arms.Studio, arms.Made]:
    """Return the prompt of an erasure."""
    size = {name: made.sampling[name] for name in ("width", "height")}
    file, steps = made.files.get(task.concept, ""), made.options.training_steps
    info = made.server.get("/object_info")
    studio = arms.Studio(info, made.base, task.concept, task.keep, size, file, steps)
    return studio, arms.ARMS[eraser](studio)


def attack_line(made: Run, task: tables.Task, eraser: str) -> attacks.Line:
    """Erase, attack and judge in the server; returns a line of the table of attacks."""
    studio, arm = begun(made, task, eraser)
    judge, name = arms.judge(studio, made.judge), f"{FOLDER}/attack-{eraser}".replace(" ", "-")
    attacks.add(studio, arm, judge, made.sampling, min(made.options.pictures, MOST_ATTACKED), name)
    report = _report(made, _queued(made, studio.prompt)["attack"])
    made.card = report["judge"]
    return attacks.Line(task.concept, eraser, report["attacks"][0])


def line(made: Run, task: tables.Task, eraser: str) -> rates.Line:
    """Erase, draw and judge in the server; returns a line of the table."""
    studio, arm = begun(made, task, eraser)
    report = _evaluated(made, studio, arm, task.prompts, f"{FOLDER}/{eraser}")
    made.card = report["judge"]
    saved = _saved(made, studio, arm, task) if made.options.saved and eraser != "nothing" else None
    return rates.Line(task.concept, eraser, rates.cells_of(report, task.prompts), rates.seconds_of(report), saved)


def _evaluated(made: Run, studio: arms.Studio, arm: arms.Made, prompts: Sequence[tables.Prompt], name: str) -> Json:
    """Return the report of Evaluate, which goes through a file in the output folder."""
    rows = _rows(made, studio, prompts)
    links = {"model": arm.model, "base_model": studio.model, "clip": studio.clip, "vae": studio.vae}
    judge = arms.judge(studio, made.judge)
    studio.add(
        "evaluate", "ESDEvaluate", prompts=rows, judge=judge, negative=arm.negative, in_model=False, seed=FIRST_SEED,
        file_name=name.replace(" ", "-"), **links, **made.sampling,
    )  # fmt: skip
    return _report(made, _queued(made, studio.prompt)["evaluate"])


def _report(made: Run, told: Json) -> Json:
    (report,) = (file for file in told["esd_files"] if file["filename"].endswith(".json"))
    return dict(json.loads(made.server.view(report)))


def _rows(made: Run, studio: arms.Studio, prompts: Sequence[tables.Prompt]) -> list[Any]:
    """Add the prompts: as a file in the server's input folder, where each row has a seed of its own."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(("prompt", "label", "role", "seed"))
    for prompt in prompts:
        role = "erased" if prompt.cell == tables.ERASED else "kept"
        writer.writerow((prompt.words, prompt.label, role, "" if prompt.seed is None else prompt.seed))
    return studio.add("rows", "ESDPromptSet", file=made.server.upload(PROMPTS, text.getvalue().encode("utf-8")))


def _saved(made: Run, studio: arms.Studio, arm: arms.Made, task: tables.Task) -> Json:
    """Save what the eraser made as a checkpoint, and return how often it draws the concept when it is loaded."""
    parts = {"clip": studio.clip, "vae": studio.vae, **({"weights": arm.weights} if arm.weights else {})}
    studio.add("save", "ESDSaveCheckpoint", model=arm.model, filename_prefix=SAVED, **parts)
    wanted = {name: node for name, node in studio.prompt.items() if name not in ("evaluate", "rows", "judge")}
    (file,) = _queued(made, wanted)["save"]["esd_files"]
    try:
        info = made.server.get("/object_info")
        again = arms.Studio(info, made.base, task.concept, (), {})
        loaded = again.add("saved", "CheckpointLoaderSimple", ckpt_name=file["filename"])
        prompts = [p for p in task.prompts if p.cell == tables.ERASED][: made.options.saved]
        report = _evaluated(made, again, arms.Made(loaded), prompts, f"{FOLDER}/saved")
    finally:
        places.Leavings(made.outputs, NO_SEED, [file]).remove()
    return dict(rates.cells_of(report, prompts)[tables.ERASED]["after"])


def _queued(made: Run, prompt: Json) -> Json:
    prompt_id = talk.queue(made.server, prompt, f"esd-table-{uuid.uuid4().hex}")
    return talk.follow(made.server, prompt_id, lambda: None)


def _erasers(options: argparse.Namespace) -> list[str]:
    every = list(arms.ARMS) if options.table == "baselines" else [arms.ESD]
    return options.only or every


def _judge(options: argparse.Namespace) -> str:
    return str(options.judge or ("base" if options.base else "playground"))


def _sampling(options: argparse.Namespace) -> Json:
    """Return the sampling, with what the options change; raise ServerError for what is no setting of it."""
    chosen = dict(REAL if options.base else DRAWING)
    for pair in options.sampling:
        name, _, value = pair.partition("=")
        if name not in chosen:
            raise ServerError(f'"{name}" is no setting of the sampling: name one of {", ".join(chosen)}.')
        try:
            kind: Callable[[str], Any] = type(chosen[name])
            chosen[name] = kind(value)
        except ValueError as error:
            raise ServerError(f'"{pair}" is no number: write {name}={chosen[name]}.') from error
    return chosen


def _files(options: argparse.Namespace) -> dict[str, str]:
    pairs = [pair.rpartition("=") for pair in options.erased]
    if not all(concept for concept, _, _ in pairs):
        raise ServerError("An erasure needs its concept: write --erased CONCEPT=FILE.")
    return {concept: file for concept, _, file in pairs}


def _write(target: Path | None, table: tables.Table, made: Run) -> None:
    if target:
        target.parent.mkdir(parents=True, exist_ok=True)
        about: Json = {"format": FORMAT, "table": table.title, "note": "" if made.options.base else table.note}
        about |= {"base": made.base, "judge": made.card, "sampling": made.sampling, "seed": FIRST_SEED}
        text = json.dumps({**about, "lines": [each.as_json() for each in made.lines]}, indent=1)
        target.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(check.main(lambda: run(own_parser().parse_args())))
