"""Cancel at every tick of the progress bar: nothing is changed, what was learnt goes on, the next prompt is free."""

from __future__ import annotations

from collections import Counter

import pytest

from support.faults import STEPS, bits, leftovers, listening, make_world, undisturbed
from support.outcomes import record
from support.short_runs import module


@pytest.fixture(scope="module")
def world(comfy, tiny, comfy_base):
    made = make_world(comfy, comfy_base, tiny)
    made.clear()
    yield made
    made.clear()


AGAIN = {
    (0, 0): "begun anew, to the same bits",
    (1, 0): "gone on with after the last step, to the same bits",
    (0, 1): "was ready, and taken as it is",
}
"""What the same inputs queued again do, by the number of snapshots and of results that are kept."""


def ticking(patch, at=0):
    """Count the ticks of the host's progress bar, and press cancel at one of them."""
    import comfy.model_management
    import comfy.utils

    ticks, original = [], comfy.utils.ProgressBar.update_absolute

    def update(self, value, total=None, preview=None):
        original(self, value, total, preview)
        ticks.append(value)
        if len(ticks) == at:
            comfy.model_management.interrupt_current_processing()

    patch.setattr(comfy.utils.ProgressBar, "update_absolute", update)
    return ticks


def run(world, at=0, **inputs):
    with listening(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module("run.preview"), "STEPS", 1)
        ticks = ticking(patch, at)
        return world.erase(vae=True, preview_every=2, **inputs), len(ticks)


def test_at_every_tick_of_a_run(world):
    outcome, ticks = run(world, start="start over")
    whole, resumed = bits(outcome), Counter()
    for at in range(1, ticks + 1):
        world.clear()
        with undisturbed(world):
            stopped, heard = run(world, at)
        assert stopped.ending == "execution_interrupted" and heard == at
        assert not leftovers(world.output)
        snapshot, result = (len(list(world.runs.glob(f"*/{n}"))) for n in ("snapshot.esd", "erasure.safetensors"))
        with undisturbed(world):
            again, passed = run(world)
        assert bits(again) == whole
        assert (passed < ticks) == bool(snapshot or result)
        resumed[AGAIN[snapshot, result]] += 1
    assert resumed[AGAIN[0, 0]] and resumed[AGAIN[1, 0]] >= STEPS - 1
    record("cancel at every tick of a run's progress bar", resumed.total(), resumed)
