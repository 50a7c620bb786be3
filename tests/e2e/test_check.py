"""The check that users run on their machines: its figures, its verdict, its report, and a whole run of it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from commands import check, compare, findings, graph, places, report, talk
from commands.recipe import CONCEPT, SEED, Recipe, others
from lab.launch import arguments
from support.gpu_server import gpu_server

pytestmark = pytest.mark.full

ROOT = Path(__file__).resolve().parents[2]
GB = 2**30


@pytest.fixture
def figures() -> dict[str, Any]:
    """Those of a check on a card that does all as it should."""
    run = {"device": "cuda:0", "memory_foretold": 45_000_000, "memory_peak": 60_000_000, "seconds": 4.0}
    run |= {"whole_seconds": 11.0, "message": "", "step": 60}
    look = {"vram_free": 20 * GB, "torch_vram_total": GB, "torch_vram_free": GB}
    return {
        "pack": "1.2.3",
        "system": {"host": "0.3.75", "torch": "2.9", "python": "3.12", "platform": "Linux", "arguments": ["--fast"]},
        "device": {"name": "cuda:0 NVIDIA Made Up", "type": "cuda", "vram_total": 24 * GB},
        "errors": {},
        "same": {"pack": {"here": "1.2.3", "server": "1.2.3"}, "base file": {"here": "ab", "server": "ab"}},
        "runs": {
            check.AUTO: {**run, "precision": "bfloat16", "cosine": 0.9, "length": 0.96, "stored": "float16"},
            check.FP32: {**run, "precision": "float32", "cosine": 0.9999, "length": 1.001, "stored": "float16"},
        },
        "cpu": {"seconds": 9.0},
        "judged": {"erased": {"before": 16, "after": 1, "of": 16}, "kept": {"before": 24, "after": 23, "of": 24}},
        "memory": {"before": look, "least": look, "after": look},
        "left": [],
        "seconds": 60.0,
    }


def verdict_of(figures: dict[str, Any]) -> tuple[bool, str]:
    return findings.verdict(findings.findings(figures), figures["device"])


def test_a_good_card_passes(figures):
    assert verdict_of(figures) == (True, "Everything is as it should be.")
    figures["verdict"] = verdict_of(figures)[1]
    screen = report.screen(figures, findings.findings(figures))
    assert screen.endswith(figures["verdict"]) and "16 > 1 of 16" in screen and " NO" not in screen
    assert len(screen.splitlines()) <= 24


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("runs", check.AUTO, "cosine"), 0.5, "as the host chooses: cosine"),
        (("runs", check.AUTO, "length"), 0.5, "as the host chooses: length"),
        (("runs", check.FP32, "cosine"), 0.9, "in fp32: cosine"),
        (("runs", check.FP32, "cosine"), None, "in fp32: cosine"),
        (("runs", check.FP32, "length"), None, "in fp32: length"),
        (("runs", check.AUTO, "device"), "cpu", "trained on"),
        (("runs", check.AUTO, "device"), None, "trained on"),
        (("runs", check.AUTO, "memory_peak"), GB, "memory"),
        (("judged", "erased", "after"), 5, '"cat" found'),
        (("judged", "erased", "before"), 11, '"cat" found'),
        (("judged", "kept", "after"), 20, "others found"),
        (("judged", "kept", "before"), 20, "others found"),
        (("same", "pack", "server"), "1.2.2", "pack in ComfyUI"),
        (("same", "base file", "server"), "", "base file in ComfyUI"),
        (("errors", "on the device"), {"words": "ESDErase (node erase): out of memory"}, "on the device"),
    ],
)
def test_what_is_not_as_it_should_be_is_named(figures, place, value, words):
    """One figure wrong: the verdict names it, and nothing else."""
    *way, last = place
    part = figures
    for name in way:
        part = part[name]
    part[last] = value
    good, sentence = verdict_of(figures)
    assert not good and words in sentence and sentence.count(";") == 0
    figures["verdict"] = sentence
    assert " NO" in report.screen(figures, findings.findings(figures))


def test_a_check_whose_device_fails_is_reported_all_the_same(figures):
    """No run, no judge, no CPU."""
    figures |= {
        "runs": {},
        "judged": None,
        "same": {},
        "cpu": None,
        "left": ["esd/check/difference_00001_.safetensors"],
    }
    with check.noted("on the device", figures):
        error = talk.ServerError("ESDErase (node erase): no kernel image")
        error.traceback = ('  File "/home/bob the builder/ComfyUI/execution.py", line 1\n',)
        raise error
    with check.noted("on the CPU", figures):
        raise ZeroDivisionError("by zero")
    good, figures["verdict"] = verdict_of(figures)
    assert not good and set(figures["errors"]) == {"on the device", "on the CPU"}
    assert figures["errors"]["on the CPU"]["words"] == "ZeroDivisionError: by zero"
    assert "no kernel image" in report.screen(figures, findings.findings(figures))
    text = report.as_text(figures, [Path("/home/bob the builder/ComfyUI")])
    assert json.loads(text)["errors"]["on the device"]["traceback"] == ['  File ".../execution.py", line 1\n']


def test_a_cpu_is_told_apart(figures):
    """It passes, and the verdict says what that is worth; memory that nobody counts is no fault."""
    figures["device"]["type"] = "cpu"
    for run in figures["runs"].values():
        run |= {"device": "cpu", "memory_peak": None}
    good, sentence = verdict_of(figures)
    assert good and "uses no GPU" in sentence


def test_a_host_that_rounds_the_weights_is_measured_as_half_precision(figures):
    """A MODEL in bfloat16 is another one already, whatever it is trained in."""
    figures["runs"][check.FP32] |= {"cosine": 0.9}
    assert not verdict_of(figures)[0]
    figures["runs"][check.FP32] |= {"stored": "bfloat16"}
    assert verdict_of(figures)[0]


def test_comparing():
    """Equal, opposite, longer, empty and broken changes; other weights are an error."""
    change = {"a.diff": torch.tensor([3.0, 0.0]), "b.diff": torch.tensor([[4.0]])}
    scaled = {factor: {name: t * factor for name, t in change.items()} for factor in (-1.0, 0.0, 2.0, math.nan)}
    assert compare.compared(change, change) == {"cosine": 1.0, "length": 1.0}
    assert compare.compared(scaled[2.0], change) == {"cosine": 1.0, "length": 2.0}
    assert compare.compared(scaled[-1.0], change)["cosine"] == -1.0
    assert compare.compared(scaled[0.0], change) == {"cosine": None, "length": 0.0}
    assert compare.compared(scaled[math.nan], change) == {"cosine": None, "length": None}
    with pytest.raises(ValueError, match="not the same"):
        compare.compared({"a.diff": change["a.diff"]}, change)


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["/home/bob/main.py", "--lowvram", "--reserve-vram", "1.5"], ["--lowvram", "--reserve-vram", "1.5"]),
        (["main.py", "--base-directory", "bob"], ["--base-directory", "..."]),
        (["main.py", "--base-directory=C:\\Users\\bob", "--fast", "a"], ["--base-directory=...", "--fast", "a"]),
        (["main.py", "--listen", "192.168.1.7", "--port", "8188"], ["--listen", "...", "--port", "8188"]),
        (["main.py", "--extra-model-paths-config", "a.yaml", "/b"], ["--extra-model-paths-config", "...", "..."]),
    ],
)
def test_arguments_are_shown_without_folders_and_addresses(argv, shown):
    assert report.arguments_shown(argv) == shown


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ("no file /home/bob/models/x.ckpt here", "no file .../models/x.ckpt here"),
        (r"no file D:\Bob\models\x.ckpt", "no file .../models/x.ckpt"),
        ("16 > 1 of 16, a/b, 2.9+cu128", "16 > 1 of 16, a/b, 2.9+cu128"),
        ("in /my own/place/x", "in .../x"),
    ],
)
def test_words_lose_their_paths(words, left):
    assert report.without_paths(words, ["/my own/place"]) == left


def test_the_recipe_names_different_objects_and_neighbours():
    names = [each.name for each in Recipe().judged()]
    assert names[:16] == [CONCEPT] * 16 and len(set(names)) == 25 and {"tiger", "lion"} <= set(names)
    assert [len(others(count)) for count in (0, 1, 8, 24, 79)] == [0, 1, 8, 24, 79]


def test_leavings_are_removed_with_the_run_that_was_kept(tmp_path):
    """The check's own by its seed; a user's run beside it stays."""
    from safetensors.torch import save_file

    made = tmp_path / "esd" / "check" / "difference_00001_.safetensors"
    runs = {seed: tmp_path / "esd" / "runs" / str(seed) / "erasure.safetensors" for seed in (SEED, 1)}
    for seed, path in (*runs.items(), (SEED, made)):
        path.parent.mkdir(parents=True)
        save_file({"a": torch.zeros(1)}, path, {"esd.seed": str(seed)})
    files = [{"filename": made.name, "subfolder": "esd/check", "type": "output"}]
    assert places.Leavings([tmp_path / "absent"], SEED, files).remove() == [f"esd/check/{made.name}"]
    assert places.Leavings([tmp_path / "absent", tmp_path], SEED, files).remove() == []
    assert [path.name for path in (tmp_path / "esd").iterdir()] == ["runs"]
    assert [path.name for path in (tmp_path / "esd" / "runs").iterdir()] == ["1"]


class Fake:
    """A server that looks for checkpoints in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, path: str) -> Any:
        return {"input": [each.name for each in self.folder.glob("*")]}


def test_the_checkpoint_is_put_where_the_server_looks_and_removed(tmp_path):
    """Another models folder is left as it was."""
    for name in ("one", "two"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    looked_into = tmp_path / "two" / "checkpoints"
    with places.checkpoint_in_place(Fake(looked_into), [tmp_path / "no", tmp_path / "one", tmp_path / "two"]):
        assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.ckpt")] == [
            "two/checkpoints/emoji-world.ckpt"
        ]
    assert not list(tmp_path.rglob("*.ckpt"))
    with pytest.raises(talk.ServerError, match="--models FOLDER"):
        with places.checkpoint_in_place(Fake(looked_into), [tmp_path / "one"]):
            pass
    assert not list(tmp_path.rglob("*.ckpt"))
    (looked_into / places.CHECKPOINT.name).touch()  # the user's own
    with places.checkpoint_in_place(Fake(looked_into), []):
        pass
    assert list(tmp_path.rglob("*.ckpt"))


def test_hosts_folder(tmp_path, monkeypatch):
    """The named one, that of the variable, that of the server's command line; else a sentence with the cure."""
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    (tmp_path / "comfy").mkdir()
    with pytest.raises(talk.ServerError, match="--comfyui"):
        places.host_folder(None, [str(tmp_path / "main.py")])
    (tmp_path / "main.py").touch()
    assert places.host_folder(None, [str(tmp_path / "main.py")]) == tmp_path.resolve()
    assert places.host_folder(tmp_path, ["main.py"]) == tmp_path.resolve()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    assert places.host_folder(None, ["main.py"]) == tmp_path.resolve()


def test_arguments():
    """Of the command that starts a server, and of the one that finds one."""
    parsed = arguments.check_parser().parse_args(["--steps", "5", "--", "--lowvram"])
    assert parsed.comfyui == ["--lowvram"] and parsed.steps == 5
    assert check.own_parser().parse_args([]).url == check.URL


def checked(*line: str, variables: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command as users do, from elsewhere."""
    command = [sys.executable, str(ROOT / "commands" / "check.py"), *line]
    environment = {**os.environ, **(variables or {})}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=Path.home(), env=environment)


def test_no_server_is_one_sentence(comfy_path):
    from lab.launch.server import free_port

    done = checked("--url", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1 and not done.stdout and len(done.stderr.strip().splitlines()) == 1
    assert "start ComfyUI as always and run the command again" in done.stderr


def test_a_refused_prompt_is_told_with_its_node(host):
    prompt = {"save": graph.new_node(host.get("/object_info"), "ESDSaveErasure", filename_prefix="../../x")}
    with pytest.raises(talk.ServerError, match=r"ESDSaveErasure \(node save\)"):
        talk.queue(host, prompt, "x")


def test_a_whole_check(host, comfy_path, tmp_path):
    """Against a real server on the CPU: the same bits, the judge content, nothing left, no folder told."""
    before = sorted(path for path in host.base.rglob("*") if "esd" in path.parts and "temp" not in path.parts)
    target = tmp_path / "report.json"
    few = ("--steps", "20", "--pictures", "4", "--others", "4")
    done = checked("--url", host.url, "--json", str(target), *few, variables={"COMFYUI_PATH": str(comfy_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(target.read_text("utf-8"))
    run = figures["runs"][check.AUTO]
    assert run["cosine"] > 0.999999 and run["precision"] == "float32" and run["memory_foretold"] > 0
    assert list(figures["runs"]) == [check.AUTO] and run["memory_peak"] is None and figures["left"] == []
    assert figures["judged"]["kept"] == {"before": 4, "after": 4, "of": 4}
    assert figures["judged"]["erased"]["before"] == 4 and figures["judged"]["erased"]["after"] <= 1
    assert not [folder for folder in (host.base, comfy_path, ROOT, Path.home()) if str(folder) in target.read_text()]
    after = sorted(path for path in host.base.rglob("*") if "esd" in path.parts and "temp" not in path.parts)
    assert [path for path in after if path.is_file()] == [path for path in before if path.is_file()]


def test_the_issue_forms_ask_for_the_report():
    forms = [path.read_text("utf-8") for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*report.yml")]
    assert len(forms) == 2 and all("commands/check.py" in form and "render: json" in form for form in forms)


def test_a_whole_check_on_the_second_device(comfy_path, tmp_path):
    """Trained there as on the CPU here, in as much memory as was foretold; before, least and after are told."""
    few, target = ("--steps", "20", "--pictures", "4", "--others", "4"), tmp_path / "report.json"
    with gpu_server(comfy_path, tmp_path / "base") as server:
        variables = {"COMFYUI_PATH": str(comfy_path)}
        done = checked("--url", server.url, "--json", str(target), *few, variables=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(target.read_text("utf-8"))
    run, memory = figures["runs"][check.AUTO], figures["memory"]
    assert run["device"].startswith("simgpu") and run["cosine"] > 0.99
    assert 0.85 <= run["memory_peak"] / run["memory_foretold"] <= 1.15
    assert memory["before"]["vram_free"] >= memory["after"]["vram_free"] > memory["least"]["vram_free"]
    assert figures["judged"]["kept"] == {"before": 4, "after": 4, "of": 4} and figures["left"] == []
    assert figures["judged"]["erased"]["before"] == 4 and figures["judged"]["erased"]["after"] <= 1
