"""A run that is stopped, kept and gone on with gives what it would have given: bit for bit."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from esd_pack.esd.errors import EsdError
from esd_pack.esd.files.lazy import open_tensors
from esd_pack.esd.files.safetensors_write import write_safetensors
from esd_pack.esd.settings import Settings
from esd_pack.esd.snapshot import _check, read_snapshot, write_snapshot
from esd_pack.esd.train import Training
from support.fakes import Call, FakeDenoiser
from support.small_runs import SHORT, STEPS, assert_same, finished, outcome, training

VARIANTS = {
    "default": Settings(**SHORT),
    "pools": Settings(**SHORT, buffer_size=4),
    "refreshed": Settings(**SHORT, buffer_size=3, draws_per_buffer=5),
    "student": Settings(**SHORT, sampler_model="student", buffer_size=2),
    "published": Settings(
        **{**SHORT, "samples_per_trajectory": 1, "trajectory_batch": 1}, strided=False, buffer_size=1
    ),
    "batches": Settings(**SHORT, batch_size=2, gradient_accumulation_steps=2, buffer_size=5),
    "adafactor": Settings(**SHORT, optimizer="adafactor"),
}


def test_an_optimisers_state_may_hold_mappings(tmp_path):
    """As that of bitsandbytes does since 2026."""
    run = training(VARIANTS["default"])
    next(iter(run))
    inner = {"state1": torch.arange(4, dtype=torch.uint8), "quant": {"absmax": torch.ones(2), "block": 256}}
    snapshot = replace(run.snapshot(), optimizer={0: {"step": 3, "__bnb_optimizer_quant_state__": inner}})
    write_snapshot(snapshot, tmp_path / "s", "the run")
    (state,) = read_snapshot(tmp_path / "s", "the run", run.denoiser).optimizer.values()
    found = state["__bnb_optimizer_quant_state__"]
    assert state["step"] == 3 and found["quant"]["block"] == 256
    assert torch.equal(found["state1"], inner["state1"]) and torch.equal(found["quant"]["absmax"], torch.ones(2))


def gone_on_with(run: Training, path: Path) -> Training:
    """A new run, as after a restart, from the file of this one's snapshot."""
    write_snapshot(run.snapshot(), path, "the run")
    fresh = training(run.settings)
    fresh.resume(read_snapshot(path, "the run", fresh.denoiser))
    return fresh


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("stop", range(1, STEPS))
def test_stopped_after_any_step(tmp_path, name, stop):
    whole = finished(training(VARIANTS[name]))
    run = training(VARIANTS[name])
    for _ in itertools.islice(run, stop):
        pass
    assert_same(finished(gone_on_with(run, tmp_path / "snapshot.esd")), whole)


def test_stopped_after_every_step(tmp_path):
    whole = finished(training(VARIANTS["student"]))
    run = training(VARIANTS["student"])
    while next(iter(run), None):
        run = gone_on_with(run, tmp_path / "snapshot.esd")
    assert_same(outcome(run), whole)


@pytest.mark.parametrize("name", ["default", "student", "refreshed", pytest.param("batches", marks=pytest.mark.full)])
def test_interrupted_in_any_network_call(tmp_path, name):
    """In walks, at missing predictions and in the student's own call; what had been learnt by then goes on."""
    counting = FakeDenoiser()
    whole = finished(training(VARIANTS[name], counting))
    resumed = 0
    for number in range(len(counting.calls)):
        calls = itertools.count()

        def interrupt(call: Call, number: int = number, calls: itertools.count = calls) -> None:
            if next(calls) == number:
                raise KeyboardInterrupt

        run = training(VARIANTS[name], FakeDenoiser(interrupt))
        with pytest.raises(KeyboardInterrupt):
            finished(run)
        if run.snapshot() is not None:
            assert_same(finished(gone_on_with(run, tmp_path / "snapshot.esd")), whole)
            resumed += 1
    assert resumed >= STEPS - 1


def test_nothing_is_kept_before_the_first_step_or_from_a_torn_one():
    run = training(VARIANTS["default"])
    assert run.snapshot() is None
    next(iter(run))
    assert run.snapshot() is not None

    def fails() -> None:
        raise MemoryError

    run.optimizer.step = fails
    with pytest.raises(MemoryError):
        next(iter(run))
    assert run.snapshot() is None


def test_global_random_state_is_neither_read_nor_moved(tmp_path):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    run = training(VARIANTS["default"])
    next(iter(run))
    one = finished(gone_on_with(run, tmp_path / "snapshot.esd"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert_same(one, finished(training(VARIANTS["default"])))


def test_a_snapshot_of_another_run_is_refused(tmp_path):
    run = training(VARIANTS["default"])
    next(iter(run))
    write_snapshot(run.snapshot(), tmp_path / "snapshot.esd", "the run")
    with pytest.raises(EsdError, match='another run.*start to "start over"'):
        read_snapshot(tmp_path / "snapshot.esd", "some other run", run.denoiser)


@pytest.mark.parametrize("keep", [0.0, 0.2, 0.5, 0.9, 0.999])
def test_a_damaged_snapshot_is_refused(tmp_path, keep):
    run = training(VARIANTS["default"])
    next(iter(run))
    path = tmp_path / "snapshot.esd"
    write_snapshot(run.snapshot(), path, "the run")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(EsdError, match="cannot be used"):
        read_snapshot(path, "the run", run.denoiser)


LIES = {
    "an optimiser of other weights": lambda tensors, text: text.update(numbers='{"optimizer/99/x": 1.0}'),
    "a weight of another shape": lambda tensors, text: tensors.update(
        {name: torch.zeros(3) for name in tensors if name.startswith("student/")}
    ),
    "an order beyond its examples": lambda tensors, text: tensors["stream/0/order"].add_(1000),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_snapshot_that_lies_under_a_right_checksum_is_refused(tmp_path, lie):
    run = training(VARIANTS["default"])
    next(iter(run))
    path = tmp_path / "snapshot.esd"
    write_snapshot(run.snapshot(), path, "the run")
    with open_tensors(path) as file:
        tensors = {name: stored.load() for name, stored in file.tensors.items()}
        text = {key: value for key, value in file.metadata.items() if key != "check"}
    LIES[lie](tensors, text)
    write_safetensors(tensors, path, {**text, "check": _check(tensors, text)})
    with pytest.raises(EsdError, match="cannot be used"):
        read_snapshot(path, "the run", run.denoiser)


def test_one_bit_of_a_snapshot_is_missed(tmp_path):
    run = training(VARIANTS["default"])
    next(iter(run))
    path = tmp_path / "snapshot.esd"
    write_snapshot(run.snapshot(), path, "the run")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(EsdError, match="it is damaged"):
        read_snapshot(path, "the run", run.denoiser)
