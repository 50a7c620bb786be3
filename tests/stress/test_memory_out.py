"""Memory that runs out, at every stage of a run and of a save: one sentence, nothing changed, the next run works."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from support.faults import SHORT, STEPS, bits, leftovers, listening, make_world, sentence, undisturbed
from support.outcomes import record
from support.saves import SAVES, saved
from support.short_runs import module

DEVICE = "CUDA out of memory. Tried to allocate 2.00 GiB."
SYSTEM = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"
)
ERRORS = (MemoryError, lambda: torch.cuda.OutOfMemoryError(DEVICE), lambda: RuntimeError(SYSTEM))
"""Makers of what Python, a GPU and PyTorch on a CPU raise: one that is kept would keep all that it went through."""


@pytest.fixture(scope="module")
def world(comfy, tiny, comfy_base):
    made = make_world(comfy, comfy_base, tiny)
    yield made
    made.clear()


@pytest.fixture(scope="module")
def saving(comfy, node_classes, comfy_base):
    """The playground, whose checkpoint is in a file."""
    return make_world(comfy, comfy_base)


@pytest.fixture(scope="module")
def whole(world):
    return bits(world.erase(vae=True, start="start over"))


def raising(error):
    def fail(*args, **kwargs):
        raise error()

    return fail


def in_call(patch, error, with_gradients, in_backward=False):
    """Fail in the second network call of a kind, or in its backward, with all that it made still there."""
    denoiser, calls = module("model.denoiser").HostDenoiser, []
    original = denoiser._call

    def call(self, *args):
        raw = original(self, *args)
        if torch.is_grad_enabled() is with_gradients and not raw.is_meta:  # no rehearsal
            calls.append(1)
            if len(calls) == 2 and in_backward:
                raw.register_hook(raising(error))
            elif len(calls) == 2:
                raise error()
        return raw

    patch.setattr(denoiser, "_call", call)


def in_optimizer(patch, error):
    """Fail in the second step, when half of the weights have moved."""
    original, calls = torch.optim.AdamW.step, []

    def step(self):
        calls.append(1)
        if len(calls) < 2:
            return original(self)
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"][::2]:
                parameter.add_(1.0)
        raise error()

    patch.setattr(torch.optim.AdamW, "step", step)


STAGES = {
    "the text encoder": lambda patch, world, error: patch.setattr(
        type(world.clip), "encode_from_tokens_scheduled", raising(error)
    ),
    "a walk's forward": lambda patch, world, error: in_call(patch, error, False),
    "the student's forward": lambda patch, world, error: in_call(patch, error, True),
    "the backward": lambda patch, world, error: in_call(patch, error, True, in_backward=True),
    "the optimiser's step": lambda patch, world, error: in_optimizer(patch, error),
}


@pytest.mark.parametrize("stage", STAGES)
def test_it_is_said_in_one_sentence_and_the_next_run_works(world, whole, stage):
    for error in ERRORS:
        world.clear()
        with undisturbed(world), listening() as told, pytest.MonkeyPatch.context() as patch:
            STAGES[stage](patch, world, error)
            words = sentence(world.erase(vae=True))
        assert words.startswith("Memory ran out while ") and ("choose rank 16" in words or "close other" in words)
        assert stage == "the text encoder" or (told.messages[-1]["state"], told.messages[-1]["message"]) == (
            "failed",
            words,
        )
    kept = list(world.runs.glob("*/snapshot.esd"))
    assert bool(kept) == (stage in ("the student's forward", "the backward"))  # where a step had been completed
    assert bits(world.erase(vae=True)) == whole
    record(f"memory runs out in {stage}", len(ERRORS), "one sentence with the cure; the MODEL is as it was, the run's memory is free, and the next run gives the same bits")  # fmt: skip  # noqa: E501


BESIDE = {
    "preview": lambda patch, world, error: patch.setattr(type(world.vae), "decode", raising(error)),
    "snapshot": lambda patch, world, error: patch.setattr(module("run.store"), "write_snapshot", raising(error)),
    "result": lambda patch, world, error: patch.setattr(module("run.store"), "save_differences", raising(error)),
}


@pytest.mark.parametrize("what", BESIDE)
def test_beside_a_training_it_costs_no_training(world, whole, what):
    for error in ERRORS:
        world.clear()
        with undisturbed(world), listening() as told, pytest.MonkeyPatch.context() as patch:
            patch.setattr(module("run.preview"), "STEPS", 1)
            BESIDE[what](patch, world, error)
            outcome = world.erase(vae=True, preview_every=2 if what == "preview" else 0, snapshot_every=1)
        assert bits(outcome) == whole
        said = [m["message"] for m in told.messages if "Memory ran out while" in m["message"]]
        assert said and all(words.endswith(".") and f"the {what} was made" in words for words in said)
        assert told.messages[-1]["state"] == "finished"
        assert ("Memory" in told.messages[-1]["message"]) == (what != "snapshot" or bool(said))
    record(f"memory runs out while the {what} is made", len(ERRORS), "training goes on to the same bits, and says what is missing with the cure")  # fmt: skip  # noqa: E501


@contextmanager
def short_of_memory(kind, error):
    _, where, name = SAVES[kind]
    with pytest.MonkeyPatch.context() as patch:
        place = module(where).comfy.lora if name == "calculate_weight" else module(where)
        patch.setattr(place, name, raising(error))
        yield


@pytest.mark.parametrize("kind", SAVES)
def test_in_a_save_no_file_is_left(saving, kind):
    world, outcome = saving, saving.erase()
    errors = ERRORS if SAVES[kind][0] == "ESDSaveErasure" else ERRORS[1:2]  # a checkpoint is loaded for every try
    for error in errors:
        with undisturbed(world), short_of_memory(kind, error):
            words = sentence(saved(world, outcome, kind))
        assert words.startswith("Memory ran out while ") and "close other programs" in words
        assert not [p for p in (world.output / "kept").rglob("*") if p.is_file()] and not leftovers(world.output)
    if kind in ("difference", "lora", "official"):
        assert saved(world, outcome, kind).ending == "execution_success"
    world.clear()
    record(f"memory runs out while {kind} is saved", len(errors), "one sentence with the cure, no file, no leftover")


def test_the_shortest_run_has_every_stage():
    assert STEPS >= 3 and SHORT["buffer_size"] < STEPS  # a second walk after the first step
