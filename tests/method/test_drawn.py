"""What the base says of the student's pictures, and when a run looks at them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from esd_pack.esd import drawn, until_gone
from esd_pack.esd.concepts import make_concept
from esd_pack.esd.contexts import by_kind
from esd_pack.esd.examples import concept_specs
from esd_pack.esd.passes import planned_passes
from esd_pack.esd.settings import Settings
from esd_pack.esd.train import Training
from esd_pack.esd.until_gone import GoneGauge, Left, looking_passes, measuring_passes, settled
from support.fakes import FakeConditions, FakeDenoiser

CAT, INK = make_concept("cat"), make_concept("ink style")
SETTINGS = Settings(steps=20, num_inference_steps=8, trajectory_batch=2, guidance_scale=3.0, buffer_size=8)


def looked(denoiser: FakeDenoiser, prompt: str, many: int = 12) -> list[bool]:
    """What pictures under a prompt show of the style."""
    specs = [replace(spec, prompt=prompt) for spec, _ in concept_specs(INK, SETTINGS)] * many
    return drawn.shown(denoiser, FakeConditions(), specs, SETTINGS, torch.Generator().manual_seed(3))


def test_an_untouched_student_shows_what_it_is_told():
    """And does not show it where it is told nothing."""
    denoiser = FakeDenoiser()
    assert all(looked(denoiser, "ink style")) and not any(looked(denoiser, ""))


def test_it_is_the_student_who_draws_and_the_base_who_looks():
    """Text that moves the student away from what the base draws under it is seen to do so."""
    denoiser = FakeDenoiser()
    with torch.no_grad():
        denoiser.trainable["text.weight"].neg_()
    assert not any(looked(denoiser, "ink style"))
    drawing = sum(call.samples for call in denoiser.calls if call.student)
    assert drawing / denoiser.passes == drawn.STEPS / (drawn.STEPS + len(drawn.LEVELS))
    assert not any(call.training for call in denoiser.calls) and max(call.samples for call in denoiser.calls) == 4


def test_a_look_costs_what_it_says():
    (ink,) = by_kind([INK])
    denoiser, gauge = FakeDenoiser(), GoneGauge(FakeDenoiser(), FakeConditions(), [ink], SETTINGS)
    gauge.denoiser = denoiser
    left, is_gone = gauge.check(0)
    assert left[0].shown == 7 / 8 and left[0].percent == 88 and not is_gone  # what is drawn here is noise
    looking = looking_passes([ink, *by_kind([CAT])], SETTINGS)
    assert denoiser.passes == measuring_passes([ink], SETTINGS) + 8 * drawn.PASSES
    assert looking == (8 + 20) * drawn.PASSES  # twice, once it has been trained
    without = replace(SETTINGS, stop="after all steps")
    assert planned_passes(SETTINGS, [ink], []) - planned_passes(without, [ink], []) >= looking


@pytest.mark.parametrize(("limit", "done", "looks"), [(-9.0, 0, 1), (-9.0, 10, 0), (-9.0, 50, 2), (9.0, 10, 2)])
def test_a_style_is_looked_at_now_and_then_and_once_its_residuals_are_down(monkeypatch, limit, done, looks):
    monkeypatch.setitem(until_gone.GONE, "style", (limit, limit))
    asked = []
    monkeypatch.setattr(until_gone, "shown", lambda *arguments: asked.append(arguments) or [False] * 8)
    gauge = GoneGauge(FakeDenoiser(), FakeConditions(), by_kind([INK]), SETTINGS)
    left, is_gone = gauge.check(done)
    assert len(asked) == looks and is_gone == bool(looks) and left[0].percent == (0 if looks else 100)
    assert [len(specs) for _, _, specs, *_ in asked] == [8, 20][:looks]


def test_a_second_look_is_only_for_what_the_first_does_not_show(monkeypatch):
    asked = []
    monkeypatch.setattr(until_gone, "shown", lambda *arguments: asked.append(arguments) or [True, False])
    left, is_gone = GoneGauge(FakeDenoiser(), FakeConditions(), by_kind([INK]), SETTINGS).check(50)
    assert len(asked) == 1 and left[0].shown == 0.5 and not is_gone


def test_nothing_is_looked_at_while_an_object_is_left(monkeypatch):
    """And objects are confirmed without the styles beside them."""
    monkeypatch.setattr(until_gone, "shown", lambda *arguments: [False] * 8)
    gauge = GoneGauge(FakeDenoiser(), FakeConditions(), by_kind([CAT, INK]), SETTINGS)
    left, is_gone = gauge.check(0)
    assert not is_gone and [each.shown for each in left] == [None, None]
    monkeypatch.setattr(until_gone, "UNTRAINED", (9.0, 9.0))
    left, is_gone = gauge.check(0)
    assert is_gone and [each.shown for each in left] == [None, 0.0]


def test_a_picture_that_shows_it_counts_whatever_its_residual_is():
    left = Left("ink style", {"ink style": -1.0}, {"ink style": 0.0})
    assert left.is_gone and not replace(left, shown=0.25).is_gone and replace(left, shown=0.25).percent == 25


def test_a_start_that_leaves_a_style_is_taken_back(monkeypatch):
    """And the run is then the one that begins without it, bit for bit."""
    concepts, chosen = settled([INK], SETTINGS)

    def losses(scale: float) -> list[float]:
        denoiser = FakeDenoiser()
        with torch.no_grad():
            denoiser.trainable["text.weight"].mul_(scale)
        run = Training(
            denoiser, FakeConditions(), concepts, [], chosen,
            lambda: denoiser.trainable["text.weight"].data.copy_(denoiser.base["text.weight"]),
        )  # fmt: skip
        list(run)
        return [*run.losses, *run.worst]

    monkeypatch.setattr(until_gone, "shown", lambda *arguments: [False, True])
    assert losses(0.9) == losses(1.0)
    monkeypatch.setattr(until_gone, "shown", lambda *arguments: [False])
    assert losses(0.9) != losses(1.0)


def test_a_run_ends_at_a_start_that_shows_nothing(monkeypatch):
    monkeypatch.setattr(until_gone, "shown", lambda *arguments: [False] * 8)
    concepts, chosen = settled([INK], SETTINGS)
    run = Training(FakeDenoiser(), FakeConditions(), concepts, [], chosen)
    assert not list(run) and run.is_gone and run.left[0].percent == 0 and len(run.worst) == 1
