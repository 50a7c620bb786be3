"""Files: whole or not at all, and readable by others."""

from __future__ import annotations

import contextlib
import os
import re

import pytest
import torch
from safetensors import safe_open

from esd_pack.esd.erasure import Erasure, lora_key, save_differences
from esd_pack.esd.errors import EsdError
from esd_pack.esd.files.atomic import TEMPORARY, write_atomically, write_folder_atomically, writer_of
from esd_pack.esd.files.safetensors_write import write_safetensors

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None

needs_limits = pytest.mark.skipif(resource is None, reason="needs a system that can limit a file's size")


@contextlib.contextmanager
def disk_full_after(size: int):
    """A real one, for this process: the system refuses to let a file grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def read(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 a method, no dict


def test_tensors_and_metadata_come_back(tmp_path):
    wide = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": wide.T, "b": torch.ones(2, dtype=torch.bfloat16), "c": wide[:, ::2], "d": wide[0]}
    write_safetensors(tensors, tmp_path / "w.safetensors", {"esd.concepts": "cat"})
    found, metadata = read(tmp_path / "w.safetensors")
    assert metadata == {"esd.concepts": "cat"}
    assert found.keys() == tensors.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_inference_tensors_and_tracked_ones_can_be_written(tmp_path):
    with torch.inference_mode():
        made = torch.ones(3)
    write_safetensors({"a": made, "b": torch.nn.Parameter(torch.zeros(2))}, tmp_path / "w.safetensors", {})
    assert read(tmp_path / "w.safetensors")[0]["a"].tolist() == [1.0, 1.0, 1.0]


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "w.bin"
    path.write_bytes(b"old")

    def half(temporary):
        assert temporary.parent.parent == path.parent
        temporary.write_bytes(b"ne")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomically(path, half)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("w.bin", b"old")]


def test_the_name_stands_for_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "w.bin"
    path.write_bytes(b"old")

    def write(temporary):
        temporary.write_bytes(b"new")
        written.append(temporary.stat().st_ino)
        assert path.read_bytes() == b"old"

    written: list[int] = []
    write_atomically(path, write)
    assert [path.stat().st_ino] == written  # renamed, not copied
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("w.bin", b"new")]


@needs_limits
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    path = tmp_path / "w.safetensors"
    with (
        disk_full_after(100_000),
        pytest.raises(EsdError, match=r"w\.safetensors could not be written .*: free some space"),
    ):
        write_safetensors({"a": torch.zeros(100_000)}, path, {})
    assert list(tmp_path.iterdir()) == []


@needs_limits
def test_a_full_disk_under_any_writer_is_said(tmp_path):
    with disk_full_after(10), pytest.raises(EsdError, match=r"w\.bin could not be written .*: free some space"):
        write_atomically(tmp_path / "w.bin", lambda temporary: temporary.write_bytes(b"x" * 100))
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Flushed with all its bytes while it still bears the temporary name, or a power cut leaves a name for nothing."""
    flushed = []

    def fsync(descriptor: int) -> None:
        flushed.append((os.fstat(descriptor).st_size, (tmp_path / "a").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(tmp_path / "a", lambda path: path.write_bytes(b"12345"))
    assert flushed == [(5, False)]


def test_a_folder_appears_whole_and_flushed(tmp_path, monkeypatch):
    """In a place whose own folders are not there yet, and nothing else is left beside it."""
    target, flushed = tmp_path / "deep" / "unet", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append((os.fstat(descriptor).st_size, target.exists())))

    def write(folder):
        (folder / "config.json").write_bytes(b"{}")
        (folder / "weights").write_bytes(b"12345")

    write_folder_atomically(target, write)
    assert {p.name: p.read_bytes() for p in target.iterdir()} == {"config.json": b"{}", "weights": b"12345"}
    assert sorted(flushed) == [(2, False), (5, False)]
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_that_fails_half_way_leaves_nothing(tmp_path):
    def write(folder):
        (folder / "weights").write_bytes(b"12345")
        raise OSError(28, "No space left on device")

    with pytest.raises(EsdError, match=r"unet could not be written \(No space left on device\): free some space"):
        write_folder_atomically(tmp_path / "unet", write)
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_folder_names_its_writer(tmp_path):
    seen = []
    write_atomically(tmp_path / "a", lambda path: (seen.append(path), path.write_bytes(b"1")))
    folder = seen[0].parent
    assert writer_of(folder) == os.getpid() != writer_of(folder.with_suffix(""))


@pytest.mark.parametrize("name", ["a.12345678.77", f"a.x{TEMPORARY}", f"a{TEMPORARY}", "a.safetensors", "77", ""])
def test_other_names_have_no_writer(tmp_path, name):
    assert writer_of(tmp_path / name) is None


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    with pytest.raises(EsdError, match="allow writing in the output folder"):
        write_safetensors({"a": torch.zeros(1)}, tmp_path / "missing" / "w.safetensors", {})


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("diffusion_model.a.to_q.weight", "diffusion_model.a.to_q.diff"),
        ("diffusion_model.a.to_out.0.bias", "diffusion_model.a.to_out.0.diff_b"),
    ],
)
def test_lora_keys(name, key):
    assert lora_key(name) == key


def test_a_name_that_no_lora_file_can_hold_is_refused():
    with pytest.raises(EsdError, match=re.escape('"diffusion_model.a.scale" is neither a weight nor a bias')):
        lora_key("diffusion_model.a.scale")


def test_differences_are_saved_under_lora_keys_with_their_metadata(tmp_path):
    differences = {"diffusion_model.a.weight": torch.ones(2, 3), "diffusion_model.a.bias": torch.zeros(2)}
    save_differences(Erasure(differences, {"esd.seed": "7"}), tmp_path / "w.safetensors")
    found, metadata = read(tmp_path / "w.safetensors")
    assert metadata == {"esd.seed": "7"}
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        "diffusion_model.a.diff": [[1.0] * 3] * 2,
        "diffusion_model.a.diff_b": [0.0, 0.0],
    }


def test_erased_weights_print_short_and_know_their_size():
    weights = Erasure({"a.weight": torch.zeros(1000, 10), "b.bias": torch.zeros(5)}, {"esd.concepts": "cat"})
    assert len(repr(weights)) < 80 and "cat" in repr(weights)
    assert weights.get_ram_usage() == 40_020
