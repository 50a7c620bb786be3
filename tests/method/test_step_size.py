"""The learning rate that a run finds: from how fast what is left falls, whatever the network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from esd_pack.esd import step_size
from esd_pack.esd.concepts import make_concept
from esd_pack.esd.optimizers import make_optimizer
from esd_pack.esd.settings import ALL_STEPS, WHEN_GONE
from esd_pack.esd.snapshot import read_snapshot, write_snapshot
from esd_pack.esd.train import CHECK_EVERY, Training
from esd_pack.esd.until_gone import Left, settled
from support.fakes import FakeConditions, FakeDenoiser
from support.small_runs import LESSONS, assert_same, outcome

FINDING = replace(LESSONS, stop=WHEN_GONE, steps=40, learning_rate=0.0)


def left(*residuals: float, drift: float = 0.0) -> list[Left]:
    return [Left(f"{i}", {f"{i}": rho}, {f"{i}": 0.0}, drift=drift) for i, rho in enumerate(residuals)]


def begun(settings=FINDING, count=1) -> step_size.StepSize:
    weights = [torch.nn.Parameter(torch.ones(2, 2) * (1 + place)) for place in range(count)]
    return step_size.StepSize(make_optimizer(settings.optimizer, weights, step_size.first_rate(settings)), settings)


def training(settings=FINDING, denoiser=None) -> Training:
    chosen, settings = settled((make_concept("cat"),), settings)
    return Training(denoiser or FakeDenoiser(), FakeConditions(), chosen, (), settings)


class Scaled(FakeDenoiser):
    """A network whose weights are so many times larger, and do the same."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        for name in ("text.weight", "image.weight", "image.bias"):
            self.base[name] = self.base[name] * scale
            self.trainable[name] = torch.nn.Parameter(self.base[name].clone())
        self.answering = self.base

    def predict(self, x, sigma, condition):
        """Divide by the scale what the network multiplies with it."""
        answering = self.answering
        self.answering = {name: weight / self.scale for name, weight in answering.items()}
        try:
            return super().predict(x, sigma, condition)
        finally:
            self.answering = answering


class TestFound:
    """The rule."""

    def test_the_rate_is_in_inverse_proportion_to_the_fall(self):
        slow, fast = (step_size.missing(fall, 0.0) for fall in (0.002, 0.004))
        assert slow == pytest.approx(step_size.FALL / 0.002) and slow == pytest.approx(2 * fast)

    def test_it_is_lower_where_what_stays_drifts(self):
        assert step_size.missing(0.002, 0.005) == pytest.approx(step_size.DRIFT / 0.005)
        found = begun()
        found.measured(left(0.99, drift=0.095), 10)
        assert found.pace.rate == step_size.BEGIN  # it drifts as fast as it may

    @pytest.mark.parametrize(("fall", "drift"), [(0.0, 0.0), (-0.02, -0.1), (1e-9, 1e-9)])
    def test_where_nothing_moves_it_grows_by_so_much_at_most(self, fall, drift):
        assert step_size.missing(fall, drift) == step_size.FASTER

    def test_steps_are_shared_between_concepts(self):
        one, four = begun(), begun()
        one.measured(left(0.96), 10)
        four.measured(left(0.99, 0.99, 0.99, 0.99), 10)
        assert one.pace.rate == pytest.approx(four.pace.rate) and one.pace.rate == pytest.approx(1e-4)

    def test_it_grows_until_the_concept_falls_and_stays_then(self):
        found, rates = begun(), []
        for step, need in ((10, 1.0), (20, 0.999), (30, 0.9), (40, 0.5), (50, 0.3)):
            found.measured(left(need), step)
            rates.append(found.pace.rate)
        assert rates[0] == pytest.approx(3.2e-4) and rates[1] == step_size.MOST and len(set(rates[1:])) == 1

    def test_a_small_fall_is_counted_since_the_rate_was_set(self):
        """Ten steps of sixteen concepts are less than one each: what they tell is noise."""
        found = begun()
        found.measured(left(*[0.9985] * 16), 10)
        rate = found.pace.rate
        for step, need in ((20, 0.98), (30, 0.97), (40, 0.94)):
            found.measured(left(*[need] * 16), step)
        assert found.pace.rate == rate > step_size.BEGIN

    def test_of_a_low_rank_student_by_the_square_root(self):
        plain, low = begun(), begun(replace(FINDING, rank=4))
        for each in (plain, low):
            each.measured(left(0.975), 10)
        assert plain.pace.rate / step_size.BEGIN == pytest.approx((low.pace.rate / step_size.BEGIN_LOW_RANK) ** 2)

    @pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
    def test_it_is_halved_when_more_is_left_than_before(self, optimizer):
        found = begun(replace(FINDING, optimizer=optimizer), 2)
        at_first = [group["lr"] for group in found.optimizer.param_groups]
        for step, need in ((10, 0.99), (20, 0.6), (30, 0.65)):
            found.measured(left(need), step)
        rate = found.pace.rate
        found.measured(left(0.8), 40)
        assert found.pace.rate == rate / 2 > step_size.BEGIN
        rates = [group["lr"] for group in found.optimizer.param_groups]
        assert rates == [lr * (found.pace.rate / step_size.BEGIN) for lr in at_first]

    def test_it_is_halved_when_what_stays_runs_away(self):
        found, rates = begun(), []
        for step, need, drift in ((10, 0.99, 0.0), (20, 0.6, 0.8), (30, 0.5, 0.95), (40, 0.4, 1.1), (50, 0.3, 1.15)):
            found.measured(left(need, drift=drift), step)
            rates.append(found.pace.rate)
        assert len(set(rates[:3])) == 1 and rates[3:] == [rates[0] / 2, rates[0] / 4]

    def test_it_never_grows_again_once_something_has_moved(self):
        found, rates = begun(), []
        for step, need, drift in ((10, 0.99, 0.0), (20, 0.5, 0.3), (30, 0.65, 0.3), (40, 0.65, 0.3), (50, 0.65, 0.3)):
            found.measured(left(need, drift=drift), step)
            rates.append(found.pace.rate)
        assert rates[2:] == [rates[0] / 2] * 3
        drifting = begun()
        for step in (10, 20, 30):
            drifting.measured(left(1.0, drift=0.12), step)
        assert drifting.pace.rate == step_size.BEGIN

    def test_what_a_start_has_left_is_what_it_begins_with(self):
        found = begun()
        found.measured(left(0.6, drift=0.3), 0)
        found.measured(left(0.588, drift=0.3), 10)
        assert found.pace.rate == pytest.approx(step_size.BEGIN * step_size.FALL * 10 / 0.02)

    def test_where_a_start_has_left_little_the_usual_rate_stays(self):
        """Of sixteen concepts that are nearly gone ten steps tell nothing."""
        found, rates = begun(), []
        for step, need in ((0, 0.03), (10, 0.035), (20, 0.03), (30, 0.01)):
            found.measured(left(*[need] * 16, drift=1.2), step)
            rates.append(found.pace.rate)
        assert rates == [step_size.USUAL] * 4 and found.optimizer.param_groups[0]["lr"] == pytest.approx(
            step_size.USUAL
        )


class TestRuns:
    """Whole runs."""

    def test_the_first_steps_probe_and_the_rest_go_faster(self):
        run = training()
        denoiser = run.denoiser
        places, before = [], torch.cat([w.detach().flatten().clone() for w in denoiser.trainable.values()])
        for _ in run:
            now = torch.cat([w.detach().flatten().clone() for w in denoiser.trainable.values()])
            places.append(float((now - before).abs().max()))
            before = now
        assert max(places[:CHECK_EVERY]) <= 1.01 * step_size.BEGIN
        assert run.step_size.pace.rate > 10 * step_size.BEGIN and places[CHECK_EVERY] > 10 * step_size.BEGIN

    def test_it_follows_the_scale_of_the_weights(self):
        """Rates of Adam are in the weights' own units: a network of other units has another rate, and goes as fast."""
        runs = [training(denoiser=Scaled(scale)) for scale in (0.001, 0.003, 0.01, 0.05)]
        for run in runs:
            for _ in run:
                pass
        rates = [run.step_size.pace.rate for run in runs]
        assert rates == sorted(rates) and rates[-1] > 20 * rates[0]
        needs = [run.step_size.pace.last_need for run in runs]
        assert max(needs) - min(needs) < 0.15 and max(needs) < 0.9  # this network's empty prompt moves with the rest

    @pytest.mark.parametrize("stop", [3, CHECK_EVERY, CHECK_EVERY + 4])
    def test_a_run_resumes_bit_for_bit(self, tmp_path, stop):
        whole = training()
        for _ in whole:
            pass
        run = training()
        for step in run:
            if step.index + 1 == stop:
                break
        write_snapshot(run.snapshot(), tmp_path / "s", "the run")
        again = training()
        again.resume(read_snapshot(tmp_path / "s", "the run", again.denoiser))
        for _ in again:
            pass
        assert_same(outcome(again), outcome(whole), len(whole.losses))
        assert again.step_size.pace == whole.step_size.pace and again.worst == whole.worst

    def test_a_rate_that_is_given_is_kept(self):
        run = training(replace(FINDING, learning_rate=1e-3))
        for _ in run:
            pass
        assert run.step_size is None and run.optimizer.param_groups[0]["lr"] == 1e-3

    def test_a_run_of_all_steps_measures_for_it_and_ends_nowhere_earlier(self):
        run = training(replace(FINDING, stop=ALL_STEPS, steps=60))
        shares = [run.streams[0].state.shares for _ in run]
        assert len(run.losses) == 60 and not run.is_gone and run.step_size.pace.rate > step_size.BEGIN
        assert set(shares) == {()} and run.left
