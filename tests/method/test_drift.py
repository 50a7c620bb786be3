"""How far the keeps have drifted, and when a run measures that."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from esd_pack.esd import drift
from esd_pack.esd.concepts import Keep, make_concept, make_keep
from esd_pack.esd.denoiser import Condition
from esd_pack.esd.settings import WHEN_GONE
from esd_pack.esd.train import Training
from esd_pack.esd.until_gone import LOOK_EVERY, settled
from support.fakes import WIDTH, FakeConditions, FakeDenoiser, TokenConditions, TokenDenoiser
from support.small_runs import LESSONS

KEEPS = (make_keep("dog\ntree", 1.0), Keep(("",)))


class TestGauge:
    """One measurement."""

    def test_nothing_has_moved_at_first_and_shares_follow_what_moves_later(self):
        denoiser = TokenDenoiser()
        gauge = drift.KeepGauge(denoiser, TokenConditions(), KEEPS[:1], LESSONS)
        unmoved = gauge.measure()
        assert [each.moved for each in unmoved] == [0.0, 0.0] and drift.shares_by_drift(unmoved) == [1.0, 1.0]
        assert drift.percents(unmoved) == {"dog": 0, "tree": 0}
        with torch.no_grad():
            denoiser.trainable["text.weight"].mul_(0.5)
        found = gauge.measure()
        moved, shares = [each.moved for each in found], drift.shares_by_drift(found)
        assert min(moved) > 0 and (moved[0] > moved[1]) == (shares[0] > shares[1])
        assert min(drift.percents(found).values()) > 0

    def test_a_prompt_that_is_silenced_has_moved_by_all_that_it_did(self):
        denoiser, conditions = FakeDenoiser(), FakeConditions()
        conditions[""] = Condition({"text": torch.zeros(1, WIDTH)})
        gauge = drift.KeepGauge(denoiser, conditions, (make_keep("dog", 1.0),), LESSONS)
        gauge.measure()
        with torch.no_grad():
            denoiser.trainable["text.weight"].zero_()
        assert drift.percents(gauge.measure()) == {"dog": 100}

    def test_the_empty_prompt_has_no_share(self):
        denoiser = FakeDenoiser()
        gauge = drift.KeepGauge(denoiser, FakeConditions(), KEEPS, LESSONS)
        assert [each.prompt for each in gauge.measure()] == ["dog", "tree", ""]
        assert set(drift.percents(gauge.measure())) == {"dog", "tree"}

    def test_a_measurement_takes_the_passes_foretold(self):
        denoiser = FakeDenoiser()
        gauge = drift.KeepGauge(denoiser, FakeConditions(), KEEPS, LESSONS)
        gauge.measure()
        before = denoiser.passes
        gauge.measure()
        assert denoiser.passes - before == drift.drift_passes(KEEPS) == 6


class TestRuns:
    """When it is measured."""

    @pytest.mark.parametrize("steps", [20, LOOK_EVERY + 10])
    def test_a_run_until_gone_knows_it_at_its_end(self, steps):
        chosen, settings = settled((make_concept("cat"),), replace(LESSONS, stop=WHEN_GONE, steps=steps, eta=1.0))
        run = Training(FakeDenoiser(), FakeConditions(), chosen, KEEPS, settings)
        told = [step.drifts for step in run]
        assert [each.prompt for each in run.drifts] == ["dog", "tree", ""] and told[-1] == run.drifts
        assert run.drifts == drift.KeepGauge(run.denoiser, run.conditions, KEEPS, settings).measure()
        assert not told[0] and bool(told[min(LOOK_EVERY, len(told)) - 1])

    def test_without_keeps_there_is_nothing_to_measure(self):
        chosen, settings = settled((make_concept("cat"),), replace(LESSONS, stop=WHEN_GONE, steps=10))
        run = Training(FakeDenoiser(), FakeConditions(), chosen, (), settings)
        assert all(not step.drifts for step in run) and run.drifts == ()
