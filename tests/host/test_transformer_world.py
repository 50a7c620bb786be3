"""The transformer world in the host: its trained weights against diffusers', its pictures, files of its erasures."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from commands.playground import world as words
from commands.playground.judge import load_judge
from lab.launch.base import place_file
from lab.playground.recipe import captions, layouts
from support.dit_models import TWINS, gradients_apart
from support.graphs import Graph, slot
from support.host_folders import searched

pytestmark = pytest.mark.full

WORLD = words.MODELS["sd35"]
NAME = WORLD.checkpoint.name
SAMPLED = (20, WORLD.cfg, WORLD.sampler, WORLD.scheduler)
PROMPTS = ("", "cat", "face wearing a halo in ink style on a pink background")
CLOSE, GRID, ETA, WALK = 1e-4, 6, 1.5, 3.5


@pytest.fixture(scope="module")
def opened(comfy: Any, comfy_base: Path, node_classes: Any) -> SimpleNamespace:
    """MODEL, CLIP and VAE by the stock loader."""
    place_file(WORLD.checkpoint, comfy_base / "models" / "checkpoints" / NAME)
    found = comfy.NODE_CLASS_MAPPINGS["CheckpointLoaderSimple"]().load_checkpoint(NAME)
    return SimpleNamespace(**dict(zip(("model", "clip", "vae"), found[:3], strict=True)))


def drawn(comfy: Any, opened: SimpleNamespace, model: Any, prompt: str, seed: int, count: int = 1) -> Tensor:
    """Pictures "b 64 64 3" by the stock nodes."""
    run = comfy.NODE_CLASS_MAPPINGS
    with torch.inference_mode():
        asked, empty = (run["CLIPTextEncode"]().encode(opened.clip, each)[0] for each in (prompt, ""))
        latent = run["EmptyLatentImage"]().generate(64, 64, count)[0]
        sampled = run["KSampler"]().sample(model, seed, *SAMPLED, asked, empty, latent)[0]
        return run["VAEDecode"]().decode(opened.vae, sampled)[0]


def test_the_host_takes_it_for_sd3(opened: SimpleNamespace) -> None:
    """By its shapes alone: class, latents, the shift of its schedule; and our family."""
    from esd_pack.nodes.host.families import identify

    assert type(opened.model.model).__name__ == "SD3" and opened.vae.latent_channels == 16
    assert opened.model.get_model_object("model_sampling").shift == 3.0
    assert identify(opened.model).name == "SD3"
    assert WORLD.checkpoint.stat().st_size <= 15e6


def test_the_stock_sampler_draws_what_the_recipe_measures(comfy: Any, comfy_path: Path, opened: Any) -> None:
    """The recipe's short cuts give the host's picture; and the judge sees what was asked for."""
    prompt = "rocket in ink style on a yellow background"
    tokens = captions.tokens([prompt, ""], comfy_path / "comfy" / "sd1_tokenizer")
    ours = layouts.SD35.painter_of(WORLD.checkpoint).draw(tokens[:1], tokens[1], seed=5)
    theirs = drawn(comfy, opened, opened.model, prompt, 5)
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)
    seen = load_judge().judge(theirs)
    assert (seen.objects, seen.styles, seen.backgrounds) == (["rocket"], ["ink"], ["yellow"])


@pytest.fixture(scope="module")
def case(comfy: Any, opened: SimpleNamespace) -> SimpleNamespace:
    """A run that is ready to begin, and the same network in diffusers."""
    pytest.importorskip("diffusers")
    import comfy.model_management

    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.model.conditioning import encode
    from esd_pack.nodes.host.run.erase import make_denoiser, make_plan

    settings = Settings(eta=ETA, num_inference_steps=GRID, width=64, height=64, guidance_scale=WALK, closed_form=False)
    with torch.inference_mode():
        plan = make_plan(opened.model, settings)
        told = encode(plan.host, opened.clip, PROMPTS, plan.latent_shape, plan.device)
    comfy.model_management.unload_all_models()  # the patches of another MODEL may lie on the weights
    network = opened.model.model.diffusion_model
    state = {name: value.detach().clone() for name, value in network.state_dict().items()}
    twin = TWINS["sd35"](state, opened.model.model.model_config.unet_config)
    return SimpleNamespace(plan=plan, told=told, denoiser=make_denoiser(plan, lambda samples: None), twin=twin)


def asked_of(case: SimpleNamespace, x: Tensor, sigma: Tensor, prompt: str) -> Tensor:
    """What diffusers' network answers."""
    tensors = dict(case.told[prompt].tensors)
    return case.twin.call(x, sigma, {"context": tensors.pop("c_crossattn"), **tensors})


def apart(a: Tensor, b: Tensor) -> float:
    """The relative distance of two tensors."""
    return float((a - b).norm() / b.norm())


def test_its_answers_are_those_of_diffusers(case: SimpleNamespace) -> None:
    """The trained network's velocity, for prompts together and each alone."""
    from esd_pack.esd.denoiser import batched, predict

    x = torch.randn(3, *case.plan.latent_shape, generator=torch.Generator().manual_seed(1))
    sigma = torch.tensor([0.95, 0.3, 0.7])
    with torch.no_grad():
        ours = predict(case.denoiser, x, sigma, batched([case.told[prompt] for prompt in PROMPTS]))
        theirs = [asked_of(case, x[i : i + 1], sigma[i : i + 1], prompt) for i, prompt in enumerate(PROMPTS)]
    assert apart(ours, torch.cat(theirs)) < CLOSE


def test_a_point_is_that_of_the_procedure_on_diffusers(case: SimpleNamespace) -> None:
    """x_t, target, loss and gradient on trained weights; a wrong eta is told apart."""
    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.examples import collect_examples, target_spec
    from esd_pack.esd.step_plan import StepPlan
    from esd_pack.esd.train import backward
    from esd_pack.nodes.host.model.backward import training_mode

    k, (null, concept) = 2, PROMPTS[:2]
    x = torch.randn(1, *case.plan.latent_shape, generator=torch.Generator().manual_seed(2))
    levels, spec = torch.arange(k + 1)[:, None], target_spec(make_concept(concept), case.plan.settings)
    sampling = (case.denoiser.sigmas(GRID), case.plan.settings)
    (example,) = collect_examples(case.denoiser, case.told, [spec], x, StepPlan(levels, levels == k), *sampling)
    times = torch.linspace(1, 1 / GRID, GRID)
    sigmas = 3 * times / (1 + 2 * times)
    with torch.no_grad():
        for i in range(k + 1):
            empty, named = (asked_of(case, x, sigmas[i : i + 1], prompt) for prompt in (null, concept))
            if i < k:
                x = x + (sigmas[i + 1] - sigmas[i]) * (empty + WALK * (named - empty))
    assert apart(example.x[None], x) < CLOSE
    assert apart(example.target[None], empty - ETA * (named - empty)) < CLOSE
    assert apart(example.target[None], empty - (ETA + 0.1) * (named - empty)) > 10 * CLOSE
    case.twin.network.requires_grad_(True)
    loss = (asked_of(case, x, sigmas[k : k + 1], concept) - example.target[None]).square().mean()
    loss.backward()
    with training_mode():
        value = backward(case.denoiser, case.told, [example], 1.0)
    assert value == pytest.approx(float(loss.detach()), rel=CLOSE)
    assert gradients_apart(case.denoiser, case.plan.rows, case.twin) < CLOSE


@pytest.fixture(scope="module", params=[True, False], ids=["closed form", "trained"])
def erased(comfy: Any, opened: SimpleNamespace, request: pytest.FixtureRequest) -> SimpleNamespace:
    """The nodes on the file, from the start in closed form or a few steps at a given rate, and files of the result."""
    g = Graph(comfy)
    loaded = g.add("ESDLoadModel", ckpt_name=NAME)
    clip, concept = slot(loaded, 1), g.add("ESDConcept", concept="cat")
    short = {"steps": 10, "learning_rate": 4e-4, "preview_every": 0, "start": "start over"}
    settings = g.add("ESDEraseSettings", closed_form=request.param)
    run = g.add("ESDErase", model=loaded, clip=clip, concepts=concept, settings=settings, **short)
    g.add("ESDSaveCheckpoint", model=run, clip=clip, vae=slot(loaded, 2), filename_prefix="checkpoints/small")
    g.add("ESDSaveErasure", weights=slot(run, 1), filename_prefix="loras/small", format="difference")
    outcome = g.take(model=run, weights=slot(run, 1)).run()
    steps = int(outcome["weights"].metadata["esd.steps"])
    files = [file["filename"] for shown in outcome.shown.values() for file in shown.get("esd_files", [])]
    return SimpleNamespace(
        model=outcome["model"], weights=outcome["weights"], files=files, begun=request.param, steps=steps
    )


def test_the_three_nodes_know_its_size_and_its_weights(erased: SimpleNamespace) -> None:
    """64 pixels from the file; where text enters and no step, or text attention of each block."""
    settings = json.loads(erased.weights.metadata["esd.settings"])
    assert (settings["width"], settings["height"], settings["rank"]) == (64, 64, 0)
    changed = [name for name, change in erased.weights.differences.items() if change.any()]
    if erased.begun:
        entered = ("context_embedder.weight", "y_embedder.mlp.0.weight")
        assert changed == [f"diffusion_model.{name}" for name in entered]
        assert json.loads(erased.weights.metadata["esd.left"]) == {"cat": 0} and not erased.steps
        return
    assert changed and all(".context_block.attn." in name for name in changed)
    assert {name.split(".")[2] for name in changed} == {"0", "1", "2"}


def test_saved_files_draw_the_same_pictures(
    comfy: Any, comfy_base: Path, opened: SimpleNamespace, erased: SimpleNamespace
) -> None:
    """The checkpoint in Load Checkpoint, the difference in Load LoRA: those of the erased MODEL, not of the base."""
    run = comfy.NODE_CLASS_MAPPINGS
    (name,) = set(erased.files)
    with searched(comfy_base / "output", ("checkpoints", "loras")), torch.inference_mode():
        reloaded = run["CheckpointLoaderSimple"]().load_checkpoint(name)[0]
        beside = run["LoraLoaderModelOnly"]().load_lora_model_only(opened.model, name, 1.0)[0]
    before, wanted = (drawn(comfy, opened, model, "cat", 3, 2) for model in (opened.model, erased.model))
    for model, close in ((reloaded, 0.02), (beside, 1e-5)):  # the checkpoint is fp16, as its source
        torch.testing.assert_close(drawn(comfy, opened, model, "cat", 3, 2), wanted, atol=close, rtol=0)
    assert (before - wanted).abs().max() > 0.1
