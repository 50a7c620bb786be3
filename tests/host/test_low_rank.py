"""The low-rank student on UNets: what it trains, what it leaves alone, and that runs are kept and resumed as ever."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from support.family_models import ROWS, SIDE, RandomText

RANK = 16


@pytest.fixture(scope="module")
def erase(comfy: Any) -> Callable[..., Any]:
    """Erases "cat" from a MODEL by a low-rank student."""
    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.run.erase import erase_model

    def run(model: Any, text: Any, monitor: Any = None, **changes: Any) -> Any:
        usual = {"closed_form": False, "rank": RANK, "steps": 2, "num_inference_steps": 4, "trajectory_batch": 2}
        settings = Settings(**{**usual, "width": SIDE, "height": SIDE, **changes})
        with torch.inference_mode():
            return erase_model(model, text, [make_concept("cat")], [], settings, monitor=monitor)

    return run


@pytest.mark.full
@pytest.mark.parametrize("name", ["sd1", "koala"])
def test_esd_x_of_a_unet(erase: Callable[..., Any], name: str) -> None:
    import comfy.sd

    state = ROWS[name].state()
    with torch.inference_mode():
        model = comfy.sd.load_diffusion_model_state_dict({k: v.clone() for k, v in state.items()})
    before = {key: value.clone() for key, value in model.model.state_dict().items()}
    found = erase(model, ROWS[name].text).weights
    wanted = [key for key in before if ".attn2." in key and key.endswith(".weight")]
    assert found.names == wanted and not found.differences
    assert all(c.down.shape[0] == RANK and c.up.any() for c in found.low_rank.values())
    assert all(torch.equal(before[key], value) for key, value in model.model.state_dict().items())


def test_other_layers_than_linear_ones_are_refused(erase: Callable[..., Any]) -> None:
    from esd_pack.esd.errors import EsdError
    from support.tiny import tiny_model

    with pytest.raises(EsdError, match='trains Linear layers alone, and "esd-u" has .*: choose esd-x, or set rank'):
        erase(tiny_model(), RandomText(768), method="esd-u")


def test_a_run_is_kept_reused_and_resumed(erase: Callable[..., Any], runs: Path, node_classes: Any) -> None:
    """Equal inputs give equal bits, from the disk or from the middle."""
    from esd_pack.nodes.host.run.monitor import MonitorOptions
    from support.tiny import tiny_model

    model, text = tiny_model(), RandomText(768)
    monitor = MonitorOptions(node="1")
    whole = erase(model, text, monitor)
    (folder,) = runs.iterdir()
    again = erase(model, text, monitor)
    assert [p.name for p in runs.iterdir()] == [folder.name]
    assert again.losses == whole.losses and _equal(again.weights, whole.weights)
    fresh = erase(model, text, replace(monitor, start="start over"))
    assert _equal(fresh.weights, whole.weights)
    erase(model, text, monitor, rank=0)
    erase(model, text, monitor, training_guidance=2.0)
    assert len(list(runs.iterdir())) == 3


def test_a_snapshot_of_a_low_rank_run_goes_on_bit_for_bit(erase: Callable[..., Any], runs: Path) -> None:
    from esd_pack.nodes.host.run.monitor import MonitoredRun, MonitorOptions
    from support.tiny import tiny_model

    model, text = tiny_model(), RandomText(768)
    whole = erase(model, text)
    stopped = pytest.MonkeyPatch()
    after = MonitoredRun._after

    def stop(self: Any, step: Any) -> bool:
        if step.index == 0:
            raise KeyboardInterrupt
        return after(self, step)

    stopped.setattr(MonitoredRun, "_after", stop)
    with pytest.raises(KeyboardInterrupt):
        erase(model, text, MonitorOptions(node="1"))
    stopped.undo()
    resumed = erase(model, text, MonitorOptions(node="1", start="resume"))
    assert resumed.losses == whole.losses and _equal(resumed.weights, whole.weights)


def _equal(a: Any, b: Any) -> bool:
    return a.names == b.names and all(
        torch.equal(a.low_rank[n].up, b.low_rank[n].up) and torch.equal(a.low_rank[n].down, b.low_rank[n].down)
        for n in a.names
    )


def test_a_key_of_a_run_without_the_new_settings_is_that_of_version_0_1(comfy: Any) -> None:
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.run.key import _counted

    counted = _counted(Settings())
    assert not {"rank", "training_guidance", "deterministic", "robustness"} & counted.keys()
    assert {"rank", "training_guidance"} <= _counted(Settings(rank=1, training_guidance=1.0)).keys()
    assert _counted(Settings(robustness="light"))["robustness"] == "light"


def test_what_an_attribute_is_measured_by_counts_where_it_changes_the_weights(comfy: Any) -> None:
    """A run of all steps without a start in closed form has the key that it had before they were measured by it."""
    from esd_pack.esd.concepts import make_concept, make_keep, prompts_of
    from esd_pack.esd.presets import with_preset
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.run.key import _learnt_from

    hat, keep = make_concept("hat", erase_from="man in a hat"), make_keep("dog", 1.0)
    told: dict[str, Any] = dict.fromkeys(prompts_of([hat], [keep]))
    assert "man in a" in told
    for settings, counts in ((Settings(), True), (with_preset(Settings(), "official-2026"), False)):
        found = _learnt_from(SimpleNamespace(settings=settings), told, [hat], [keep])
        assert found.keys() == told.keys() - (set() if counts else {"man in a"})
