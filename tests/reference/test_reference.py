"""The reference is what it claims: the host's networks and text, the published numbers, faults that show."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lab.reference import models, published, text
from lab.reference.models import Layout, Pair
from lab.reference.published import Concept, Prompt, Settings

pytestmark = [
    pytest.mark.full,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # inside diffusers
]
HEIGHT, WIDTH = 96, 64  # different, so that an exchange would show
DETECTED = {"sd1": "SD15", "sd2": "SD20", "sdxl": "KOALA_700M"}
REAL = {
    "sd": Layout((320, 640, 1280, 1280), 2, (1, 1, 1, 0), 1, (0, 1, 1, 1), 768),
    "sdxl": Layout((320, 640, 1280), 2, (0, 2, 10), 10, (10, 2, 0), 2048, linear=True, vector=2816),
}
PUBLISHED_SIZES = [
    ("sd", "esd-x", 80, 43.96),
    ("sd", "esd-x-strict", 32, 19.17),
    ("sd", "selfattn", 80, 49.57),
    ("sd", "esd-u", 388, 815.36),
    ("sd", "esd-all", 468, 859.32),
    ("sdxl", "esd-x", 350, 545.67),
    ("sdxl", "esd-x-strict", 140, 340.79),
    ("sdxl", "selfattn", 350, 409.68),
    ("sdxl", "esd-u", 772, 1996.26),
    ("sdxl", "esd-all", 1122, 2541.93),
]


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Return the distance of two tensors in units of the second."""
    return float((ours - theirs).norm() / theirs.norm())


@functools.cache
def pair(kind: models.Kind) -> Pair:
    """Make each small network once."""
    return models.small_pair(kind)


@functools.cache
def real_unet(family: str) -> Any:
    """Make a UNet of the real size without memory for its weights."""
    return models.build_unet(REAL[family], device="meta")


def concept(kind: models.Kind, erase_from: bool = False) -> Concept:
    """Return made-up prompts as a concept."""
    return Concept(*models.random_prompts(kind, 3 if erase_from else 2))


def noise(seed: int = 0) -> Tensor:
    """Return the noise that a small walk starts from."""
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def host_call(model: Any, x: Tensor, t: Tensor, prompt: Prompt) -> Tensor:
    """Return the raw output of the host's own network, its size conditioning included."""
    extra = {}
    if prompt.pooled is not None:
        extra["y"] = model.encode_adm(pooled_output=prompt.pooled, height=HEIGHT, width=WIDTH)
    return model.diffusion_model(x, t[None].float(), context=prompt.hidden, **extra)


@torch.no_grad()
def check_network(unet: Any, model: Any, prompts: list[Prompt]) -> None:
    """Compare two networks for each prompt at a high, a middle and a low level."""
    for t in (torch.tensor(981), torch.tensor(401), torch.tensor(1)):
        for prompt in prompts:
            ours = published.call(unet, noise(), t, prompt)
            assert relative(ours, host_call(model, noise(), t, prompt)) < 1e-5


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_small_networks_equal_the_hosts(comfy: Any, kind: models.Kind) -> None:
    """The stock loader recognises each small checkpoint, and its network is the diffusers one."""
    from comfy.sd import load_state_dict_guess_config

    state = dict(pair(kind).state)
    model = load_state_dict_guess_config(state, output_vae=False, output_clip=False)[0].model
    assert type(model.model_config).__name__ == DETECTED[kind]
    check_network(pair(kind).unet, model, models.random_prompts(kind, 2, height=HEIGHT, width=WIDTH))


def test_playground_equals_the_hosts(playground: Any, checkpoint: Path, comfy_path: Path) -> None:
    """The playground's network and text tower give the same through diffusers and transformers."""
    from comfy.utils import load_torch_file

    model, clip, _ = playground
    state = load_torch_file(str(checkpoint))
    tower, folder = text.text_model(state), comfy_path / "comfy" / "sd1_tokenizer"
    prompts = [Prompt(text.encode(tower, folder, words)) for words in ("", "face wearing a cowboy hat in ink style")]
    for prompt, words in zip(prompts, ("", "face wearing a cowboy hat in ink style"), strict=True):
        assert relative(prompt.hidden, clip.encode_from_tokens(clip.tokenize(words))) < 1e-5
    check_network(models.diffusers_unet_from_checkpoint(state), model.model, prompts)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_names_equal_the_hosts(comfy: Any, family: str) -> None:
    """On the real shapes every name translates as the host itself translates it, and back to the layout."""
    from comfy.model_detection import detect_unet_config
    from comfy.utils import unet_to_diffusers

    names = models.key_map(real_unet(family))
    state = {names[name]: value for name, value in real_unet(family).named_parameters()}
    known = unet_to_diffusers(detect_unet_config(state, ""))
    assert len(state) == len(names) and all(known[name] == host for name, host in names.items())
    assert models.read_layout(state) == REAL[family]


@pytest.mark.parametrize(("family", "method", "tensors", "millions"), PUBLISHED_SIZES)
def test_selections_have_the_published_sizes(family: Any, method: str, tensors: int, millions: float) -> None:
    """Each method picks as many tensors and weights as in the official code."""
    names = published.select(real_unet(family), method, family)
    total = sum(real_unet(family).get_parameter(name).numel() for name in names)
    assert (len(names), round(total / 1e6, 2)) == (tensors, millions)


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_both_schedulers_walk_the_same_path(kind: models.Kind) -> None:
    """DDIM without noise and Euler are one method in two spaces, so their walks must meet."""
    prediction = "v_prediction" if kind == "sd2" else "epsilon"
    told, points = concept(kind), []
    for scheduler in (published.ddim(prediction), published.euler(prediction)):
        point = published.walk(pair(kind).unet, scheduler, noise(), 10, 6, told.null, told.student, 3.0)
        points.append((published.sigma_space(scheduler, point), int(point.t)))
    assert points[0][1] == points[1][1] == 301
    assert relative(points[0][0], points[1][0]) < 1e-4


def test_a_walk_of_no_steps_is_noise() -> None:
    """The first entry of the grid is labelled pure noise, scaled by the scheduler."""
    told, scheduler = concept("sd2"), published.euler()
    point = published.walk(pair("sd2").unet, scheduler, noise(), 50, 0, told.null, told.student, 3.0)
    assert int(point.t) == 981 and torch.equal(point.x, noise() * scheduler.init_noise_sigma)
    assert relative(published.network_input(scheduler, point, 50), noise()) < 1e-6


@pytest.mark.parametrize("erase_from", [False, True])
def test_the_target_is_the_papers_and_the_official_flag_is_one_more(erase_from: bool) -> None:
    """Without `erase from` the official flag is eta + 1; with it, it is eta."""
    null, erase, other = noise(0), noise(1), noise(2)
    anchor = other if erase_from else null
    paper = published.target(anchor, erase, null, eta=1.0)
    flag = 1.0 if erase_from else 2.0
    assert torch.allclose(paper, published.official_target(other if erase_from else erase, erase, null, flag))
    assert not torch.allclose(paper, published.target(anchor, erase, null, 1.0, "eta"))


@pytest.mark.parametrize(("kind", "erase_from"), [("sd2", False), ("sd2", True), ("sdxl", True)])
def test_every_fault_shows(kind: models.Kind, erase_from: bool) -> None:
    """A wrong label, a forgotten input scale and an eta off by one each change loss and gradients."""
    scheduler = published.euler("v_prediction" if kind == "sd2" else "epsilon")
    unet, told = pair(kind).unet, concept(kind, erase_from)
    point = published.walk(unet, scheduler, noise(), 10, 2, told.null, told.student, 3.0)
    names = published.select(unet, "esd-x-strict", "sdxl" if kind == "sdxl" else "sd")
    found = {}
    for fault in (None, "label", "input scale", "eta"):
        settings = Settings(steps=10, fault=fault)
        found[fault] = published.loss_and_gradients(unet, unet, scheduler, point, told, settings, names)
    right_loss, right = found.pop(None)
    for loss, gradients in found.values():
        assert abs(loss / right_loss - 1) > 1e-3
        assert all(relative(gradients[name], right[name]) > 1e-3 for name in names)


def test_training_is_adam_on_the_selected_weights() -> None:
    """The first step moves each weight by the learning rate against its gradient, and the base stays."""
    unet, told, scheduler = pair("sd2").unet, concept("sd2"), published.ddim("v_prediction")
    before, names = copy.deepcopy(unet), published.select(unet, "esd-x")
    point = published.walk(unet, scheduler, noise(), 4, 1, told.null, told.student, 3.0)
    loss, gradients = published.loss_and_gradients(before, unet, scheduler, point, told, Settings(steps=4), names)
    trained = published.train(unet, scheduler, told, Settings(steps=4), [(noise(), 1)], 1e-3, names)
    assert trained.losses == [loss] and set(trained.parameters) == set(names)
    for name, gradient in gradients.items():
        moved = trained.parameters[name] - before.get_parameter(name)
        assert torch.allclose(moved, -1e-3 * gradient / (gradient.abs() + 1e-8), atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(unet.parameters(), before.parameters(), strict=True))


def test_the_walker_matters() -> None:
    """From the second step on, points of the student's walk are not those of the base's."""
    unet, told, scheduler = pair("sd2").unet, concept("sd2"), published.ddim("v_prediction")
    names, draws = published.select(unet, "esd-x"), [(noise(1), 0), (noise(2), 1)]
    base, student = (
        published.train(unet, scheduler, told, settings, draws, 1e-3, names).losses
        for settings in (Settings(steps=4), Settings(steps=4, walker="student"))
    )
    assert base[0] == student[0] and abs(base[1] / student[1] - 1) > 1e-3
