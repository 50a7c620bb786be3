"""Another plugin that changes the same MODEL, before the Erase node and after it, in the real host."""

from __future__ import annotations

import asyncio
import hashlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from support.graphs import Graph, slot
from support.other_plugin import BESIDE, HIDING, IN_PLACE, WITHIN
from support.outcomes import record
from support.paths import ROOT
from support.short_runs import INPUTS, QUICK
from support.tiny import tiny_model

STEPS = 3


@pytest.fixture(scope="module")
def world(comfy, tiny, playground):
    """A MODEL, its CLIP and VAE, with the other plugin loaded beside the pack."""
    assert asyncio.run(comfy.load_custom_node(str(ROOT / "tests" / "support" / "other_plugin")))
    clip = playground[1]
    encode = comfy.NODE_CLASS_MAPPINGS["CLIPTextEncode"]()
    with torch.inference_mode():
        prompts = {text: encode.encode(clip, text)[0] for text in ("cat", "")}
    return SimpleNamespace(host=comfy, **vars(tiny), prompts=prompts)


def fresh(world):
    """A MODEL with a network of its own, for what cannot be taken back."""
    return tiny_model()


def changed(world, model, way):
    """What the other plugin's node makes of a MODEL."""
    g = Graph(world.host)
    return g.take(model=g.add("OtherPatch", model=g.give(model), way=way)).run()["model"]


def erased(world, model, **inputs):
    """How an Erase node on this MODEL ends."""
    g = Graph(world.host)
    given = {**INPUTS, "steps": STEPS, "learning_rate": 1e-3, "start": "start over", "method": "esd-x", **inputs}
    run = g.add(
        "ESDErase",
        model=g.give(model),
        clip=g.give(world.clip),
        concepts=g.add("ESDConcept", concept="cat"),
        settings=g.add("ESDEraseSettings", **QUICK),
        **given,
    )
    return g.take(model=run, weights=slot(run, 1)).run()


def sampled(world, model):
    """A latent that the stock KSampler draws with this MODEL."""
    g = Graph(world.host)
    drawn = g.add(
        "KSampler",
        model=g.give(model),
        positive=g.give(world.prompts["cat"]),
        negative=g.give(world.prompts[""]),
        latent_image=g.add("EmptyLatentImage", width=64, height=64, batch_size=1),
        seed=5,
        steps=1,
        cfg=3.0,
        sampler_name="euler",
        scheduler="normal",
    )
    return g.take(latent=drawn).run()["latent"]["samples"].clone()


@pytest.fixture(autouse=True)
def nothing_in_place(world):
    """No MODEL is loaded when a test begins."""
    unload()


def unload():
    """What the host does when memory is short: every patch that was in place is taken back."""
    import comfy.model_management

    comfy.model_management.free_memory(1e30, torch.device("cpu"))


def told(thing: Any) -> Any:
    """Contents of what a MODEL carries, tensors by their bits and callables by who they are."""
    if isinstance(thing, torch.Tensor):
        plain = thing.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        return (str(thing.dtype), tuple(thing.shape), hashlib.sha256(plain).hexdigest())
    if isinstance(thing, dict):
        return {key: told(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [told(value) for value in thing]
    return thing if isinstance(thing, str | int | float | None) else id(thing)


CARRIED = (
    "patches",
    "object_patches",
    "weight_wrapper_patches",
    "model_options",
    "wrappers",
    "callbacks",
    "injections",
    "attachments",
    "additional_models",
    "hook_patches",
)


def contents(model) -> dict[str, Any]:
    """All that a MODEL is: its network's weights by their bits (nothing in place), and what it carries."""
    unload()
    weights = {name: told(t) for name, t in model.model.state_dict().items()}
    return {"weights": weights, "id": model.patches_uuid, **{name: told(getattr(model, name)) for name in CARRIED}}


def same(one, other) -> bool:
    """Whether two erasures are the same, bit for bit."""
    a, b = one["weights"].differences, other["weights"].differences
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def plain(world):
    """The erasure without the other plugin, and what is drawn before and after."""
    run = erased(world, world.model)
    return SimpleNamespace(run=run, before=sampled(world, world.model), after=sampled(world, run["model"]))


def names(*groups):
    """The names of these ways, for parametrisation."""
    return pytest.mark.parametrize("way", [way.__name__ for group in groups for way in group])


def refused(run) -> bool:
    """Whether the run ended with one sentence that names another plugin."""
    one = "\n" not in run.message and run.message.endswith(".")
    return run.ending == "execution_error" and one and "nother plugin" in run.message


@names(BESIDE)
def test_what_acts_beside_the_weights_acts_on_the_erased_model(world, plain, way):
    """Before or after the Erase node is the same, bit for bit, and the erasure is the one without it."""
    model = changed(world, world.model, way)
    before, acting = contents(model), sampled(world, model)  # now its patches are in place
    run = erased(world, model)
    assert same(run, plain.run)
    assert contents(model) == before
    one, other = sampled(world, run["model"]), sampled(world, changed(world, plain.run["model"], way))
    assert torch.equal(one, other)
    assert not any(torch.equal(one, each) for each in (plain.before, plain.after, acting))
    record(
        f"another plugin's {way.replace('_', ' ')} on the MODEL before Erase, and after it",
        2,
        "the erasure is the same bit for bit and so is the picture, where both act; the MODEL as it was",
    )


@names(WITHIN)
def test_what_belongs_to_the_model_is_erased_with_it(world, plain, way):
    model = changed(world, world.model, way)
    before, acting = contents(model), sampled(world, model)
    run = erased(world, model)
    assert not same(run, plain.run)
    assert contents(model) == before
    one, other = sampled(world, run["model"]), sampled(world, changed(world, plain.run["model"], way))
    for drawn in (one, other):
        assert not any(torch.equal(drawn, each) for each in (plain.before, plain.after, acting))
    what = f"another plugin's {way.replace('_', ' ')} on the MODEL before Erase, and after it"
    record(what, 2, "erased as the MODEL is with it; both act; the MODEL as it was")


@names(HIDING)
def test_what_would_hide_the_erasure_is_refused(world, way):
    model = changed(world, world.model, way)
    before = contents(model)
    for loaded in (False, True):
        if loaded:
            sampled(world, model)
        assert refused(erased(world, model))
        assert contents(model) == before
    record(f"another plugin's {way.replace('_', ' ')}, which hides trained weights", 2, "refused in one sentence")


@pytest.mark.parametrize("way", ["method_object", "untrained_layer", "injection", "trained_layer", "whole_network"])
def test_a_sibling_whose_layers_are_in_place_changes_nothing(world, plain, way):
    """All MODELs of a checkpoint share one network, and what was sampled last has its layers in it."""
    sampled(world, changed(world, world.model, way))
    assert same(erased(world, world.model), plain.run)
    sampled(world, changed(world, world.model, way))
    g = Graph(world.host)
    again = g.add("ESDApply", model=g.give(world.model), weights=g.give(plain.run["weights"]), strength=1.0)
    assert torch.equal(sampled(world, g.take(model=again).run()["model"]), plain.after)
    what = f"Erase and Apply while another MODEL of the checkpoint is loaded with its {way.replace('_', ' ')}"
    record(what, 2, "the same bits as without it")


@names(IN_PLACE)
def test_a_network_that_was_changed_in_place(world, plain, way):
    model = changed(world, fresh(world), way)
    before = contents(model)
    run = erased(world, model)
    if run.ending == "execution_success":
        assert same(run, plain.run)
        drawn = sampled(world, run["model"])
        assert not any(torch.equal(drawn, each) for each in (plain.before, plain.after, sampled(world, model)))
        happened = "erased, and both act; the MODEL as it was"
    else:
        assert refused(run)
        happened = "refused in one sentence; the MODEL as it was"
    assert contents(model) == before
    record(f"another plugin's {way.replace('_', ' ')}", 1, happened)
