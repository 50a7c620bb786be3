"""Equal inputs give equal weights, bit for bit: again, resumed, in another process, whatever ran before."""

from __future__ import annotations

import logging
import random
import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from esd_pack.esd.erasure import lora_key
from esd_pack.esd.presets import PRESETS
from support.graphs import Graph, slot
from support.outcomes import record
from support.serving import saved, short_prompt
from support.short_runs import module
from support.tiny import broken

pytestmark = pytest.mark.usefixtures("runs")
STEPS = 4
QUICK = {
    "width": 64,
    "height": 64,
    "num_inference_steps": 4,
    "samples_per_trajectory": 2,
    "trajectory_batch": 2,
    "buffer_size": 4,
    "contexts": "own words",
    "closed_form": False,
}
TWO = (("cat", ""), ("sunglasses", "cat"))
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "keeps": {"keep": "dog\na house"},
    "several concepts": {"concepts": TWO},
    "student walks": {"settings": {"sampler_model": "student", "buffer_size": 2}},
    "batches": {"settings": {"batch_size": 3}},
    "accumulation": {"settings": {"gradient_accumulation_steps": 3}},
    "refreshed pools": {"settings": {"buffer_size": 3, "draws_per_buffer": 5}},
    "adafactor": {"settings": {"optimizer": "adafactor"}, "method": "esd-u"},
    "bfloat16, recomputed": {"settings": {"precision": "bf16", "gradient_checkpointing": "on"}},
    "all of it": {
        "keep": "dog\na house",
        "concepts": TWO,
        "settings": {
            "sampler_model": "student",
            "buffer_size": 3,
            "draws_per_buffer": 5,
            "batch_size": 2,
            "gradient_accumulation_steps": 2,
        },
    },
    "against attacks": {"robustness": "strong", "concepts": TWO},
}
LONGER = {"against attacks"}


@pytest.fixture(scope="module")
def world(comfy, tiny, playground):
    """MODEL and CLIP, and what a KSampler needs."""
    return SimpleNamespace(host=comfy, **vars(tiny), real_clip=playground[1])


@pytest.fixture
def page(comfy, node_classes, monkeypatch):
    """What a page may do after a step: set `page.after` to a mapping of step to action."""

    from server import PromptServer

    live = module("run.status")
    acting = SimpleNamespace(after={}, registry=live.registry)

    def hear(event: str, data: dict[str, Any], sid: str | None = None) -> None:
        if event == "esd.run" and data["state"] == "running":
            acting.after.get(data["step"], lambda told: None)(data)

    monkeypatch.setattr(PromptServer.instance, "send_sync", hear)
    monkeypatch.setattr(live, "EVERY_SECONDS", 0.0)
    return acting


def cancel(told: dict[str, Any]) -> None:
    """Press Cancel."""
    import comfy.model_management

    comfy.model_management.interrupt_current_processing()


def erase(world, concepts=(("cat", ""),), keep="", settings=None, clip=None, **inputs):
    """How an Erase graph ends, with the weights and losses that it gives."""
    g = Graph(world.host)
    before: dict[str, Any] = {}
    for concept, erase_from in concepts:
        before = {"previous": g.add("ESDConcept", concept=concept, erase_from=erase_from, **before)}
    given = {
        "steps": STEPS,
        "preview_every": 0,
        "snapshot_every": 0,
        "start": "start over",
        "stop": "after all steps",
        **inputs,
    }
    run = g.add(
        "ESDErase",
        model=g.give(world.model),
        clip=g.give(clip or world.clip),
        settings=g.add("ESDEraseSettings", **{**QUICK, **(settings or {})}),
        concepts=before["previous"],
        **({"keep": g.add("ESDKeep", prompts=keep)} if keep else {}),
        **given,
    )
    return g.take(weights=slot(run, 1), losses=slot(run, 2)).run()


def bits(run) -> tuple[dict[str, bytes], list[float]]:
    """Weights and losses of a run."""
    return {n: t.numpy().tobytes() for n, t in run["weights"].differences.items()}, run["losses"]["loss"]


def disturb(seed: int) -> None:
    """Leave every global random generator in an odd state."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    random.random(), np.random.standard_normal(3), torch.randn(seed % 7 + 1)


def states() -> tuple[Any, ...]:
    """The state of every global random generator, comparable."""
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), kind, keys.tobytes(), rest, torch.get_rng_state().numpy().tobytes()


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.full] * (n in LONGER)) for n in VARIANTS])
def test_again_and_resumed(world, page, runs, caplog, name):
    """A second run, from other random states, cancelled after a step and resumed, is the first one bit for bit."""
    given, step = VARIANTS[name], 1 + list(VARIANTS).index(name) % (STEPS - 1)
    disturb(1)
    whole = bits(erase(world, **given))
    assert len(whole[1]) == STEPS and all(torch.isfinite(torch.tensor(whole[1])))
    shutil.rmtree(runs)  # or its result would be taken
    disturb(2)
    page.after = {step: cancel}
    assert erase(world, **given).ending == "execution_interrupted"
    page.after = {}
    disturb(3)
    before = states()
    with caplog.at_level(logging.INFO, "esd"):
        resumed = erase(world, **{**given, "start": "reuse or resume"})
    assert f"resumed after step {step} of {STEPS}" in caplog.text
    assert states() == before
    assert bits(resumed) == whole
    record(f"a run again, cancelled after step {step} and resumed, from odd random states: {name}", 2, "the same bits")


def test_resumed_after_each_step(world, page, runs):
    """One run that is cancelled after every step."""
    given = {"keep": "dog", "settings": {"sampler_model": "student", "buffer_size": 2}}
    whole = bits(erase(world, **given))
    shutil.rmtree(runs)
    page.after = {step: cancel for step in range(1, STEPS)}
    endings = []
    for step in range(1, STEPS):
        endings.append(erase(world, **{**given, "start": "reuse or resume" if step > 1 else "start over"}).ending)
        page.after.pop(step)
    assert endings == ["execution_interrupted"] * (STEPS - 1)
    assert bits(erase(world, **{**given, "start": "reuse or resume"})) == whole
    record("a run cancelled after each of its steps and resumed each time", STEPS - 1, "the same bits")


def test_resumed_from_each_snapshot(world, page, runs, tmp_path):
    """Each snapshot that a run writes on its way leads to its end."""
    whole = bits(erase(world, keep="dog"))
    shutil.rmtree(runs)
    kept = {}

    def keep(told: dict[str, Any]) -> None:
        for found in runs.glob("*/snapshot.esd"):
            kept[told["step"] - 1] = shutil.copytree(found.parent, tmp_path / str(told["step"]))

    page.after = {step: keep for step in range(2, STEPS + 1)}
    assert bits(erase(world, keep="dog", snapshot_every=1)) == whole
    assert sorted(kept) == list(range(1, STEPS))
    page.after = {}
    for folder in kept.values():
        (finished,) = runs.iterdir()
        shutil.rmtree(finished)
        shutil.copytree(folder, finished)
        assert bits(erase(world, keep="dog", start="reuse or resume")) == whole
    record("a run gone on with from each of its snapshots", len(kept), "the same bits")


WHOLE_RUN = pytest.param("default", marks=pytest.mark.full)
"""With its start in closed form, which asks the text encoder for some 45 prompts."""


@pytest.mark.parametrize("name", [WHOLE_RUN, *(n for n, p in PRESETS.items() if "width" not in p and n != "default")])
def test_each_preset(world, page, name):
    """A step of it from a whole walk as published, ended by Finish now."""

    def finish(told: dict[str, Any]) -> None:
        page.registry().running(told["id"]).finish = True

    page.after = {1: finish}
    few = {"preset": name, "width": 64, "height": 64}
    ends = []
    for seed in (4, 5):
        disturb(seed)
        before = states()
        ends.append(bits(erase(world, settings=few)))
        assert states() == before
    gone_at_once = name == "default"  # the residual before and after its start then stands for losses
    assert ends[0] == ends[1] and len(ends[0][1]) == 1 + gone_at_once
    record(f"a step of the preset {name}, twice, from odd random states", 2, "the same bits, the states as before")


def test_in_another_process(world, playground, host, object_info):
    """A real server makes the file that this process's weights would make."""
    world = SimpleNamespace(**{**vars(world), "model": playground[0]})
    run = erase(world, learning_rate=1e-4, seed=6, clip=world.real_clip)
    (there,) = [saved(host, host.run(short_prompt(object_info, steps=STEPS, learning_rate=1e-4, seed=6)).outputs)]
    assert {lora_key(name): each for name, each in bits(run)[0].items()} == there
    record("the same run in two processes, one of them a server", 2, "the same bits")


def test_whatever_ran_before(world):
    """A KSampler on the MODEL with a LoRA, a picture decoded, another erasure: none of it leaves a trace."""
    whole = bits(erase(world))
    other = erase(world, concepts=(("dog", ""),), seed=9)
    g = Graph(world.host)
    lora = g.add("ESDApply", model=g.give(world.model), weights=g.give(other["weights"]), strength=3.0)
    clip = g.give(world.real_clip)
    drawn = g.add(
        "KSampler",
        model=lora,
        positive=g.add("CLIPTextEncode", clip=clip, text="cat"),
        negative=g.add("CLIPTextEncode", clip=clip, text="dog"),
        latent_image=g.add("EmptyLatentImage", width=64, height=64, batch_size=1),
        steps=2,
        sampler_name="euler_ancestral",
        scheduler="normal",
    )
    picture = g.add("VAEDecode", samples=drawn, vae=g.give(world.vae))
    assert g.take(picture=picture).run()["picture"].shape == (1, 64, 64, 3)
    assert bits(erase(world)) == whole
    record("a KSampler with an erasure at strength 3, and another Erase, before the run", 2, "the same bits")


ENDINGS = {
    "success": ({}, {}, "execution_success"),
    "failure": ({}, {}, "execution_error"),
    "refusal": ({"method": "xlayer"}, {}, "execution_error"),
    "cancel": ({}, {2: cancel}, "execution_interrupted"),
}


@pytest.mark.parametrize("how", ENDINGS)
def test_global_random_states_are_as_they_were(world, page, how):
    """With previews, and however the run ends; grad mode and threads too."""
    inputs, page.after, ending = ENDINGS[how]
    if how == "failure":
        world = SimpleNamespace(**{**vars(world), "model": broken(world.model)})
    disturb(7)
    before = states(), torch.is_grad_enabled(), torch.get_num_threads(), torch.get_default_dtype()
    assert erase(world, preview_every=1, snapshot_every=1, **inputs).ending == ending
    assert (states(), torch.is_grad_enabled(), torch.get_num_threads(), torch.get_default_dtype()) == before
    record(f"global random states around a run that ends in {how}", 1, "as they were: torch, numpy, Python")
