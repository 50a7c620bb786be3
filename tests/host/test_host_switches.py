"""What a host's own switches and nodes leave of a run: the same erasure."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from support.graphs import Graph, slot
from support.short_runs import INPUTS, NAME, QUICK

pytestmark = pytest.mark.full


def loaded(comfy: Any) -> tuple[Any, Any]:
    """MODEL and CLIP of the playground from its file, since its network is changed here."""
    model, clip, _ = comfy.NODE_CLASS_MAPPINGS["CheckpointLoaderSimple"]().load_checkpoint(NAME)
    return model, clip


def erased(comfy: Any, model: Any, clip: Any) -> dict[str, Any]:
    """The differences that a run of two steps gives."""
    g = Graph(comfy)
    given = {**INPUTS, "steps": 2, "start": "start over"}
    concept, settings = g.add("ESDConcept", concept="cat"), g.add("ESDEraseSettings", **QUICK)
    run = g.add("ESDErase", model=g.give(model), clip=g.give(clip), concepts=concept, settings=settings, **given)
    return dict(g.take(weights=slot(run, 1)).run()["weights"].differences)


@pytest.fixture(scope="module")
def plain(comfy, node_classes):
    """What a run gives with nothing switched."""
    return erased(comfy, *loaded(comfy))


def test_weights_in_channels_last(comfy, plain):
    """As with --force-channels-last: another order of sums, and results of the usual layout."""
    model, clip = loaded(comfy)
    model.model.diffusion_model.to(memory_format=torch.channels_last)
    found = erased(comfy, model, clip)
    apart = sum(float((found[name] - each).square().sum()) for name, each in plain.items())
    whole = sum(float(each.square().sum()) for each in plain.values())
    assert apart < 0.05 * whole  # Adam's first steps follow the sign of a gradient, and some are next to 0
    assert all(each.is_contiguous() for each in found.values())


def test_a_model_that_is_to_be_compiled(comfy, plain, load_extra):
    load_extra("nodes_torch_compile")
    model, clip = loaded(comfy)
    g = Graph(comfy)
    compiled = g.take(model=g.add("TorchCompileModel", model=g.give(model), backend="inductor")).run()["model"]
    found = erased(comfy, compiled, clip)
    assert all(torch.equal(found[name], each) for name, each in plain.items())


@pytest.mark.parametrize("kind", ["sub_quad", "split", "xformers"])
def test_another_attention_for_sampling(comfy, plain, monkeypatch, kind):
    """A run uses PyTorch's: the others have no backward, or lose it when memory is short."""
    import comfy.ldm.modules.attention as attention

    def never(*given, **named):
        raise AssertionError(f"{kind} attention was used")

    monkeypatch.setattr(attention, f"attention_{kind}", never)
    monkeypatch.setattr(attention, "optimized_attention", attention.wrap_attn(never))
    monkeypatch.setattr(attention, "optimized_attention_masked", attention.wrap_attn(never))
    found = erased(comfy, *loaded(comfy))
    assert all(torch.equal(found[name], each) for name, each in plain.items())
