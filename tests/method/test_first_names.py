"""What version 0.1.0 wrote, by its own code and under its own names of settings, still opens."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

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


def test_a_snapshot_is_resumed_bit_for_bit():
    denoiser = FakeDenoiser()
    training = Training(denoiser, FakeConditions(), CONCEPTS, KEEPS, stored_settings())
    training.resume(read_snapshot(FOLDER / "snapshot.esd", "the run", denoiser))
    assert len(training.losses) == 4
    for _ in training:
        pass
    assert training.losses == json.loads((FOLDER / "losses.json").read_text("utf-8"))
    with open_tensors(FOLDER / "erasure.safetensors") as file:
        for name, weight in denoiser.trainable.items():
            assert torch.equal(weight, file.tensors[f"diffusion_model.{name}.diff"].load())


def test_an_erasure_is_saved_in_the_official_words():
    said = to_official(stored_metadata(), "SD1.x")
    assert (said["num_inference_steps"], said["guidance_scale"]) == ("8", "3.0")
