"""A disk that is full or may not be written to: saves are refused in one sentence, and a training loses nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from support.faults import bits, leftovers, listening, make_world, sentence, undisturbed
from support.outcomes import record
from support.saves import SAVES, saved
from support.short_runs import module


class Disk:
    """A real disk of one megabyte under the host's output folder; its free bytes and its mode are the test's."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def leave(self, free: int) -> None:
        """Fill it until no more than so many bytes are free."""
        ballast = self.place / "ballast"
        ballast.unlink(missing_ok=True)
        space = os.statvfs(self.place)
        ballast.write_bytes(b"x" * (space.f_bavail * space.f_frsize - free))

    def may_be_written(self, yes: bool) -> None:
        """Remount it."""
        subprocess.run(["mount", "-o", f"remount,{'rw' if yes else 'ro'}", str(self.place)], check=True)


@pytest.fixture(scope="module")
def world(comfy, node_classes, comfy_base):
    return make_world(comfy, comfy_base)


@pytest.fixture(scope="module")
def whole(world):
    """The run on a disk with room."""
    outcome = world.erase(start="start over")
    world.clear()
    return outcome


@pytest.fixture
def disk(world, whole):
    """One megabyte, mounted over the output folder; needs the right to mount."""
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "esd-test", str(world.output)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("nothing can be mounted here: test_files.py has files that may not grow instead")
    yield Disk(world.output)
    subprocess.run(["umount", "-l", str(world.output)], check=True)


ROOM = {"lora": (0, 4096, 65536), "as loaded": (0, 524288), "as source": (0, 524288)}


def test_a_full_disk_refuses_every_save(world, disk, whole):
    times = 0
    for kind in SAVES:
        for free in ROOM.get(kind, (0, 65536, 524288)):
            disk.leave(free)
            with undisturbed(world):
                words = sentence(saved(world, whole, kind))
            assert "No space left on device" in words and "free some space" in words, (kind, free, words)
            files = [p.name for p in world.output.rglob("*") if p.is_file()]
            assert files == ["ballast"] and not leftovers(world.output)
            times += 1
    (world.output / "ballast").unlink()
    assert saved(world, whole, "lora").ending == "execution_success"
    record(
        "the disk is full or fills up in a save, each kind", times, "one sentence with the cure, no file, no leftover"
    )


def test_a_full_disk_costs_a_training_nothing(world, disk, whole):
    for free in (0, 65536):
        disk.leave(free)
        with undisturbed(world), listening() as told:
            outcome = world.erase(snapshot_every=1)
        assert bits(outcome) == bits(whole)
        said = [m["message"] for m in told.messages if m["state"] == "running" and m["step"] == 2]
        assert all(w.startswith("snapshot failed: ") and "No space left on device" in w for w in said)
        assert said and told.messages[-1]["state"] == "finished"
        assert "the result is not cached: " in told.messages[-1]["message"]
        assert not leftovers(world.output) and not list(world.runs.glob("*/*.*"))
    record("the disk is full while a run trains and keeps snapshots", 2, "the same bits as with room, and a sentence that says what is not kept")  # fmt: skip  # noqa: E501


def test_a_read_only_output_folder(world, disk, whole):
    left = world.output / "deep" / "x.safetensors.12345678.999999999.esd-partial"
    left.mkdir(parents=True)
    disk.may_be_written(False)
    try:
        for kind in SAVES:
            with undisturbed(world):
                words = sentence(saved(world, whole, kind))
            assert "Read-only file system" in words and "allow writing in the output folder" in words
        with undisturbed(world), listening() as told:
            outcome = world.erase(snapshot_every=1)
        assert bits(outcome) == bits(whole)
        assert "could not be made (Read-only file system)" in told.messages[-1]["message"]
        module("run.cleanup").delete_partials()  # at the start of a server
        assert left.exists()
    finally:
        disk.may_be_written(True)
    module("run.cleanup").delete_partials()
    assert not left.exists()
    record("an output folder that may not be written to: each save, a run with snapshots, a start with a leftover", len(SAVES) + 2, {  # noqa: E501
        "refused in one sentence": len(SAVES), "trained to the same bits, with a sentence": 1, "started": 1,
    })  # fmt: skip


def test_a_leftover_whose_number_another_process_has_now_is_swept(world, whole):
    """In containers the same few numbers come again at every start."""
    world.clear()
    left = world.output / f"x.safetensors.12345678.{os.getppid()}.esd-partial"
    left.mkdir()
    module("run.cleanup").delete_partials()
    assert left.exists()  # the parent may be writing it
    os.utime(left, (1e9, 1e9))
    module("run.cleanup").delete_partials()
    assert not left.exists()
    record("a leftover of a dead process whose number another process has now", 1, "swept at the next start")
