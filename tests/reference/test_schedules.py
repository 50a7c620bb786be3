"""Schedules other than SD's and flow's: MODELs whose sampling the host's own nodes have changed, and their files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.full

QUICK = {
    "width": 64,
    "height": 64,
    "num_inference_steps": 8,
    "samples_per_trajectory": 4,
    "trajectory_batch": 2,
    "steps": 2,
    "stop": "after all steps",
    "contexts": "own words",
    "closed_form": False,
}


@pytest.fixture
def patched(playground: Any) -> Callable[..., Any]:
    """The playground with its sampling changed by a stock node."""

    def change(node: str, *values: Any) -> Any:
        from comfy_extras import nodes_model_advanced

        return getattr(nodes_model_advanced, node)().patch(playground[0], *values)[0]

    return change


SCHEDULES = {
    "lcm": (("ModelSamplingDiscrete", "lcm", False), 14.7, {}),
    "zero terminal snr": (("ModelSamplingDiscrete", "v_prediction", True), 4519.0, {"ztsnr"}),
    "edm": (("ModelSamplingContinuousEDM", "eps", 120.0, 0.002), 120.0, {}),
    "edm, v": (
        ("ModelSamplingContinuousEDM", "v_prediction", 120.0, 0.002),
        120.0,
        {"edm_vpred.sigma_max", "edm_vpred.sigma_min"},
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_walks_stay_within_the_schedule(patched: Callable[..., Any], name: str) -> None:
    """From near the highest level down, each level once, whatever kind of schedule it is."""
    from esd_pack.nodes.host.model.denoiser import timestep_grid

    how, highest, _ = SCHEDULES[name]
    sampling = patched(*how).get_model_object("model_sampling")
    for steps in (5, 10, 50):
        levels = timestep_grid(sampling, steps)
        assert levels[-1] == 0 and len(levels) == steps + 1 and (levels.diff() < 0).all()
        assert levels[0] <= float(sampling.sigma_max) <= highest * 1.01
    assert levels[0] > 0.5 * float(sampling.sigma_max) or name == "zero terminal snr"  # its last level is a leap


@pytest.mark.parametrize("name", SCHEDULES)
def test_they_are_erased(patched: Callable[..., Any], playground: Any, name: str) -> None:
    """Losses and weights stay finite, and something is learnt."""
    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.run.erase import erase_model

    model = patched(*SCHEDULES[name][0])
    with torch.inference_mode():
        erased = erase_model(model, playground[1], [make_concept("cat")], [], Settings(**QUICK))
    assert all(0 < loss < 1e3 for loss in erased.losses)
    assert all(bool(torch.isfinite(change).all()) for change in erased.weights.differences.values())


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_saved_checkpoint_says_its_schedule(
    patched: Callable[..., Any], playground: Any, tmp_path: Path, name: str
) -> None:
    """By the entries that loaders look for, beside the weights."""
    from safetensors import safe_open

    from esd_pack.nodes.host.files import save

    how, _, marks = SCHEDULES[name]
    parts = save.Parts(patched(*how), playground[1], playground[2], None)
    path, _ = save.save_checkpoint("checkpoints/schedule", parts, None, {}, save.AS_LOADED)
    with safe_open(path, "pt") as file:
        assert {key for key in file.keys() if key in ("ztsnr", "edm_vpred.sigma_max", "edm_vpred.sigma_min")} == set(
            marks
        )
        if "edm_vpred.sigma_max" in marks:
            assert file.get_tensor("edm_vpred.sigma_max").item() == pytest.approx(120.0)
    path.unlink()
