"""Ours equals an independent implementation of the published procedure, on the same weights, noise and levels.

The reference (tests/reference) is made of diffusers' UNet and schedulers and transformers' CLIP; ours runs through
the host.  Deliberately wrong variants of the reference must be told apart.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

reference = pytest.importorskip("lab.reference.published", reason="needs diffusers")
from lab.reference import models  # noqa: E402
from lab.reference.published import Concept as ReferenceConcept  # noqa: E402
from lab.reference.published import Prompt, ddim, euler, size_ids  # noqa: E402
from lab.reference.published import Settings as ReferenceSettings  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SIDE, ETA, GUIDANCE, GRID = 64, 1.5, 3.0, 10
CLOSE, TRAINED_CLOSE = 1e-4, 1e-3
NULL, ERASE, FROM = "", "cat", "face wearing sunglasses"


@dataclass
class Case:
    """One model in both forms: the host's MODEL, the diffusers UNet (also in float64), and prompts for both."""

    model: Any
    unet: Any
    scheduler: Any
    prompts: Mapping[str, Prompt]
    family: str

    @cached_property
    def double(self) -> Any:
        """The same network in float64."""
        return copy.deepcopy(self.unet).double()

    def concept(self, erase_from: bool, dtype: torch.dtype = torch.float32) -> ReferenceConcept:
        """The reference's concept."""
        null, erase, whole = (_cast(self.prompts[p], dtype) for p in (NULL, ERASE, FROM))
        return ReferenceConcept(null, erase, whole if erase_from else None)


def _cast(prompt: Prompt, dtype: torch.dtype) -> Prompt:
    return Prompt(*(t if t is None else t.to(dtype) for t in (prompt.hidden, prompt.pooled, prompt.time_ids)))


class PromptTable:
    """A text encoder whose answers were made before: what the host's CLIP socket needs, and no more."""

    def __init__(self, prompts: Mapping[str, Prompt]) -> None:
        self.prompts = prompts

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, text: str) -> list[Any]:
        prompt = self.prompts[text]
        return [[prompt.hidden, {} if prompt.pooled is None else {"pooled_output": prompt.pooled}]]


def _case(kind: str) -> Case:
    import comfy.sd

    if kind == "sd1":
        return _playground()
    pair = models.small_pair(kind)
    prompts = dict(zip((NULL, ERASE, FROM), models.random_prompts(kind, 3, height=SIDE, width=SIDE), strict=True))
    with torch.inference_mode():
        state = {k.removeprefix(models.PREFIX): v.clone() for k, v in pair.state.items()}
        model = comfy.sd.load_diffusion_model_state_dict(state)
        if kind == "sd2":
            from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

            (model,) = ModelSamplingDiscrete().patch(model, "v_prediction", False)
    scheduler = ddim("v_prediction") if kind == "sd2" else euler()
    return Case(model, pair.unet, scheduler, prompts, "sdxl" if kind == "sdxl" else "sd")


def _playground() -> Case:
    import comfy.sd

    path = ROOT / "workflows" / "models" / "emoji-world.ckpt"
    with torch.inference_mode():
        model, clip, _ = comfy.sd.load_checkpoint_guess_config(str(path))[:3]
        prompts = {p: Prompt(clip.encode_from_tokens_scheduled(clip.tokenize(p))[0][0]) for p in (NULL, ERASE, FROM)}
    prompts = {name: Prompt(p.hidden.clone()) for name, p in prompts.items()}
    state = torch.load(path, weights_only=True)["state_dict"]
    return Case(model, models.diffusers_unet_from_checkpoint(state), ddim(), prompts, "sd")


@pytest.fixture(scope="module")
def cases(comfy: Any) -> dict[str, Case]:
    """Each model, built once."""
    return {kind: _case(kind) for kind in ("sd1", "sd2", "sdxl")}


@dataclass
class Ours:
    """Our side of a case, ready to harvest and train."""

    denoiser: Any
    conditions: Any
    settings: Any
    target_spec: Any

    def example(self, noise: Tensor, k: int) -> Any:
        """The point that a published walk from that noise to grid index k gives."""
        from esd_pack.esd.examples import collect_examples
        from esd_pack.esd.step_plan import StepPlan

        levels = torch.arange(k + 1)[:, None]
        sigmas = self.denoiser.sigmas(self.settings.num_inference_steps)
        route = StepPlan(levels, levels == k)
        (example,) = collect_examples(
            self.denoiser, self.conditions, [self.target_spec], noise, route, sigmas, self.settings
        )
        return example


def ours(case: Case, method: str, erase_from: bool, source: str = "base") -> Ours:
    """Our denoiser and lesson for a case."""
    from esd_pack.esd.concepts import make_concept, prompts_of
    from esd_pack.esd.examples import target_spec
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.model.conditioning import encode
    from esd_pack.nodes.host.run.erase import make_denoiser, make_plan

    settings = Settings(
        method=method,
        eta=ETA,
        sampler_model=source,
        num_inference_steps=GRID,
        guidance_scale=GUIDANCE,
        width=SIDE,
        height=SIDE,
        learning_rate=1e-5,
    )
    concept = make_concept(ERASE, FROM if erase_from else "")
    with torch.inference_mode():
        plan = make_plan(case.model, settings)
        table = PromptTable(case.prompts)
        conditions = encode(plan.host, table, prompts_of([concept], []), plan.latent_shape, plan.device)
    denoiser = make_denoiser(plan, lambda samples: None)
    return Ours(denoiser, conditions, plan.settings, target_spec(concept, settings))


def gradients(side: Ours, example: Any) -> tuple[float, dict[str, Tensor]]:
    """Our loss and gradients at one point."""
    from esd_pack.esd.train import backward

    for parameter in side.denoiser.trainable.values():
        parameter.grad = None
    value = backward(side.denoiser, side.conditions, [example], 1.0)
    return value, {name: p.grad for name, p in side.denoiser.trainable.items()}


def apart(a: Tensor, b: Tensor) -> float:
    """The relative distance of two tensors."""
    return float((a - b).norm() / b.norm())


def noise_for(seed: int) -> Tensor:
    """The injected noise of one walk."""
    return torch.randn((1, 4, SIDE // 8, SIDE // 8), generator=torch.Generator().manual_seed(seed))


def reference_settings(**changes: Any) -> ReferenceSettings:
    """The reference's settings that match ours."""
    return replace(ReferenceSettings(eta=ETA, steps=GRID, guidance=GUIDANCE), **changes)


def compare(case: Case, method: str, erase_from: bool, k: int, **fault: Any) -> dict[str, float]:
    """How far apart x_t, target, loss and the worst gradient are at one point."""
    side, settings = ours(case, method, erase_from), reference_settings(**fault)
    noise, concept = noise_for(k), case.concept(erase_from)
    point = reference.walk(case.unet, case.scheduler, noise, GRID, k, concept.null, concept.student, GUIDANCE)
    seen = reference.predictions(case.unet, case.scheduler, point, GRID, concept, settings.fault)
    wanted = reference.target(seen.anchor, seen.erase, seen.null, ETA, settings.fault)
    names = reference.select(case.unet, method, case.family)
    loss, theirs = reference.loss_and_gradients(case.unet, case.unet, case.scheduler, point, concept, settings, names)
    exact = reference.Point(point.x.double(), point.t, point.k)
    _, truth = reference.loss_and_gradients(
        case.double, case.double, case.scheduler, exact, case.concept(erase_from, torch.float64), settings, names
    )
    example = side.example(noise, k)
    value, grads = gradients(side, example)
    mapping = models.key_map(case.unet)
    assert {mapping[name] for name in names} == set(grads)
    whole = torch.stack([truth[name].norm() for name in names]).norm()
    return {
        "x": apart(example.x, reference.sigma_space(case.scheduler, point)[0]),
        "target": apart(example.target, wanted[0]),
        "loss": abs(value - loss) / loss,
        "gradient": max(_gradient_distance(grads[mapping[name]], theirs[name], truth[name], whole) for name in names),
    }


def _gradient_distance(mine: Tensor, theirs: Tensor, truth: Tensor, whole: Tensor) -> float:
    """Our distance from the float64 gradient, where that is more than rounding.

    Some gradients are sums that cancel down to rounding (attention that is saturated): there neither is nearer to
    the truth than the other. Ours may be off by a few times what the reference is in float32, or by a millionth of the
    norm of `whole`, the gradient of all weights.
    """
    distance, rounding = (apart(g.double(), truth) for g in (mine, theirs))
    return 0.0 if distance <= 5 * rounding or distance * truth.norm() <= 1e-6 * whole else distance


KINDS = ("sd1", *(pytest.param(kind, marks=pytest.mark.full) for kind in ("sd2", "sdxl")))


@pytest.mark.parametrize("erase_from", [False, True], ids=["everywhere", "erase from"])
@pytest.mark.parametrize("method", ["esd-x", "esd-u"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_point_equals_the_reference(cases: dict[str, Case], kind: str, method: str, erase_from: bool) -> None:
    for k in (0, 4):
        distances = compare(cases[kind], method, erase_from, k)
        assert max(distances.values()) <= CLOSE, (k, distances)


@pytest.mark.parametrize("fault", ["label", "eta"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_reference_is_told_apart(cases: dict[str, Case], kind: str, fault: str) -> None:
    assert compare(cases[kind], "esd-x", False, 4, fault=fault)["target"] > 10 * CLOSE


@pytest.mark.full
def test_a_missing_input_scale_is_told_apart(cases: dict[str, Case]) -> None:
    assert compare(cases["sdxl"], "esd-x", False, 4, fault="input scale")["target"] > 10 * CLOSE


@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "method", "source"),
    [
        ("sd1", "esd-x", "base"),
        ("sd1", "esd-x", "student"),
        ("sd1", "esd-u", "base"),
        ("sd2", "esd-u", "base"),
        ("sdxl", "esd-x", "base"),
    ],
)
def test_twenty_adam_steps_equal_the_reference(cases: dict[str, Case], kind: str, method: str, source: str) -> None:
    from esd_pack.esd.train import fit

    case, side = cases[kind], ours(cases[kind], method, False, source)
    draws = [(noise_for(100 + i), (3 * i) % 5) for i in range(20)]
    names = reference.select(case.unet, method, case.family)
    theirs = reference.train(
        case.unet, case.scheduler, case.concept(False), reference_settings(walker=source), draws, 1e-5, names
    )
    batches = ([[side.example(noise, k)]] for noise, k in draws)
    losses = fit(side.denoiser, side.conditions, batches, side.settings)
    mapping, change = models.key_map(case.unet), side.denoiser.difference()
    before = dict(case.unet.named_parameters())
    assert losses == pytest.approx(theirs.losses, rel=TRAINED_CLOSE)
    for name, value in theirs.parameters.items():
        assert apart(side.denoiser.trainable[mapping[name]].detach(), value) <= TRAINED_CLOSE
    moved = torch.cat([(v - before[n].detach()).flatten() for n, v in theirs.parameters.items()])
    mine = torch.cat([change[mapping[n]].flatten() for n in theirs.parameters])
    # Adam turns a gradient that is zero but for rounding into a full step of either sign: few values may differ
    assert float(((mine - moved).abs() > 0.05 * moved.abs().max()).float().mean()) < 0.01


def test_the_size_conditioning_is_the_published_one(cases: dict[str, Case]) -> None:
    side = ours(cases["sdxl"], "esd-x", False)
    from comfy.ldm.modules.diffusionmodules.openaimodel import Timestep

    vector = side.conditions[ERASE].tensors["y"]
    expected = torch.cat([Timestep(256)(v[None]) for v in size_ids(SIDE, SIDE)[0]]).flatten()
    assert apart(vector[0, 1280:], expected) <= CLOSE
