"""What version 0.1.0 wrote, by its own code and under its own names of settings, still opens."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from esd_pack.esd.files.lazy import open_tensors
from esd_pack.esd.first_names import FIRST_NAMES, by_first_name, by_present_name
from esd_pack.esd.formats.official import to_official
from esd_pack.esd.settings import Settings
from esd_pack.esd.snapshot import read_snapshot
from esd_pack.esd.train import Training
from support.fakes import FakeConditions, FakeDenoiser
from support.small_runs import CONCEPTS, KEEPS

FOLDER = Path(__file__).resolve().parents[1] / "support" / "of_0_1_0"


def stored_metadata() -> dict[str, str]:
    with open_tensors(FOLDER / "erasure.safetensors") as file:
        return dict(file.metadata)


def stored_settings() -> Settings:
    return Settings(**by_present_name(json.loads(stored_metadata()["esd.settings"])))


def test_every_old_name_has_a_setting():
    assert set(FIRST_NAMES) <= {field.name for field in dataclasses.fields(Settings)}
    stored = json.loads(stored_metadata()["esd.settings"])
    assert set(FIRST_NAMES.values()) <= set(stored)
    assert by_first_name(dataclasses.asdict(stored_settings())).items() >= stored.items()


def test_a_snapshot_is_resumed_as_the_version_that_wrote_it_went_on():
    """Bit for bit only where it was written: processors round in different orders."""
    denoiser = FakeDenoiser()
    training = Training(denoiser, FakeConditions(), CONCEPTS, KEEPS, stored_settings())
    training.resume(read_snapshot(FOLDER / "snapshot.esd", "the run", denoiser))
    assert len(training.losses) == 4
    for _ in training:
        pass
    assert training.losses == pytest.approx(json.loads((FOLDER / "losses.json").read_text("utf-8")), rel=1e-4)
    with open_tensors(FOLDER / "erasure.safetensors") as file:
        for name, weight in denoiser.trainable.items():
            written = file.tensors[f"diffusion_model.{name}.diff"].load()
            torch.testing.assert_close(weight.detach(), written, rtol=1e-3, atol=1e-5)


def test_an_erasure_is_saved_in_the_official_words():
    said = to_official(stored_metadata(), "SD1.x")
    assert (said["num_inference_steps"], said["guidance_scale"]) == ("8", "3.0")
