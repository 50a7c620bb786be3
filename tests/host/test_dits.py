"""Diffusion transformers without an official procedure, as tiny networks of the host's classes, against diffusers'."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")
from support.dit_models import DITS, OTHERS, Twin, build, gradients_apart, selected, twin  # noqa: E402

CLOSE, ETA, STEPS = 1e-4, 1.5, 6
LARGE = {"anima": pytest.mark.full, "zimage": pytest.mark.full}
"""Whose adapter has its real size, and whose tokens are wide."""

EVERY = pytest.mark.parametrize("name", [pytest.param(n, marks=LARGE[n]) if n in LARGE else n for n in OTHERS])
GUIDANCE = {
    **{"chroma": 3.5, "sd35": 3.5, "qwen": 4.0, "zimage": 4.0, "lumina": 4.0, "wan": 6.0, "krea": 1.0, "anima": 4.0}
}
SHIFT = {"sd35": 3.0, "zimage": 3.0, "lumina": 6.0, "wan": 8.0, "anima": 3.0}
"""Of the host's schedules; the others shift exponentially, by 1.15."""

DEAD = {"qwen": ("transformer_blocks.1.attn.to_add_out.", "transformer_blocks.1.attn.add_q_proj.")}
"""Weights of the last block's text, which nothing comes after: what they put out and what they ask."""


@dataclass
class Case:
    """A run of a tiny MODEL, ready to be looked at, and the same network in diffusers."""

    plan: Any
    conditions: Any
    denoiser: Any
    other: Twin

    def told(self, prompt: str) -> dict[str, Tensor]:
        """What the reference network is told."""
        tensors = dict(self.conditions[prompt].tensors)
        return {"context": tensors.pop("c_crossattn"), **tensors}


@pytest.fixture(autouse=True)
def in_training(comfy: Any) -> Any:
    """Tell the host that gradients are wanted, as a run does."""
    from esd_pack.nodes.host.model.backward import training_mode

    with training_mode():
        yield


@pytest.fixture
def made(comfy: Any) -> Callable[..., Case]:
    """Makes a case: a family, and settings that are not as usual here."""
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.model.conditioning import encode
    from esd_pack.nodes.host.run.erase import make_denoiser, make_plan

    def make(name: str, **changes: Any) -> Case:
        row = OTHERS[name]
        model = row.model()
        usual = {"eta": ETA, "num_inference_steps": STEPS, "width": row.side, "height": row.side, "closed_form": False}
        with torch.inference_mode():
            plan = make_plan(model, Settings(**{**usual, **changes}))
            told = encode(plan.host, row.text, ["", "cat", "a cat"], plan.latent_shape, plan.device)
        return Case(plan, told, make_denoiser(plan, lambda samples: None), twin(name, model))

    return make


def apart(a: Tensor, b: Tensor) -> float:
    """The relative distance of two tensors."""
    return float((a - b).norm() / b.norm())


def noise(case: Case, count: int = 1) -> Tensor:
    """Standard normal latents."""
    return torch.randn((count, *case.plan.latent_shape), generator=torch.Generator().manual_seed(1))


@EVERY
def test_the_raw_output_is_that_of_diffusers(made: Callable[..., Case], name: str) -> None:
    """Also of prompts of different lengths together."""
    from esd_pack.esd.denoiser import batched, predict

    case = made(name)
    assert case.plan.host.family.name == OTHERS[name].family
    x, sigma, prompts = noise(case, 3), torch.tensor([0.9, 0.4, 0.7]), ("", "a cat", "cat")
    with torch.no_grad():
        ours = predict(case.denoiser, x, sigma, batched([case.conditions[p] for p in prompts]))
        theirs = [case.other.call(x[i : i + 1], sigma[i : i + 1], case.told(p)) for i, p in enumerate(prompts)]
    assert apart(ours, torch.cat(theirs)) < CLOSE


def schedule(name: str) -> Tensor:
    """Return the levels of a trajectory: even times, shifted."""
    times = torch.linspace(1, 1 / STEPS, STEPS, dtype=torch.float64)
    if name in SHIFT:
        return (SHIFT[name] * times / (1 + (SHIFT[name] - 1) * times)).float()
    return (math.exp(1.15) / (math.exp(1.15) + 1 / times - 1)).float()


@pytest.mark.parametrize("method", ["esd-x", "text-stream"])
@EVERY
def test_a_point_equals_the_procedure_on_diffusers(made: Callable[..., Case], name: str, method: str) -> None:
    """x_t, target, loss and gradient equal those with diffusers' network and a schedule of ours for the test."""
    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.examples import collect_examples, target_spec
    from esd_pack.esd.step_plan import StepPlan
    from esd_pack.esd.train import backward

    if method == "text-stream" and name in ("sd35", "qwen", "wan", "anima"):
        pytest.skip("diffusers has no such part, or esd-x is that there")
    case, k = made(name, method=method), 2
    levels, spec = torch.arange(k + 1)[:, None], target_spec(make_concept("a cat"), case.plan.settings)
    (example,) = collect_examples(
        case.denoiser,
        case.conditions,
        [spec],
        noise(case),
        StepPlan(levels, levels == k),
        case.denoiser.sigmas(STEPS),
        case.plan.settings,
    )
    sigmas, x = schedule(name), noise(case)
    with torch.no_grad():
        for i in range(k + 1):
            null, asked = (case.other.call(x, sigmas[i : i + 1], case.told(prompt)) for prompt in ("", "a cat"))
            if i < k:
                x = x + (sigmas[i + 1] - sigmas[i]) * (null + GUIDANCE[name] * (asked - null))
        wanted = null - ETA * (asked - null)
    assert example.sigma == pytest.approx(float(sigmas[k]), rel=1e-4)
    assert apart(example.x[None], x) < CLOSE and apart(example.target[None], wanted) < CLOSE
    case.other.network.requires_grad_(True)
    loss = (case.other.call(x, sigmas[k : k + 1], case.told("a cat")) - wanted).square().mean()
    loss.backward()
    assert backward(case.denoiser, case.conditions, [example], 1.0) == pytest.approx(float(loss.detach()), rel=CLOSE)
    assert gradients_apart(case.denoiser, case.plan.rows, case.other) < CLOSE


@pytest.mark.parametrize("rank", [0, 4])
@EVERY
def test_the_student_begins_as_the_base_and_every_weight_learns(
    made: Callable[..., Case], name: str, rank: int
) -> None:
    """Bit for bit, with and without recomputation, and the gradients of both are equal to the bit."""
    from esd_pack.nodes.host.model.backward import checkpoint_blocks

    for method in made(name).plan.host.family.layer_names.methods:
        if method in ("esd-u", "esd-all"):
            continue
        case = made(name, method=method, rank=rank)
        x, sigma, told = noise(case), torch.tensor([0.7]), case.conditions["a cat"]
        blocks = checkpoint_blocks(case.denoiser.network, case.plan.host.family.backward.blocks)
        assert {type(block).__name__ for block in blocks} == set(OTHERS[name].classes)
        with torch.no_grad():
            base = case.denoiser.predict(x, sigma, told)
        found = []
        for switch in (False, True):
            case.denoiser.gradient_checkpointing = switch
            for parameter in case.denoiser.trainable.values():
                parameter.grad = None
            with case.denoiser.student():
                out = case.denoiser.predict(x, sigma, told)
                (out - 1).square().mean().backward()
            assert torch.equal(out, base)
            found.append({n: None if p.grad is None else p.grad.clone() for n, p in case.denoiser.trainable.items()})
        plain, recomputed = found
        still = [n for n, t in plain.items() if (t is None or not t.any()) and "lora_down" not in n]
        assert all(n.startswith(DEAD.get(name, ("nothing",))) for n in still), (method, still)
        assert all(t is recomputed[n] if t is None else torch.equal(t, recomputed[n]) for n, t in plain.items())


@pytest.mark.parametrize("rank", [0, 4])
@EVERY
def test_a_run_erases(comfy: Any, name: str, rank: int) -> None:
    """With keeps, previews' latents and prompts of different lengths; the MODEL that came in stays."""
    from esd_pack.esd.concepts import make_concept, make_keep
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.run.erase import erase_model

    row = OTHERS[name]
    model = row.model()
    before = {key: value.clone() for key, value in model.model.state_dict().items()}
    settings = Settings(
        method="esd-x",
        rank=rank,
        steps=2,
        batch_size=2,
        num_inference_steps=4,
        trajectory_batch=2,
        width=row.side,
        height=row.side,
        closed_form=False,
    )
    concepts = [make_concept("cat"), make_concept("hat", "a red hat")]
    with torch.inference_mode():
        erased = erase_model(model, row.text, concepts, [make_keep("a dog", 1.0)], settings)
    assert bool(erased.weights.low_rank) == bool(rank) and erased.losses[0] > 0
    assert set(erased.weights.names) <= set(erased.model.patches)
    assert all(torch.equal(before[key], value) for key, value in model.model.state_dict().items())


REAL: dict[str, tuple[str, dict[str, Any]]] = {
    "chroma": ("Chroma", {**OTHERS["chroma"].config, "num_heads": 24, "hidden_size": 3072, "context_in_dim": 4096,
                          "depth": 19, "depth_single_blocks": 38, "out_dim": 3072, "hidden_dim": 5120, "n_layers": 5}),
    "sd3.5 medium": ("SD3", {**OTHERS["sd35"].config, "depth": 24, "num_patches": 384**2, "pos_embed_max_size": 384,
                             "x_block_self_attn_layers": list(range(13)), "context_embedder_config": {
                                 "target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 1536}}}),
    "qwen": ("QwenImage", {"image_model": "qwen_image", "in_channels": 64, "num_layers": 60}),
    "zimage": ("ZImage", {**OTHERS["zimage"].config, "dim": 3840, "n_layers": 30, "n_heads": 30, "n_kv_heads": 30,
                          "axes_dims": [32, 48, 48], "cap_feat_dim": 2560}),
    "lumina": ("Lumina2", {**OTHERS["lumina"].config, "dim": 2304, "n_layers": 26, "n_heads": 24, "n_kv_heads": 8,
                           "axes_dims": [32, 32, 32], "cap_feat_dim": 2304}),
    "wan 1.3B": ("WAN21_T2V", {**OTHERS["wan"].config, "dim": 1536, "ffn_dim": 8960, "num_heads": 12,
                               "num_layers": 30}),
    "krea": ("Krea2", {"image_model": "krea2"}),
    "anima": ("Anima", {**OTHERS["anima"].config, "model_channels": 2048, "num_blocks": 28, "num_heads": 16}),
}  # fmt: skip
COUNTS = [
    ("chroma", "esd-x", 228, 2511),
    ("chroma", "esd-x-strict", 114, 1076),
    ("sd3.5 medium", "esd-x", 94, 224),
    ("sd3.5 medium", "selfattn", 148, 349),
    ("qwen", "esd-x", 480, 2266),
    ("qwen", "esd-x-strict", 240, 1133),
    ("zimage", "esd-x", 60, 1769),
    ("zimage", "esd-x-strict", 30, 885),
    ("zimage", "text-stream", 12, 364),
    ("lumina", "esd-x", 52, 368),
    ("lumina", "text-stream", 12, 161),
    ("wan 1.3B", "esd-x", 240, 283),
    ("wan 1.3B", "esd-x-strict", 120, 142),
    ("wan 1.3B", "selfattn", 240, 283),
    ("krea", "esd-x", 112, 2642),
    ("krea", "esd-x-strict", 56, 528),
    ("krea", "text-stream", 37, 397),
    ("anima", "esd-x", 112, 352),
    ("anima", "esd-x-strict", 56, 117),
    ("anima", "text-stream", 74, 102),
]


@pytest.mark.parametrize(("size", "method", "tensors", "millions"), COUNTS)
def test_counts_on_the_real_shapes(comfy: Any, size: str, method: str, tensors: int, millions: int) -> None:
    chosen, values = selected(*REAL[size], method)
    assert (chosen, round(values / 1e6)) == (tensors, millions)


def test_a_wan_model_that_needs_a_picture_is_refused_by_its_type(comfy: Any) -> None:
    from esd_pack.esd.errors import EsdError
    from esd_pack.nodes.host.families import identify

    base = build("WAN21_T2V", OTHERS["wan"].config, device="meta")
    base.model_config.unet_config["model_type"] = "i2v"
    with pytest.raises(EsdError, match="a Wan model of the type i2v"):
        identify(SimpleNamespace(model=base))


@pytest.mark.full
@pytest.mark.parametrize("name", ["dev", "wan", "zimage"])
def test_what_is_left_is_measured(comfy: Any, node_classes: Any, name: str) -> None:
    """In a run that may end early, under the own words and in contexts of other lengths."""
    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.settings import Settings
    from esd_pack.esd.until_gone import CHECK_EVERY
    from esd_pack.nodes.host.run.erase import erase_model

    row = {**DITS, **OTHERS}[name]
    few = {"num_inference_steps": 4, "trajectory_batch": 1, "width": row.side, "height": row.side, "closed_form": False}
    with torch.inference_mode():
        made = erase_model(
            row.model(), row.text, [make_concept("a cat")], [], Settings(rank=4, steps=CHECK_EVERY, **few)
        )
    assert len(made.losses) == CHECK_EVERY and set(json.loads(made.weights.metadata["esd.left"])) == {"a cat"}
    begun, worst = json.loads(made.weights.metadata["esd.residual"])["worst"]
    assert begun == 1.0 and worst == worst and worst < 10


@pytest.mark.parametrize("name", ["dev", "wan", "zimage"])
def test_a_watched_run_shows_previews_and_goes_on_from_its_snapshot(
    comfy: Any, node_classes: Any, runs: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With embedded guidance, latents of five dimensions, and conditions that are no tensors."""
    from comfy.model_management import InterruptProcessingException

    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.run import preview
    from esd_pack.nodes.host.run.erase import erase_model
    from esd_pack.nodes.host.run.monitor import MonitoredRun, MonitorOptions

    row = {**DITS, **OTHERS}[name]
    few = {"num_inference_steps": 4, "trajectory_batch": 2, "width": row.side, "height": row.side}
    settings = Settings(rank=4, steps=3, stop="after all steps", **few)
    shown, after = [], MonitoredRun._after

    def watched(self: Any, step: Any) -> bool:
        ends = after(self, step)
        shown.append((dict(self.live.left), dict(self.failures)))
        if step.index == 1 and len(shown) == 2:
            raise InterruptProcessingException
        return ends

    def run(**monitor: Any) -> Any:
        with torch.inference_mode():
            options = MonitorOptions(node="1", **monitor) if monitor else None
            return erase_model(row.model(), row.text, [make_concept("a cat")], [], settings, monitor=options)

    monkeypatch.setattr(preview, "STEPS", 2)
    monkeypatch.setattr(MonitoredRun, "_after", watched)
    whole = run()
    with pytest.raises(InterruptProcessingException):
        run(preview_every=1)
    resumed = run(preview_every=1, start="resume")
    assert [failed for _, failed in shown] == [{}] * 3 and all("a cat" in left for left, _ in shown)
    assert resumed.losses == whole.losses
    for key, change in whole.weights.low_rank.items():
        assert torch.equal(change.up, resumed.weights.low_rank[key].up)


@pytest.mark.full
@pytest.mark.parametrize("name", ["dev", "schnell", "klein", "sd35", "wan", "krea"])
def test_a_network_that_the_host_loads_is_told_and_erased(comfy: Any, name: str) -> None:
    """By its own detection, with weights that belong to inference mode; hosts before 0.8 know the real sizes alone."""
    import comfy.sd

    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.families import identify
    from esd_pack.nodes.host.run.erase import erase_model
    from support.dit_models import is_new_host

    if not is_new_host() and name not in ("sd35", "wan"):
        pytest.skip("this host takes such small networks for others")
    row = {**DITS, **OTHERS}[name]
    state = row.model().model.diffusion_model.state_dict()
    with torch.inference_mode():
        model = comfy.sd.load_diffusion_model_state_dict({key: t.clone() for key, t in state.items()})
        assert identify(model).name == row.family
        for rank in (0, 4):
            few = {"steps": 2, "num_inference_steps": 4, "width": row.side, "height": row.side, "closed_form": False}
            erased = erase_model(model, row.text, [make_concept("cat")], [], Settings(rank=rank, **few))
            assert erased.losses[0] > 0 and any(bool(t.any()) for t in erased.weights.tensors)
