"""A process that is killed at any moment of a write or a training loses nothing that was there before."""

from __future__ import annotations

import functools
import itertools
import os
import shutil

import pytest
import torch

from esd_pack.esd.errors import EsdError
from esd_pack.esd.files.atomic import write_folder_atomically, writer_of
from esd_pack.esd.files.lazy import open_tensors
from esd_pack.esd.files.lazy_tensor import in_memory
from esd_pack.esd.files.safetensors_write import write_safetensors, write_stream
from esd_pack.esd.settings import Settings
from esd_pack.esd.snapshot import read_snapshot, write_snapshot
from support.faults import DEAD, in_child, killed_at_byte, killed_at_call, leftovers, needs_fork
from support.outcomes import record
from support.small_runs import SHORT, STEPS, assert_same, finished, training

pytestmark = needs_fork

BYTES = (0, 1, 7, 8, 100, 1000, 3000, 3999)
NEW, OLD = torch.arange(1000.0), torch.zeros(3)


def values(path):
    with open_tensors(path) as file:
        return {name: stored.load().tolist() for name, stored in file.tensors.items()}


def as_folder(folder):
    def write(inside):
        (inside / "config.json").write_bytes(b"{}")
        write_stream(inside / "weights.safetensors", {"w": in_memory(NEW)}, {})

    write_folder_atomically(folder, write)


def deaths(work):
    """Kill it at every call and at the bytes; yields how each child ended."""
    for number in itertools.count(1):
        ending = killed_at_call(number, work)
        if ending == 0:
            break
        yield ending
    for size in BYTES:
        yield killed_at_byte(size, work)


def test_a_file_that_is_replaced_is_the_old_or_the_new_one(tmp_path):
    path, found = tmp_path / "w.safetensors", {"old": 0, "new": 0}
    write_safetensors({"w": OLD}, path, {})
    before = path.read_bytes()
    for ending in deaths(lambda: write_safetensors({"w": NEW}, path, {})):
        assert ending in DEAD
        now = {name: kept for name, kept in (("old", OLD), ("new", NEW)) if values(path) == {"w": kept.tolist()}}
        (which,) = now
        found[which] += 1
        assert all(writer_of(p) not in (None, os.getpid()) for p in leftovers(tmp_path))
        assert {p for p in tmp_path.iterdir() if p not in leftovers(tmp_path)} == {path}
        path.write_bytes(before)
        for left in leftovers(tmp_path):
            shutil.rmtree(left)
    assert found["old"] > len(BYTES) and found["new"]
    assert in_child(lambda: write_safetensors({"w": NEW}, path, {})) == 0 and values(path) == {"w": NEW.tolist()}
    record("killed while a file is written over an older one", sum(found.values()), {
        "the older file is whole": found["old"], "the newer file is whole": found["new"],
    })  # fmt: skip


def test_a_folder_is_whole_or_not_there(tmp_path):
    target, found = tmp_path / "unet", {True: 0, False: 0}
    for ending in deaths(lambda: as_folder(target)):
        assert ending in DEAD
        found[target.exists()] += 1
        if target.exists():
            assert sorted(p.name for p in target.iterdir()) == ["config.json", "weights.safetensors"]
            assert values(target / "weights.safetensors") == {"w": NEW.tolist()}
        for path in tmp_path.iterdir():
            assert path == target or writer_of(path)
            os.rename(path, tmp_path.parent / f"{tmp_path.name}-{sum(found.values())}-{path.name}")
    assert all(found.values())
    as_folder(target)
    record("killed while a folder of files is written", sum(found.values()), {
        "the folder is whole": found[True], "no folder under that name": found[False],
    })  # fmt: skip


def go_on(path):
    """A run that keeps a snapshot after every step, and goes on from the one that there is."""
    run = training(Settings(**SHORT, buffer_size=4))
    if path.exists():
        run.resume(read_snapshot(path, "the run", run.denoiser))
    for _ in run:
        write_snapshot(run.snapshot(), path, "the run")
    return run


def test_a_killed_training_goes_on_bit_for_bit(tmp_path):
    whole = finished(training(Settings(**SHORT, buffer_size=4)))
    size = _size_of_a_snapshot(tmp_path / "size.esd")
    steps = {}
    moments = itertools.chain(
        ((killed_at_byte, int(size * share)) for share in (0.0, 0.01, 0.3, 0.9, 0.999)),
        ((killed_at_call, number) for number in itertools.count(1)),
    )
    for number, (killed, moment) in enumerate(moments):
        path = tmp_path / f"{number}.esd"
        ending = killed(moment, functools.partial(go_on, path))
        if ending == 0:
            break
        assert ending in DEAD
        done = len(_resumed(path).losses) if path.exists() else 0
        steps[done] = steps.get(done, 0) + 1
        assert_same(_outcome(go_on(path)), whole)
    assert set(range(STEPS + 1)) == set(steps)
    record("killed in a training that writes snapshots, and begun again", sum(steps.values()), {
        f"went on after step {done} to the same bits": times for done, times in steps.items()
    })  # fmt: skip


def _size_of_a_snapshot(path):
    run = training(Settings(**SHORT, buffer_size=4))
    next(iter(run))
    write_snapshot(run.snapshot(), path, "the run")
    return path.stat().st_size


def _resumed(path):
    run = training(Settings(**SHORT, buffer_size=4))
    run.resume(read_snapshot(path, "the run", run.denoiser))
    return run


def _outcome(run):
    return run.losses, {name: p.detach().clone() for name, p in run.denoiser.trainable.items()}


def test_a_killed_reader_of_a_changing_file_is_none(tmp_path):
    """A memory-mapped file that becomes shorter kills whoever reads on: it is noticed before."""
    path = tmp_path / "w.pt"
    endings = []
    for damage in (lambda: os.truncate(path, 100), lambda: path.write_bytes(path.read_bytes()[::-1])):
        torch.save({f"{i}": torch.full((5000,), float(i)) for i in range(4)}, path)

        def read(damage=damage):
            with open_tensors(path) as file:
                loads = [stored.load for stored in file.tensors.values()]
                loads[0]().sum()
                damage()
                with pytest.raises(EsdError, match=r"w\.pt changed while it was read: let its download finish"):
                    loads[3]().sum()

        endings.append(in_child(read))
    assert endings == [0, 0]
    record("a weights file overwritten or cut while it is being read", len(endings), "refused in one sentence")
