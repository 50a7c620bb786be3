"""The measuring of a user's device: its rows on tiny networks of two families, and what it says where it cannot."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.full


@pytest.fixture
def gpu(comfy: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command, with a tiny FLUX.1 among its shapes."""
    from commands import gpu, shapes
    from support.deep_models import TINY_SHAPE

    monkeypatch.setitem(shapes.SHAPES, "tiny", TINY_SHAPE)
    return gpu


def options(gpu: Any, *words: str) -> Namespace:
    return gpu.parser().parse_args(["--steps", "3", *words])


def test_each_arm_is_measured_and_written(gpu: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.run(options(gpu, "--shapes", "tiny", "--json", str(tmp_path / "out.json"))) == 0
    found = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert found["format"] == "esd-gpu-1" and found["device"] and found["torch"] == torch.__version__
    full, low = found["rows"]
    assert (full["family"], full["rank"], low["rank"], full["side"]) == ("tiny", 0, 16, 64)
    for row in (full, low):
        assert row["passes_per_second"] == pytest.approx(row["passes_per_step"] / row["seconds_per_step"])
        pass_seconds = 1 / row["passes_per_second"]
        assert row["published_seconds"] == pytest.approx(row["published_passes"] * pass_seconds)
        assert row["published_passes"] > 20 * 1000 > row["default_passes"] > 0, "1000 walks of 50 steps and two prompts"
        assert any("memory needed" in line for line in row["said"])
    assert "| tiny | rank 16 | 64 px |" in capsys.readouterr().out


def test_what_does_not_fit_is_a_row_with_the_reason(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from commands import gpu_subjects

    monkeypatch.setattr(gpu_subjects, "free_ram", lambda: 10)
    (row,) = gpu.rows(options(gpu, "--shapes", "tiny"))
    assert "of RAM are free" in row["error"] and row["error"] in gpu.line(row)


def test_a_family_that_the_host_does_not_know_is_a_row(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from commands import shapes

    monkeypatch.setitem(shapes.SHAPES, "tiny", replace(shapes.SHAPES["tiny"], kind="Unknown"))
    (row,) = gpu.rows(options(gpu, "--shapes", "tiny"))
    assert row == {"family": "tiny", "error": "this ComfyUI does not know Unknown"}


def test_an_unknown_shape_is_refused(gpu: Any) -> None:
    from commands.talk import ServerError

    with pytest.raises(ServerError, match='There is no shape "SD9": choose from SD1.5, SDXL'):
        list(gpu.rows(options(gpu, "--shapes", "SD9")))


@pytest.mark.parametrize("name", ["SD1.5", "SDXL", "FLUX.2 klein 4B", "Z-Image", "FLUX.1 dev"])
def test_the_shapes_are_the_real_ones(comfy: Any, name: str) -> None:
    """By the published numbers of parameters, in millions."""
    from commands.shapes import SHAPES, random_model

    published = {"SD1.5": 860, "SDXL": 2567, "FLUX.2 klein 4B": 3876, "Z-Image": 6155, "FLUX.1 dev": 11901}
    with torch.inference_mode(False):
        network = random_model(SHAPES[name], device="meta").model.diffusion_model
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == pytest.approx(published[name], rel=1e-3)


def test_few_blocks_can_be_asked_for(comfy: Any) -> None:
    from commands.shapes import SHAPES

    assert SHAPES["FLUX.1 dev"].shortened((1, 2))["depth_single_blocks"] == 2
    assert SHAPES["Z-Image"].shortened((1,))["n_layers"] == 1
    assert SHAPES["SD1.5"].shortened(()) == SHAPES["SD1.5"].config


def test_weights_are_those_of_their_fan_in(comfy: Any) -> None:
    from commands.shapes import fill

    layer = torch.nn.Linear(400, 3000)
    fill(layer)
    assert float(layer.weight.detach().std()) == pytest.approx(0.5 / 20, rel=0.01) and not layer.bias.any()
