"""Small runs of the training loop on a network of ten lines."""

from __future__ import annotations

import torch

from esd_pack.esd.concepts import make_concept, make_keep
from esd_pack.esd.settings import Settings
from esd_pack.esd.train import Training
from support.fakes import FakeConditions, FakeDenoiser

CONCEPTS = [make_concept("cat"), make_concept("hat", erase_from="man in a hat")]


KEEPS = [make_keep("dog\nsky", 0.5)]


STEPS = 7


SHORT = {
    "steps": STEPS,
    "num_inference_steps": 8,
    "samples_per_trajectory": 3,
    "trajectory_batch": 2,
    "learning_rate": 1e-2,
    "stop": "after all steps",
}


LESSONS = Settings(
    num_inference_steps=8,
    samples_per_trajectory=4,
    trajectory_batch=2,
    learning_rate=1e-2,
    guidance_scale=1.0,
    eta=1.0,
    closed_form=False,
)
"""Short trajectories, without guidance, from the model's own weights."""


def training(settings: Settings, denoiser: FakeDenoiser | None = None) -> Training:
    return Training(denoiser or FakeDenoiser(), FakeConditions(), CONCEPTS, KEEPS, settings)


def outcome(run: Training) -> tuple[list[float], dict[str, torch.Tensor]]:
    return run.losses, {name: p.detach().clone() for name, p in run.denoiser.trainable.items()}


def finished(run: Training) -> tuple[list[float], dict[str, torch.Tensor]]:
    for _ in run:
        pass
    return outcome(run)


def assert_same(one: tuple, other: tuple, steps: int = STEPS) -> None:
    assert one[0] == other[0] and len(one[0]) == steps
    for name, weight in one[1].items():
        assert torch.equal(weight, other[1][name])
