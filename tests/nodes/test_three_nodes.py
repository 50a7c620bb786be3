"""Load, Concept, Erase with every default: gone before the first step, drawn at the checkpoint's own size, kept."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from support.graphs import Graph, slot

pytestmark = pytest.mark.full

NAME = "emoji-world.ckpt"


def queue(comfy: Any, concept: str = "cat", **inputs: Any) -> Any:
    """The three nodes and no other; Erase's inputs by name."""
    g = Graph(comfy)
    loaded = g.add("ESDLoadModel", ckpt_name=NAME)
    concepts = g.add("ESDConcept", concept=concept)
    given = {"preview_every": 50, "start": "start over", **inputs}
    run = g.add("ESDErase", model=loaded, clip=slot(loaded, 1), concepts=concepts, **given)
    outcome = g.take(base=loaded, model=run, weights=slot(run, 1), losses=slot(run, 2)).run()
    assert outcome.ending == "execution_success", outcome.message
    return SimpleNamespace(**{name: outcome[name] for name in ("base", "model", "weights", "losses")}, node=run[0])


@pytest.fixture(scope="module")
def gone(comfy, node_classes):
    """What the three nodes make of "cat"."""
    return queue(comfy)


def status(node: str) -> Any:
    """What the page is told of the node's last run."""
    from esd_pack.nodes.host.run.status import registry

    return [run for run in registry().runs if run.node == node][-1]


def test_nothing_has_to_come_after_it(comfy, node_classes):
    """The host refuses a graph without an output node; here Erase is one."""
    g = Graph(comfy)
    loaded = g.add("ESDLoadModel", ckpt_name=NAME)
    concepts = g.add("ESDConcept", concept="cat")
    run = g.add("ESDErase", model=loaded, clip=slot(loaded, 1), concepts=concepts, preview_every=0, start="start over")
    outcome = g.run()
    assert outcome.ending == "execution_success", outcome.message
    assert status(run[0]).state == "finished"


def test_it_is_gone_without_a_step(gone):
    """The node says so, shows a picture, and names what was measured."""
    said = gone.weights.metadata
    assert said["esd.steps"] == "0" and json.loads(said["esd.left"]) == {"cat": 0}
    told = status(gone.node)
    assert told.state == "finished" and "gone in closed form, without a step" in told.message
    assert told.left == {"cat": 0} and told.previews


def test_the_size_is_the_checkpoints_own(gone):
    """64 pixels, which its file says and its family does not."""
    settings = json.loads(gone.weights.metadata["esd.settings"])
    assert (settings["width"], settings["height"]) == (64, 64)


def test_keys_and_values_change_and_nothing_else(gone):
    """Of esd-x's weights, by a matrix that is the same for all layers: W B; the MODEL that came in is as it was."""
    changed = {name: t for name, t in gone.weights.differences.items() if t.any()}
    assert changed and all(name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for name in changed)
    weights = gone.base.model_state_dict()
    for kind in ("to_k", "to_v"):
        of_kind = [(weights[name].float(), t) for name, t in changed.items() if f"attn2.{kind}." in name]
        stacked, changes = (torch.cat(each).double() for each in zip(*of_kind, strict=True))
        found = torch.linalg.lstsq(stacked, changes, driver="gelsd").solution
        assert (stacked @ found - changes).norm() <= 1e-4 * changes.norm()
    assert gone.base.model is gone.model.model and not gone.base.patches and gone.model.patches


def test_its_curve_is_drawn_by_the_stock_node(comfy, load_extra, gone):
    """The residual stands for the loss, which no step gave."""
    load_extra("nodes_train")
    assert gone.losses["loss"] == [1.0, *gone.losses["residual"]] and gone.losses["residual"][0] < 0.2
    g = Graph(comfy)
    g.add("LossGraphNode", loss=g.give(gone.losses), filename_prefix="loss")
    outcome = g.run()
    assert outcome.ending == "execution_success", outcome.message


def test_queued_again_it_is_taken_from_the_disk(comfy, gone):
    """Bit for bit, as any other run."""
    again = queue(comfy, start="reuse or resume")
    told = status(again.node)
    assert "trained before with the same inputs" in told.message and told.left == {"cat": 0}
    assert all(torch.equal(t, again.weights.differences[name]) for name, t in gone.weights.differences.items())
    assert again.losses == gone.losses
