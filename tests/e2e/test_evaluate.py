"""The tables of `run.py evaluate`: their prompts, their command line, their screen, and a small one as a whole."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from commands import arms, attacks, evaluate, rates, tables
from commands.playground import world
from commands.talk import ServerError
from lab.launch import arguments

pytestmark = pytest.mark.full

ROOT = Path(__file__).resolve().parents[2]


def options(*line: str) -> argparse.Namespace:
    return evaluate.own_parser().parse_args(line)


@pytest.mark.parametrize("name", tables.TABLES)
def test_every_prompt_of_the_playground_has_a_label_that_its_judge_knows(name: str) -> None:
    from esd_pack.esd.evaluate.playground_judge import PlaygroundJudge

    found = list(tables.TABLES[name].playground(8))
    PlaygroundJudge(world.FOLDER).check([p.label for task in found for p in task.prompts])
    assert found and all({p.cell for p in task.prompts} <= set(tables.CELLS) for task in found)
    counts = [sum(p.cell == tables.NEIGHBOURS for p in task.prompts) for task in found]
    assert all(count in (0, 8) for count in counts)


@pytest.mark.parametrize("name", ["objects", "related", "paraphrase"])
def test_real_labels_are_imagenet_s(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    known = {each.casefold() for each in models.ResNet50_Weights.DEFAULT.meta["categories"]}
    source = tables.TABLES[name].real
    assert source
    for task in source(4):
        assert {p.label.casefold() for p in task.prompts} <= known and task.concept in tables.IMAGENETTE


def test_rows_of_a_file_go_by_their_label(tmp_path: Path) -> None:
    path = tmp_path / "artists.csv"
    path.write_text("prompt,artist\nstars,Vincent van Gogh\ncubes,Picasso\nsun,Van Gogh\n", encoding="utf-8")
    line = ("style", "--base", "x", "--prompts", str(path), "--concept", "van gogh")
    (task,) = evaluate.tasks(tables.TABLES["style"], options(*line))
    assert [(p.words, p.cell) for p in task.prompts] == [("stars", "erased"), ("cubes", "rest"), ("sun", "erased")]
    (task,) = evaluate.tasks(tables.TABLES["nudity"], options(*line, "--label", "nudity"))
    assert {(p.label, p.cell) for p in task.prompts} == {("nudity", "erased")}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("style", "--base", "x"), "The table style needs prompts for your model"),
        (("objects", "--concept", "zebra"), 'The table objects has no "zebra"'),
        (("style", "--prompts", "gone.csv"), "Rows of a file need a concept"),
        (("style", "--prompts", "gone.csv", "--concept", "x"), "gone.csv cannot be used"),
    ],
)
def test_refusals(line: tuple[str, ...], message: str) -> None:
    with pytest.raises(ServerError, match=message):
        list(evaluate.tasks(tables.TABLES[line[0]], options(*line)))


def test_the_command_line_is_that_of_run_py() -> None:
    ours = arguments.evaluate_parser().parse_args(["objects", "--only", "ESD", "--pictures", "8"])
    assert (ours.table, ours.only, ours.pictures) == ("objects", ["ESD"], 8)
    with pytest.raises(ServerError, match='"size" is no setting'):
        evaluate._sampling(options("objects", "--sampling", "size=3"))
    assert evaluate._sampling(options("objects", "--sampling", "steps=3"))["steps"] == 3


def rate(found: int, n: int) -> dict[str, Any]:
    return {"found": found, "n": n, "interval": {"low": 0.0, "high": 0.25}, "method": "Wilson"}


def test_verdicts_are_counted_by_group() -> None:
    from commands.playground.judge import Verdict

    cat, dog = world.Judged("cat", "object", "cat"), world.Judged("ink style", "style", "ink")
    before = Verdict(["cat", "cat", "fox"], ["noto", "noto", "ink"], [""] * 3)
    after = Verdict(["dog", "cat", "fox"], ["noto", "noto", "ink"], [""] * 3)
    found = rates.counted({"erased": [cat, cat], "kept": [dog]}, before, after)
    assert {role: (c.before.found, c.after.found, c.after.n) for role, c in found.items()} == {
        "erased": (2, 1, 2),
        "kept": (1, 1, 1),
    }


def test_the_screen() -> None:
    cells = {"erased": {"before": rate(8, 8), "after": rate(1, 8)}}
    made = rates.Line("cat", "ESD", cells, None, rate(0, 2))
    assert rates.screen("T", "card", [made], "NOTE").splitlines()[-1] == (
        "| cat | ESD | 8 > 1 of 8 (0 to 25 %) |  | 0 of 2 (0 to 25 %) |"
    )


def test_the_screen_of_attacks() -> None:
    spread = {"mean": 0.5, "low": 0.25, "high": 0.75}
    found = [["untouched", rate(8, 8)], ["attack", rate(3, 8)]]
    comeback = {"own": spread, "attacked": spread, "control": {**spread, "mean": 0.1}, "found": found}
    head, _, line = attacks.screen("T", "card", [attacks.Line("cat", "ESD", comeback)]).splitlines()[-3:]
    assert head.endswith("| control | found: untouched | found: attack |")
    assert line.endswith("| 0.50 (0.25 to 0.75) | 0.10 (0.25 to 0.75) | 8 of 8 | 3 of 8 |")


@pytest.mark.parametrize("eraser", ["nothing", "ESD"])
def test_an_attack_is_a_graph_that_the_server_takes(object_info: dict[str, Any], eraser: str) -> None:
    studio = arms.Studio(object_info, "emoji-world.ckpt", "cat", (), {"width": 64, "height": 64})
    arm = arms.ARMS[eraser](studio)
    attacks.add(studio, arm, arms.judge(studio, "playground"), evaluate.DRAWING, 4, "esd/tables/attack")
    wanted = studio.prompt["attack"]["inputs"]
    assert set(object_info["ESDAttack"]["input"]["required"]) <= set(wanted)
    assert [node["class_type"] for node in studio.prompt.values()].count("ESDConcept") == 1
    links = [value for value in wanted.values() if isinstance(value, list)]
    assert len(links) == 6 and all(link[0] in studio.prompt for link in links)


def test_every_eraser_is_a_graph_that_the_server_takes(object_info: dict[str, Any]) -> None:
    for name, build in arms.ARMS.items():
        studio = arms.Studio(object_info, "emoji-world.ckpt", "cat", ("dog",), {"width": 64, "height": 64})
        made = build(studio)
        assert made.model[0] in studio.prompt, name
        for node in studio.prompt.values():
            links = [value for value in node["inputs"].values() if isinstance(value, list)]
            assert all(link[0] in studio.prompt for link in links)


def test_a_published_file_with_its_own_seeds(host: Any, comfy_path: Path, tmp_path: Path) -> None:
    """As it is run on real files: rows by artist, seeds beyond 2^63, an eraser, a judge."""
    path, out = tmp_path / "artists.csv", tmp_path / "out.json"
    rows = "case_number,prompt,evaluation_seed,artist\n7,cat,18446744073709551615,cat\n8,key,5,key\n"
    path.write_text(rows, encoding="utf-8")
    line = (
        "style",
        "--prompts",
        str(path),
        "--concept",
        "cat",
        "--only",
        "UCE",
        "--sampling",
        "steps=2",
        "--saved",
        "0",
    )
    chosen = options(*line, "--url", host.url, "--comfyui", str(comfy_path), "--json", str(out))
    chosen.models = host.base / "models"
    assert evaluate.run(chosen) == 0
    (found,) = json.loads(out.read_text("utf-8"))["lines"]
    assert found["cells"]["erased"]["before"]["n"] == found["cells"]["rest"]["after"]["n"] == 1
    rows = (host.base / "output" / "esd" / "evaluations" / "scores.jsonl").read_text("utf-8")
    assert '"seed": 18446744073709551615' in rows and '"seed": 5' in rows


@pytest.mark.nightly
def test_a_small_table_as_a_whole_and_again(comfy_path: Path, tmp_path: Path) -> None:
    """From its rows that were kept the second run gives the first one's figures."""
    out = tmp_path / "table.json"
    line = [sys.executable, str(ROOT / "lab" / "launch" / "__main__.py"), "evaluate", "baselines", "--pictures", "2"]
    line += ["--saved", "1", "--training-steps", "2", "--sampling", "steps=2", "--json", str(out), "--only"]
    line += ["ESD", "SLD max", "negative prompt", "Perp-Neg", "UCE"]
    found = []
    for _ in range(2):
        environment = {**os.environ, "COMFYUI_PATH": str(comfy_path)}
        done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(out.read_text("utf-8")))
    first, again = ([{k: v for k, v in each.items() if k != "seconds"} for each in f["lines"]] for f in found)
    assert first == again and [each["eraser"] for each in first] == line[-5:]
    assert all(set(each["cells"]) == set(tables.CELLS) and each["saved"]["n"] == 1 for each in first)
