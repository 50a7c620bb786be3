"""A number that is not finite, wherever it appears, ends the run with its step named and what was kept before it."""

from __future__ import annotations

import itertools

import pytest
import torch

from esd_pack.esd.errors import EsdError
from esd_pack.esd.settings import Settings
from support.fakes import FakeDenoiser
from support.outcomes import record
from support.small_runs import SHORT, STEPS, assert_same, finished, training

SETTINGS = Settings(**{**SHORT, "samples_per_trajectory": 1, "trajectory_batch": 1}, strided=False, buffer_size=1)
"""As published: every step's examples are made in that step, so that a fault of the base belongs to it."""


class Faulty(FakeDenoiser):
    """A base or student that answers, or learns from, a value that is none, from a step on."""

    def __init__(self, where: str, step: int, value: float) -> None:
        super().__init__()
        self.where, self.step, self.value, self.trained = where, step, value, itertools.count(1)

    def predict(self, x, sigma, condition):
        raw = super().predict(x, sigma, condition)
        if not torch.is_grad_enabled():
            due = self.where == "base" and self.now == self.step
            return torch.full_like(raw, self.value) if due else raw
        if self.now == self.step and self.where == "loss":
            return raw * self.value
        if self.now == self.step and self.where == "gradient":
            raw.register_hook(lambda gradient: gradient * self.value)
        return raw

    now = 0


def run_with(where, step, value):
    """The run until it is refused, its weights after the step before, and the sentence."""
    denoiser = Faulty(where, step, value)
    run = training(SETTINGS, denoiser)
    denoiser.now = 1
    before = {n: p.detach().clone() for n, p in denoiser.trainable.items()}
    with pytest.raises(EsdError) as refusal:
        for made in run:
            denoiser.now = made.index + 2
            before = {n: p.detach().clone() for n, p in denoiser.trainable.items()}
    return run, before, str(refusal.value)


@pytest.mark.parametrize("where", ["base", "loss", "gradient"])
def test_it_ends_at_its_step_and_what_was_learnt_before_is_whole(where):
    whole = finished(training(SETTINGS))
    tries = list(itertools.product((1, STEPS // 2 + 1, STEPS), (float("nan"), float("inf"))))
    for step, value in tries:
        run, before, words = run_with(where, step, value)
        assert "became " in words and f" at step {step}," in words
        assert words.startswith("The gradient" if where == "gradient" else "The loss") and words.endswith(".")
        assert len(run.losses) == step - 1
        assert all(torch.equal(p, before[n]) for n, p in run.denoiser.trainable.items())
        if step > 1:  # the snapshot is that of the step before, and goes on to the same bits where the fault is mended
            mended = training(SETTINGS)
            mended.resume(run.snapshot())
            assert_same(finished(mended), whole)
        else:
            assert run.snapshot() is None
    what = {"base": "the base's prediction", "loss": "the loss", "gradient": "a gradient"}[where]
    happened = "refused in one sentence that names the step; the weights are those of the step before"
    record(f"NaN or infinity in {what}, at the first, a middle and the last step", len(tries), happened)
