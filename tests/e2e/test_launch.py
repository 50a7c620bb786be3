"""The commands' parts: the environment's stamps, the command line, the demo's words, the server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab import progress
from lab.launch import arguments, base, demo, newest, server, setup

ROOT = Path(__file__).resolve().parents[2]


def test_json_of_an_outcome() -> None:
    """Exactly the promised keys."""
    rate = demo.Rate(1.0, 0.5, 4)
    rates, paths = demo.Rates(rate, rate, rate), {"checkpoint": "a", "weights": "b", "picture": "c"}
    outcome = demo.Outcome(["cat"], rates, paths, 1.25)
    found = {"before": 1.0, "after": 0.5, "n": 4}
    assert outcome.as_json() == {
        "erased": {"concept": "cat", **found},
        "unseen": found,
        "kept": found,
        "seconds": 1.2,
        "paths": {"checkpoint": "a", "weights": "b", "picture": "c"},
    }
    assert "before 4 of 4 (100 %), after 2 of 4 (50 %)" in demo.report(outcome)


def test_a_stamp_saves_the_second_making(tmp_path: Path) -> None:
    """Made once; again when what was wanted changes; from nothing after an interruption."""
    folder, calls = tmp_path / "thing", []

    def make(target: Path) -> None:
        calls.append(sorted(path.name for path in target.glob("*")))
        target.mkdir(exist_ok=True)
        (target / "half").touch()

    def cut_short(target: Path) -> None:
        make(target)
        raise KeyboardInterrupt

    for wanted in ("a", "a", "b"):
        setup._once(folder, wanted, make)
    assert calls == [[], ["half"]]
    with pytest.raises(KeyboardInterrupt):
        setup._once(folder, "c", cut_short)
    setup._once(folder, "c", make)
    assert calls[2:] == [["half"], []] and setup.stamp_of(folder).read_text() == "c"


def test_fingerprint_follows_contents(tmp_path: Path) -> None:
    """Of files, and of strings kept apart."""
    file = tmp_path / "requirements.txt"
    file.write_text("a")
    first = setup.fingerprint("x", file)
    file.write_text("b")
    assert len({first, setup.fingerprint("x", file), setup.fingerprint("xb", "")}) == 3


def test_a_wrong_comfyui_path_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is made."""
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(setup.SetupError, match="no main.py"):
        setup.ensure()


def test_the_python_of_a_users_comfyui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The named one, else the one of its venv, else this one; one without torch is passed over."""
    venv_python = setup.python_in(tmp_path / "venv")
    venv_python.parent.mkdir(parents=True)
    venv_python.write_text("#!/bin/sh\nexit 0\n")
    venv_python.chmod(0o755)
    monkeypatch.delenv("COMFYUI_PYTHON", raising=False)
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    assert setup.find_python(tmp_path) == venv_python
    venv_python.write_text("#!/bin/sh\nexit 1\n")
    assert setup.find_python(tmp_path) == Path(sys.executable)
    monkeypatch.setenv("COMFYUI_PYTHON", str(tmp_path / "absent"))
    with pytest.raises(setup.SetupError, match="COMFYUI_PYTHON"):
        setup.find_python(tmp_path)


def test_without_a_newest_host_its_tests_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line that says how to name one, and that is no failure."""
    monkeypatch.delenv(newest.FOLDER, raising=False)
    line = [sys.executable, str(ROOT / "run.py"), "test", "--host", "newest"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, newest.SKIPPED + "\n", "")


def test_the_newest_host_is_chosen() -> None:
    """Its folder, and its Python or none at all; a Python that was named for another host is not taken."""
    ordinary = {"COMFYUI_PATH": "old", "COMFYUI_PYTHON": "old python"}
    variables = {**ordinary, newest.FOLDER: "new"}
    assert newest.choose(variables) and variables == {"COMFYUI_PATH": "new", newest.FOLDER: "new"}
    variables[newest.PYTHON] = "new python"
    assert newest.choose(variables) and variables["COMFYUI_PYTHON"] == "new python"
    assert not newest.choose(ordinary)


def test_the_tests_for_the_newest_host() -> None:
    """Those of the list, which all exist, with further arguments; or those that are named."""
    listed = [f"tests/{name}" for name in newest.TESTS]
    assert newest.pytest_arguments(["-k", "page"]) == [*listed, "-k", "page"]
    assert all((ROOT / path).exists() for path in listed)
    for named in ("tests/e2e/test_page.py", "tests/e2e/test_page.py::test_a"):
        assert newest.pytest_arguments(["-q", named]) == ["-q", named]


def test_commands_leave_torch_to_those_that_need_it() -> None:
    """Tests choose their threads before torch is there, and load the pack in a way of their own."""
    line = "import sys, lab.launch.__main__; sys.exit('torch' in sys.modules or 'esd_pack.esd' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", line], cwd=ROOT, check=False).returncode == 0


def test_concepts_of_the_demo() -> None:
    """Several, each once, and an attribute of an object."""
    line = ["--erase", "cat", "--erase", "sunglasses", "--from", "face wearing sunglasses", "--erase", "cat"]
    chosen = arguments.parse_demo(line)
    assert [task.inputs for task in chosen.erase] == [
        {"concept": "cat", "erase_from": ""},
        {"concept": "sunglasses", "erase_from": "face wearing sunglasses"},
    ]
    assert [task.concept for task in arguments.parse_demo([]).erase] == ["cat"]


@pytest.mark.parametrize("line", [[], ["--help"], ["demo", "--help"], ["serve", "--help"]])
def test_help(line: list[str]) -> None:
    """Without making an environment."""
    done = subprocess.run([sys.executable, str(ROOT / "run.py"), *line], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "run.py" in done.stdout and not done.stderr


@pytest.mark.parametrize(
    "line, words",
    [
        (["demo", "--erase", "unicorn"], "does not draw"),
        (["demo", "--from", "cat"], "--erase before it"),
        (["demo", "--erase", "halo", "--from", "cat"], "not part of"),
        (["demo", "--steps", "0"], "above 0"),
        (["serve", "--port", "99999"], "not a port"),
        (["bench", "absent"], "Name a benchmark"),
        (["test", "--host", "oldest"], "invalid choice"),
        (["dance"], "no command"),
    ],
)
def test_wrong_arguments_are_explained(line: list[str], words: str) -> None:
    """On stderr, with an exit code that is not 0."""
    done = subprocess.run([sys.executable, str(ROOT / "run.py"), *line], capture_output=True, text=True, timeout=60)
    assert done.returncode and words in done.stderr and "Traceback" not in done.stderr


def test_serve_passes_arguments_on() -> None:
    """Those after the dashes."""
    assert arguments.serve_parser().parse_args(["--port", "1", "--", "--lowvram"]).comfyui == ["--lowvram"]


def test_plain_progress(capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no terminal: a line for the beginning and one for the end, not one for each step."""
    line = progress.ProgressLine(sys.stdout)
    show = progress.PromptProgress(line, {"1": {"class_type": "ESDErase"}})
    show({"type": "executing", "data": {"node": "1"}})
    for value in range(100):
        show({"type": "progress", "data": {"node": "1", "value": value, "max": 100}})
    line.end()
    assert capsys.readouterr().out == "Erasing ...\nErasing: done\n"


def test_placed_files_and_links(tmp_path: Path) -> None:
    """A file is copied once; a link to another checkout is renewed."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("one")
    base.place_file(source, target)
    base.place_file(source, target)
    assert target.read_text() == "one" and not target.is_symlink() and len(list(tmp_path.iterdir())) == 2
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        base.link_folder(tmp_path / folder, tmp_path / "link")
        assert (tmp_path / "link").resolve() == tmp_path / folder


def test_models_of_a_users_comfyui_are_shared(tmp_path: Path) -> None:
    """By a configuration file, where they are."""
    (tmp_path / "host" / "models" / "loras").mkdir(parents=True)
    made = base.prepare_base(tmp_path / "base", tmp_path / "host")
    text = (made / "extra_model_paths.yaml").read_text()
    assert text == f"comfyui:\n    loras: {json.dumps(str(tmp_path / 'host' / 'models' / 'loras'))}\n"


def test_what_the_server_refuses_is_told() -> None:
    """Each faulty node with its errors."""
    errors = [{"message": "Value too small", "details": "steps"}]
    answer = {"node_errors": {"3": {"class_type": "ESDErase", "errors": errors}}}
    assert server.describe_refusal(answer).endswith("ESDErase (node 3): Value too small (steps)")
    assert server.describe_refusal({"error": {"message": "no outputs"}}).endswith("no outputs")


@pytest.mark.full
def test_refused_and_failing_prompts(host: Any) -> None:
    """Over HTTP: a bad value is refused with its node; a stopped server is noticed."""
    bad = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": -1, "height": 8, "batch_size": 1, "color": 0}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    with pytest.raises(server.ServerError, match=r"EmptyImage \(node 1\)"):
        host.run(bad)
    bad["1"]["inputs"]["width"] = 8
    run = host.run(bad)
    assert host.path_of(run.outputs["2"]["images"][0]).is_file()


@pytest.mark.full
def test_no_process_survives_a_server(comfy_path: Path, tmp_path: Path) -> None:
    """Stopped while it starts: its process is gone, and waiting for it says so."""
    started = server.Server(comfy_path, tmp_path, arguments=["--cpu"])
    started.stop()
    assert started.process.poll() is not None
    with pytest.raises(server.ServerError, match="ended by itself"):
        started.wait()
    started.stop()


@pytest.mark.full
@pytest.mark.parametrize("name", arguments.bench_names(ROOT / "lab" / "bench"))
def test_every_bench_starts(name: str) -> None:
    line = [sys.executable, str(ROOT / "lab" / "launch" / "__main__.py"), "bench", name, "--help"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout
