"""The signed residual: 1 in the untouched model, 0 where the prompt does nothing more, -eta at the target."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from esd_pack.esd.concepts import Context, make_concept
from esd_pack.esd.examples import TargetSpec, context_specs, target_spec
from esd_pack.esd.random_streams import MEASURING, stream_generator
from esd_pack.esd.residual import (
    LEVELS,
    hold_out,
    percent_left,
    residuals_and_drifts,
    signed_residual,
    signed_residuals,
)
from esd_pack.esd.settings import ALL_STEPS, Settings
from esd_pack.esd.train import erase
from support.fakes import FakeConditions, FakeDenoiser, told

SETTINGS = Settings(num_inference_steps=8, guidance_scale=3.0, learning_rate=1e-2, steps=300, stop=ALL_STEPS)
PLAIN, ATTRIBUTE = make_concept("cat"), make_concept("hat", erase_from="man in a hat")
STYLE = replace(make_concept("ink style"), contexts=(Context("dog in ink style", "dog", "dog"),))
SPECS = {
    "plain": target_spec(PLAIN, SETTINGS),
    "erase from": target_spec(ATTRIBUTE, SETTINGS),
    "in a context": context_specs(STYLE, SETTINGS)[0],
}


def held_out(denoiser, *specs: TargetSpec, settings: Settings = SETTINGS):
    """Trajectories of the specs."""
    return hold_out(denoiser, FakeConditions(), specs, settings, stream_generator(0, MEASURING))


class Scaled(FakeDenoiser):
    """A student whose prompts do `share` of what they do in the base, over what the prompt `null` does."""

    share, null = 1.0, ""

    def predict(self, x, sigma, condition):
        raw = super().predict(x, sigma, condition)
        if self.answering is self.base:
            return raw
        text = told(self.null).tensors["text"].expand(len(x), -1)
        null = super().predict(x, sigma, type(condition)({"text": text}))
        return null + self.share * (raw - null)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0, -1.0])
@pytest.mark.parametrize("name", ["plain", "in a context"])
def test_it_is_the_share_of_what_the_prompt_did(name, share):
    denoiser = Scaled()
    denoiser.share, denoiser.null = share, SPECS[name].null
    (points,) = held_out(denoiser, SPECS[name])
    assert points.x.shape == points.change.shape == (LEVELS, 2, 4, 4) and points.sigma.shape == (LEVELS,)
    assert signed_residual(denoiser, FakeConditions(), points) == pytest.approx(share, abs=1e-5)


@pytest.mark.parametrize("name", ["plain", "in a context"])
def test_the_drift_is_how_far_the_prompt_without_it_has_moved(name):
    """By its definition, from predictions asked for one by one; it does not move with what the prompt itself does."""
    denoiser, conditions, spec = FakeDenoiser(), FakeConditions(), SPECS[name]
    (points,) = held_out(denoiser, spec)
    still = Scaled()
    still.share, still.null = 0.3, spec.null
    (unmoved,) = held_out(still, spec)
    assert residuals_and_drifts(still, conditions, [unmoved])[0][1] == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        denoiser.trainable["image.bias"].add_(1.0)
        asked = [(points.x[i : i + 1], points.sigma[i : i + 1], conditions[spec.null]) for i in range(len(points.x))]
        base = torch.cat([denoiser.predict(*each) for each in asked])
        with denoiser.student():
            moved = torch.cat([denoiser.predict(*each) for each in asked]) - base
    wanted = float(moved.norm() / points.change.norm())
    assert (
        residuals_and_drifts(denoiser, conditions, [points])[0][1] == pytest.approx(wanted, rel=1e-4) and wanted > 1e-3
    )


def test_with_erase_from_it_is_how_much_of_the_concept_is_left_in_the_prompt():
    """By its definition, from predictions asked for one by one."""
    denoiser, conditions = Scaled(), FakeConditions()
    denoiser.share, spec = 0.3, SPECS["erase from"]
    (points,) = held_out(denoiser, spec)
    (found,) = signed_residuals(denoiser, conditions, [points])
    for level in range(LEVELS):
        x, sigma = points.x[level : level + 1], points.sigma[level : level + 1]
        base = {p: denoiser.predict(x, sigma, conditions[p]) for p in ("", "hat", "man in a hat")}
        with denoiser.student(), torch.no_grad():
            student = {p: denoiser.predict(x, sigma, conditions[p]) for p in ("", "man in a hat")}
        b = base["hat"] - base[""]
        moved = (student["man in a hat"] - base["man in a hat"]) - (student[""] - base[""])
        assert float(found[level]) == pytest.approx(1 + float((moved * b).sum() / b.square().sum()), abs=1e-4)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_no_call_is_larger_than_those_of_the_training(batch):
    denoiser = FakeDenoiser()
    points = held_out(denoiser, *SPECS.values(), settings=replace(SETTINGS, trajectory_batch=batch))
    assert max(call.samples for call in denoiser.calls) <= 2 * batch
    denoiser.calls.clear()
    found = signed_residuals(denoiser, FakeConditions(), points, at_most=2 * batch)
    assert max(call.samples for call in denoiser.calls) == 2 * batch
    assert sum(call.samples for call in denoiser.calls) == 2 * LEVELS * len(SPECS)
    assert not any(call.training for call in denoiser.calls)
    for rho in found:
        assert rho.tolist() == pytest.approx([1.0] * LEVELS, abs=1e-4)


def test_a_short_grid_has_each_level_once():
    (points,) = held_out(FakeDenoiser(), SPECS["plain"], settings=Settings(num_inference_steps=3, guidance_scale=1.0))
    assert points.sigma.tolist() == FakeDenoiser().sigmas(3)[:-1].tolist()


def test_it_falls_while_the_concept_is_erased_and_changes_no_bit():
    denoiser, conditions = FakeDenoiser(), FakeConditions()
    (points,) = held_out(denoiser, SPECS["plain"])
    found = [signed_residual(denoiser, conditions, points)]

    def measure(step):
        if step.index % 100 == 99:
            found.append(signed_residual(denoiser, conditions, points))

    watched = erase(denoiser, conditions, [PLAIN], SETTINGS, on_step=measure)
    assert found[0] == pytest.approx(1.0, abs=1e-5) and sorted(found, reverse=True) == found and found[-1] < 0.2
    alone = FakeDenoiser()
    assert erase(alone, FakeConditions(), [PLAIN], SETTINGS).losses == watched.losses
    assert all(torch.equal(alone.trainable[name], weight) for name, weight in denoiser.trainable.items())


def test_held_out_points_are_no_training_examples():
    denoiser, conditions = FakeDenoiser(), FakeConditions()
    (points,) = held_out(denoiser, SPECS["plain"])
    denoiser.calls.clear()
    erase(denoiser, conditions, [PLAIN], SETTINGS)
    trained = [x for call in denoiser.calls if call.training for x in call.x]
    assert not any(torch.equal(x, held) for x in trained for held in points.x)


@pytest.mark.parametrize(
    ("residual", "gone", "percent"),
    [
        (1.0, 0.0, 100),
        (1.3, 0.0, 100),
        (0.123, 0.0, 12),
        (0.0, 0.0, 0),
        (-1.0, 0.0, 0),
        (0.0, -0.25, 20),
        (0.25, 0.25, 0),
    ],
)
def test_what_people_are_shown(residual, gone, percent):
    assert percent_left(residual, gone) == percent
