"""What is settled before a run: its memory, and what the file will say of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

ROOM = 10**12
"""More bytes than any of these runs asks for."""


@pytest.fixture
def plan(playground: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Plans of runs on the playground, with room for all of them."""
    import comfy.model_management

    from esd_pack.esd.denoiser import Condition
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.run.erase import fitted, make_plan

    monkeypatch.setattr(
        comfy.model_management,
        "get_free_memory",
        lambda device=None, torch_free_too=False: (ROOM, ROOM) if torch_free_too else ROOM,
    )
    small = Settings(width=256, height=256, batch_size=4, gradient_checkpointing="off")
    conditions = {"cat": Condition({"c_crossattn": torch.zeros(1, 77, 768)})}
    return lambda keeps=(), vae=None, **changes: fitted(
        make_plan(playground[0], replace(small, **changes)), conditions, keeps, vae
    )


def test_keeps_double_the_activations(plan: Any) -> None:
    """They go through the network in the same call; keeps of weight 0 do not."""
    from esd_pack.esd.concepts import make_keep

    alone = plan().need.activations
    assert plan(keeps=[make_keep("dog", 1.0)]).need.activations == pytest.approx(2 * alone, rel=0.02)
    assert plan(keeps=[make_keep("dog", 0.0)]).need.activations == alone


def test_previews_are_made_room_for_but_not_asked_for(plan: Any, playground: Any) -> None:
    """A VAE comes between two steps, when a step's memory is free again."""
    found = plan(vae=playground[2], trajectory_batch=1, batch_size=1, width=64, height=64)
    assert found.need.preview > playground[2].patcher.model_size()
    assert found.need.total < found.need.wanted


def test_adafactors_state_is_counted_by_shapes(plan: Any, playground: Any) -> None:
    """A row and a column for each matrix, as torch makes them."""
    for method in ("esd-x", "esd-u"):
        found = plan(method=method, optimizer="adafactor")
        stored = playground[0].model_state_dict("diffusion_model.")
        weights = [torch.nn.Parameter(torch.zeros(stored[f"diffusion_model.{name}"].shape)) for name in found.names]
        optimizer = torch.optim.Adafactor(weights)
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        optimizer.step()
        state = [t for each in optimizer.state.values() for t in each.values() if t.ndim]
        trained = sum(weight.numel() for weight in weights)
        assert found.need.student - 4 * trained == pytest.approx(sum(4 * t.numel() for t in state), rel=1e-6)


def test_the_eta_in_the_metadata_is_the_one_that_was_used() -> None:
    """Presets have another one for attributes."""
    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.presets import with_preset
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.families import FAMILIES
    from esd_pack.nodes.host.files.metadata import Origin, run_metadata

    settings = with_preset(Settings(), "official-2026")
    whole, attribute = make_concept("cat"), make_concept("hat", erase_from="cat in a hat")
    told = {
        name: run_metadata(concepts, [], settings, FAMILIES[0], Origin(), 1)
        for name, concepts in (("whole", [whole]), ("attribute", [attribute]), ("both", [whole, attribute]))
    }
    assert {name: each["esd.eta"] for name, each in told.items()} == {"whole": "1.0", "attribute": "2.0", "both": "1.0"}
    assert json.loads(told["attribute"]["esd.settings"])["eta_erase_from"] == 2.0
