"""The signed residual: 1 in the untouched model, 0 where the prompt does nothing more, -eta at the target."""

from __future__ import annotations

import pytest
import torch

from esd_pack.esd.concepts import make_concept
from esd_pack.esd.evaluate.residual import LEVELS, hold_out, percent_left, signed_residual
from esd_pack.esd.settings import Settings
from esd_pack.esd.train import erase
from support.fakes import FakeConditions, FakeDenoiser, told

CONCEPTS = [make_concept("cat"), make_concept("hat", erase_from="man in a hat")]
SETTINGS = Settings(num_inference_steps=8, guidance_scale=3.0, learning_rate=1e-2, steps=300)


class Scaled(FakeDenoiser):
    """A student whose prompt does `share` of what it does in the base."""

    share = 1.0

    def predict(self, x, sigma, condition):
        raw = super().predict(x, sigma, condition)
        if self.answering is self.base:
            return raw
        text = told("").tensors["text"].expand(len(x), -1)
        null = super().predict(x, sigma, type(condition)({"text": text}))
        return null + self.share * (raw - null)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0, -1.0])
def test_it_is_the_share_of_what_the_prompt_did(share):
    denoiser = Scaled()
    denoiser.share = share
    points = hold_out(denoiser, FakeConditions(), CONCEPTS, SETTINGS)
    assert [each.prompt for each in points] == ["cat", "man in a hat"]
    for each in points:
        assert each.x.shape == each.change.shape == (LEVELS, 2, 4, 4) and each.sigma.shape == (LEVELS,)
        assert signed_residual(denoiser, FakeConditions(), each) == pytest.approx(share, abs=1e-5)


def test_what_it_costs():
    denoiser = FakeDenoiser()
    (points,) = hold_out(denoiser, FakeConditions(), CONCEPTS[:1], SETTINGS)
    assert denoiser.passes == 2 * LEVELS
    signed_residual(denoiser, FakeConditions(), points)
    assert denoiser.passes == 4 * LEVELS and max(call.samples for call in denoiser.calls) == 2
    assert not any(call.training for call in denoiser.calls)


def test_a_short_grid_has_each_level_once():
    points = hold_out(
        FakeDenoiser(), FakeConditions(), CONCEPTS[:1], Settings(num_inference_steps=3, guidance_scale=1.0)
    )
    assert points[0].sigma.tolist() == FakeDenoiser().sigmas(3)[:-1].tolist()


def test_it_falls_while_the_concept_is_erased_and_changes_no_bit():
    denoiser, conditions = FakeDenoiser(), FakeConditions()
    (points,) = hold_out(denoiser, conditions, CONCEPTS[:1], SETTINGS)
    found = [signed_residual(denoiser, conditions, points)]

    def measure(step):
        if step.index % 100 == 99:
            found.append(signed_residual(denoiser, conditions, points))

    watched = erase(denoiser, conditions, CONCEPTS[:1], SETTINGS, on_step=measure)
    assert found[0] == pytest.approx(1.0, abs=1e-5) and sorted(found, reverse=True) == found and found[-1] < 0.2
    alone = FakeDenoiser()
    assert erase(alone, FakeConditions(), CONCEPTS[:1], SETTINGS).losses == watched.losses
    assert all(torch.equal(alone.trainable[name], weight) for name, weight in denoiser.trainable.items())


def test_held_out_points_are_no_training_examples():
    denoiser, conditions = FakeDenoiser(), FakeConditions()
    (points,) = hold_out(denoiser, conditions, CONCEPTS[:1], SETTINGS)
    denoiser.calls.clear()
    erase(denoiser, conditions, CONCEPTS[:1], SETTINGS)
    trained = [x for call in denoiser.calls if call.training for x in call.x]
    assert not any(torch.equal(x, held) for x in trained for held in points.x)


@pytest.mark.parametrize(("residual", "percent"), [(1.0, 100), (1.3, 100), (0.123, 12), (0.0, 0), (-1.0, 0)])
def test_what_people_are_shown(residual, percent):
    assert percent_left(residual) == percent
