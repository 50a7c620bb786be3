"""Measures by noise level: what a student of known distance gives, and that they agree with the live residual."""

from __future__ import annotations

import pytest
import torch

from esd_pack.esd.evaluate.in_model import measure
from esd_pack.esd.random_streams import MEASURING, stream_generator
from esd_pack.esd.residual import LEVELS, as_spec, hold_out, signed_residual
from esd_pack.esd.settings import Settings
from support.fakes import FakeConditions, FakeDenoiser, told

SETTINGS = Settings(num_inference_steps=8, guidance_scale=3.0)
CONDITIONS = FakeConditions()


class Shifted(FakeDenoiser):
    """A student that scales what a prompt does by `share`, and adds `shift` of it to every answer."""

    share, shift = 1.0, 0.0

    def predict(self, x, sigma, condition):
        raw = super().predict(x, sigma, condition)
        if self.answering is self.base:
            return raw
        null = super().predict(x, sigma, type(condition)({"text": told("").tensors["text"].expand(len(x), -1)}))
        cat = super().predict(x, sigma, type(condition)({"text": told("cat").tensors["text"].expand(len(x), -1)}))
        return null + self.share * (raw - null) + self.shift * (cat - null)


def trajectories(denoiser, count=1):
    draws = [stream_generator(seed, MEASURING) for seed in range(count)]
    return [hold_out(denoiser, CONDITIONS, [as_spec("cat")], SETTINGS, each)[0] for each in draws]


@pytest.mark.parametrize("share", [1.0, 0.25, 0.0, -1.0])
def test_the_share_of_what_a_prompt_did(share):
    denoiser = Shifted()
    denoiser.share = share
    found = measure(denoiser, CONDITIONS, trajectories(denoiser))
    assert found.residuals == pytest.approx([share] * LEVELS, abs=1e-5)
    assert found.drifts == pytest.approx([1 - share] * LEVELS, abs=1e-5)
    assert found.null_drifts == pytest.approx([0] * LEVELS, abs=1e-5) and found.prompt == "cat"


def test_a_shift_of_everything_is_drift_and_leaves_the_residual():
    denoiser = Shifted()
    denoiser.shift = 0.5
    found = measure(denoiser, CONDITIONS, trajectories(denoiser))
    assert found.residual == pytest.approx(1, abs=1e-5)
    assert (found.drift, found.null_drift) == pytest.approx((0.5, 0.5), abs=1e-5)


def test_it_is_the_live_residual_and_the_mean_of_trajectories():
    denoiser = FakeDenoiser()
    with torch.no_grad():
        denoiser.trainable["text.weight"].mul_(0.6).add_(0.1)
    both = trajectories(denoiser, 2)
    alone = [measure(denoiser, CONDITIONS, [each]) for each in both]
    live = [signed_residual(denoiser, CONDITIONS, each) for each in both]
    assert [each.residual for each in alone] == pytest.approx(live, abs=1e-5) and live[0] != live[1]
    together = measure(denoiser, CONDITIONS, both)
    assert together.residual == pytest.approx(sum(live) / 2, abs=1e-5)
    assert together.drift == pytest.approx((alone[0].drift + alone[1].drift) / 2)


def test_noisy_and_clean_halves():
    denoiser = FakeDenoiser()
    with torch.no_grad():
        denoiser.trainable["image.weight"].mul_(0.5)
    found = measure(denoiser, CONDITIONS, trajectories(denoiser))
    assert list(found.sigmas) == sorted(found.sigmas, reverse=True)
    assert found.high == pytest.approx(sum(found.residuals[:3]) / 3) != found.low
    assert found.residual == pytest.approx((found.high + found.low) / 2)


def test_what_it_costs():
    denoiser = FakeDenoiser()
    held = trajectories(denoiser, 2)
    before = denoiser.passes
    measure(denoiser, CONDITIONS, held)
    assert denoiser.passes - before == 4 * 2 * LEVELS and not any(call.training for call in denoiser.calls)
