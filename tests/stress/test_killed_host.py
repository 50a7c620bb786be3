"""Killed while the host's process saves or trains: what was there is whole, the rest is swept, and all goes on."""

from __future__ import annotations

import functools
import itertools
import os
import signal

import pytest

from support.faults import (
    DEAD,
    STEPS,
    in_child,
    killed_at_byte,
    killed_at_call,
    leftovers,
    listening,
    make_world,
    needs_fork,
)
from support.outcomes import record
from support.short_runs import module

pytestmark = needs_fork


@pytest.fixture(scope="module")
def world(comfy, node_classes, comfy_base):
    made = make_world(comfy, comfy_base)
    made.clear()
    yield made
    made.clear()


@pytest.fixture(scope="module")
def erased(world):
    outcome = world.erase()
    return outcome["model"], outcome["weights"]


def save(world, erased, kind):
    """By the function that the node calls."""
    saving, exports = module("files.save"), module("files.export")
    model, weights = erased
    if kind in exports.FORMATS:
        export = exports.Export(weights, weights.metadata, world.model, 2)
        return saving.save_erasure(f"kept/{kind}", export, {}, kind)[0]
    source = world.base / "models" / "checkpoints" / "emoji-world.ckpt"
    parts = saving.Parts(model, world.clip, world.vae, source)
    return saving.save_checkpoint(f"kept/{kind}", parts, weights, {}, kind)[0]


CALLS = {"as source": (2, 3, 6), "as loaded": (2, 3, 6), "diffusers unet": (2, 5, 8)}
"""After the temporary folder is made, before a flush, and after the renaming; smaller files try every moment."""

BYTES = (0, 5, 1000, 10_000)


def moments(kind):
    """How to kill, each with the moment."""
    for size in BYTES:
        yield killed_at_byte, size
    for number in CALLS.get(kind, itertools.count(1)):
        yield killed_at_call, number


@pytest.mark.parametrize("kind", ["as source", "as loaded", "difference", "lora", "official", "diffusers unet"])
def test_in_a_save(world, erased, kind):
    folder = world.output / "kept"
    folder.mkdir(exist_ok=True)
    older = folder / f"{kind}_00000_.safetensors"
    older.write_bytes(b"older")
    happened = {"no file under a name": 0, "the whole file": 0}
    sizes = set()
    for killed, moment in moments(kind):
        ending = killed(moment, functools.partial(save, world, erased, kind))
        if ending == 0:
            break
        assert ending in DEAD
        module("run.cleanup").delete_partials()
        assert not leftovers(world.output) and older.read_bytes() == b"older"
        made = [path for path in folder.iterdir() if path != older]
        happened["the whole file" if made else "no file under a name"] += 1
        for path in made:
            files = [p for p in (path.iterdir() if path.is_dir() else [path]) if p.suffix == ".safetensors"]
            with module("files.checkpoint").open_tensors(files[0]) as file:
                assert file.tensors
            sizes.add(files[0].stat().st_size)
            os.rename(path, world.base / "temp" / f"{path.name}-{moment}")
    assert all(happened.values()) and len(sizes) == 1
    for path in world.output.rglob(f"{kind}*"):
        path.unlink()
    record(f"killed while {kind} is saved, and started again", sum(happened.values()), happened)


def content(path):
    """All values and metadata of a file; the writer puts the latter in any order."""
    with module("files.checkpoint").open_tensors(path) as file:
        return {name: each.load().numpy().tobytes() for name, each in file.tensors.items()}, dict(file.metadata)


def run(world, **inputs):
    with listening():
        assert world.erase(snapshot_every=1, **inputs).ending == "execution_success"


def run_killed_in_pass(world, number):
    """The process kills itself in the n-th network call."""
    denoiser, calls = module("model.denoiser").HostDenoiser, itertools.count(1)
    original = denoiser._call

    def call(self, *args):
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args)

    denoiser._call = call
    run(world)


def test_in_a_training(world):
    world.clear()
    assert in_child(functools.partial(run, world)) == 0  # in a child too: its bits are those of one thread
    (kept,) = world.runs.glob("*/erasure.safetensors")
    whole, steps = content(kept), {}
    deaths = [
        *((killed_at_byte, size, run) for size in (0, 1000)),
        *((killed_at_call, number, run) for number in (1, 9, 20, 28)),
        *((in_child, None, number) for number in (1, 4, 6)),
    ]
    for kill, moment, how in deaths:
        world.clear()
        if kill is in_child:
            ending = in_child(functools.partial(run_killed_in_pass, world, how))
        else:
            ending = kill(moment, functools.partial(run, world))
        assert ending in DEAD
        module("run.cleanup").delete_partials()
        assert not leftovers(world.output)
        begun = sum(path.stat().st_size > 0 for path in world.runs.glob("*/*"))
        assert in_child(functools.partial(run, world)) == 0
        assert content(kept) == whole and not list(world.runs.glob("*/snapshot.esd"))
        what = "gone on with from what was kept" if begun else "begun anew"
        steps[what] = steps.get(what, 0) + 1
    assert len(steps) == 2 and len(deaths) > STEPS
    record("killed in a run of the Erase node, and queued again after a start", len(deaths), {
        f"{what}, to the same bits": times for what, times in steps.items()
    })  # fmt: skip
