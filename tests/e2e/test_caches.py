"""Servers that forget what nodes have made, each in its way, and one that is killed: over the same folders."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from lab.launch.server import Server
from lab.launch.workflow import nodes_of, set_input, to_prompt
from support.outcomes import record
from support.serving import (
    ERASE,
    line_of,
    other,
    progress_of,
    runs_of,
    saved,
    shipped,
    short_prompt,
    with_settings,
    words_of,
)

pytestmark = pytest.mark.full

LRU, NONE, RAM = ("--cache-lru", "1"), ("--cache-none",), ("--cache-ram", "100000")
"""The last one wants 100000 GB kept free, so that everything is forgotten as soon as it may be."""

STEPS = 40
"""Of the run that is killed."""


class Serving:
    """One server at a time over one base folder."""

    def __init__(self, comfy_path: Path, base: Path) -> None:
        self.comfy_path, self.base = comfy_path, base
        self.server: Server | None = None
        self.arguments: tuple[str, ...] = ()

    def __call__(self, arguments: tuple[str, ...]) -> Server:
        """The server with these arguments, started unless it is on."""
        if self.server is None or self.arguments != arguments or self.server.process.poll() is not None:
            self.stop()
            self.arguments = arguments
            self.server = Server(self.comfy_path, self.base, arguments=["--cpu", *arguments]).wait()
        return self.server

    def stop(self) -> None:
        """End it."""
        if self.server is not None:
            self.server.stop()


@pytest.fixture(scope="module")
def serving(comfy_path, tmp_path_factory):
    made = Serving(comfy_path, tmp_path_factory.mktemp("forgetful"))
    yield made
    made.stop()


def whole_workflow(server: Server, seed: int) -> dict[str, Any]:
    """The workflow that ships, with its training and its pictures cut short."""
    info = server.get("/object_info")
    short = {"num_inference_steps": 4, "samples_per_trajectory": 2, "trajectory_batch": 2}
    erase = {"steps": 3, "seed": seed, "start": "reuse or resume", "preview_every": 0, "stop": "after all steps"}
    made = with_settings(to_prompt(shipped("erase_an_object"), info), info, **short)
    for class_type, inputs in {
        "ESDErase": erase,
        "ESDBeforeAfter": {"steps": 1, "prompts": "cat"},
    }.items():
        for name, value in inputs.items():
            set_input(made, class_type, name, value)
    return made


def queued_twice(server: Server, seed: int) -> bool:
    """Run the workflow twice; whether the host had forgotten the Erase node's outputs in between."""
    prompt = whole_workflow(server, seed)
    (erase,), (save,) = nodes_of(prompt, "ESDErase"), nodes_of(prompt, "ESDSaveErasure")
    first = server.run(prompt)
    assert progress_of(first.events, erase)
    for other_node in ("ESDSaveCheckpoint", "SaveImage", "LossGraphNode"):
        assert first.outputs[nodes_of(prompt, other_node)[0]]
    second = server.run(prompt)
    assert progress_of(second.events, erase) == []  # no network pass
    forgotten = erase in {e["data"]["node"] for e in second.events if e["type"] == "executing"}
    if forgotten:
        assert "trained before with the same inputs" in words_of(server, erase)
        assert saved(server, second.outputs, save) == saved(server, first.outputs, save)
    return forgotten


def test_lru(serving):
    queued_twice(serving(LRU), 1)
    record("the shipped workflow queued twice with --cache-lru 1", 2, "the same bits, trained once")


def test_killed_while_it_writes_a_snapshot_and_started_again(serving):
    """With another way of forgetting, so that nothing but the folder can have helped."""
    server = serving(LRU)
    given = short_prompt(server.get("/object_info"), steps=STEPS, snapshot_every=1, start="reuse or resume", seed=3)
    left = kill_while_it_writes(server, given)
    server = serving(NONE)
    assert left and not list(server.base.rglob("*.esd-partial"))
    (snapshot,) = runs_of(server).glob("*/snapshot.esd")
    done = len(load_file(snapshot)["losses"])
    run = server.run(given)
    assert f"resumed after step {done} of {STEPS}" in line_of(server, "resumed after step")
    whole = saved(server, run.outputs)
    assert 1 <= done < STEPS and len(whole) > 1
    anew = server.run(other(given, ERASE, start="start over", snapshot_every=0))
    assert progress_of(anew.events, ERASE)[0] < progress_of(run.events, ERASE)[0]  # it counts what was done before
    assert saved(server, anew.outputs) == whole
    assert not list(server.base.rglob("*.esd-partial"))
    record("the server killed while it writes a snapshot, and started again", 1, "on from the snapshot, same bits")


def test_none(serving):
    assert queued_twice(serving(NONE), 2)
    record("the shipped workflow queued twice with --cache-none", 2, "the same bits, trained once")


def test_ram_pressure(serving, comfy_path):
    if RAM[0] not in (comfy_path / "comfy" / "cli_args.py").read_text("utf-8"):
        pytest.skip("this host has no --cache-ram")
    assert queued_twice(serving(RAM), 4)
    record(
        "the shipped workflow queued twice with --cache-ram and no memory to spare", 2, "the same bits, trained once"
    )


def kill_while_it_writes(server: Server, prompt: dict[str, Any], seconds: float = 600) -> list[str]:
    """Queue a run, and end the server at once with a half-written file and a whole snapshot; names of the former."""
    server.post("/prompt", {"prompt": prompt})
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if any(runs_of(server).glob("*/snapshot.esd")) and any(runs_of(server).glob("*/*.esd-partial")):
            os.killpg(server.process.pid, signal.SIGSTOP)  # it may have finished the file meanwhile
            left = [path.name for path in runs_of(server).glob("*/*.esd-partial")]
            if left:
                os.killpg(server.process.pid, signal.SIGKILL)
                server.process.wait()
                return left
            os.killpg(server.process.pid, signal.SIGCONT)
        server.check_alive()
        time.sleep(0.0005)
    raise AssertionError("no file was seen half-written")
