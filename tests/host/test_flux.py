"""FLUX.1 and FLUX.2 klein, as tiny networks of the host's classes, against diffusers' and the official procedure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")
from support.dit_models import DITS, FLUX1, KLEIN, Twin, build, selected, twin  # noqa: E402

CLOSE = 1e-4
ETA, STEPS = 1.5, 6
EVERY = pytest.mark.parametrize("name", list(DITS))


@dataclass
class Case:
    """A run of a tiny MODEL, ready to be looked at, and the same network in diffusers."""

    model: Any
    plan: Any
    conditions: Any
    denoiser: Any
    other: Twin

    def told(self, prompt: str, **others: Tensor) -> dict[str, Tensor]:
        """What the reference network is told."""
        tensors = dict(self.conditions[prompt].tensors)
        return {"context": tensors.pop("c_crossattn"), **tensors, **others}


@pytest.fixture(scope="module")
def made(comfy: Any) -> Callable[..., Case]:
    """Makes a case: a family, and settings that are not as usual here."""
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.model.conditioning import encode
    from esd_pack.nodes.host.run.erase import guidance_of, make_denoiser, make_plan

    def make(name: str, model: Any = None, **changes: Any) -> Case:
        row = DITS[name]
        model = model or row.model()
        usual = {"eta": ETA, "num_inference_steps": STEPS, "width": row.side, "height": row.side, "closed_form": False}
        settings = Settings(**{**usual, **changes})
        with torch.inference_mode():
            plan = make_plan(model, settings)
            told = encode(plan.host, row.text, ["", "cat"], plan.latent_shape, plan.device, guidance_of(plan.settings))
        denoiser = make_denoiser(plan, lambda samples: None)
        return Case(model, plan, told, denoiser, twin(name, model))

    return make


@pytest.fixture(autouse=True)
def in_training(comfy: Any) -> Any:
    """Tell the host that gradients are wanted, as a run does."""
    from esd_pack.nodes.host.model.backward import training_mode

    with training_mode():
        yield


def apart(a: Tensor, b: Tensor) -> float:
    """The relative distance of two tensors."""
    return float((a - b).norm() / b.norm())


def noise(case: Case, count: int = 1) -> Tensor:
    """Standard normal latents."""
    return torch.randn((count, *case.plan.latent_shape), generator=torch.Generator().manual_seed(1))


@EVERY
def test_the_raw_output_is_that_of_diffusers(made: Callable[..., Case], name: str) -> None:
    from esd_pack.esd.denoiser import stack

    case = made(name)
    assert case.plan.host.family.name == DITS[name].family
    x, sigma = noise(case, 2), torch.tensor([0.9, 0.4])
    both = stack([case.conditions[""], case.conditions["cat"]])
    with torch.no_grad():
        ours = case.denoiser.predict(x, sigma, both)
        told = dict(both.tensors)
        theirs = case.other.call(x, sigma, {"context": told.pop("c_crossattn"), **told})
    assert apart(ours, theirs) < 1e-5


OFFICIAL = {
    ("dev", "esd-x"): lambda n: "attn" in n,
    ("dev", "esd-x-strict"): lambda n: "attn" in n and ("to_k" in n or "to_v" in n),
    ("klein", "esd-x"): lambda n: n.endswith(
        ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    ),
    ("klein", "esd-x-strict"): lambda n: n.endswith(("to_k", "to_v", "add_k_proj", "add_v_proj")),
}
"""The official rules on the names of diffusers' modules."""


def official_parameters(network: Any, rule: Callable[[str], bool]) -> dict[str, Tensor]:
    """Return what the official code would train."""
    return {
        f"{path}.{leaf}": value
        for path, module in network.named_modules()
        if type(module) is torch.nn.Linear and rule(path)
        for leaf, value in module.named_parameters(recurse=False)
    }


def reference_walk(name: str, case: Case, start: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return x and sigma after k official steps: embedded guidance 3.5 for FLUX.1, CFG 4 for klein."""
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift
    from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

    rows, columns = case.plan.latent_shape[-2:]
    tokens = rows * columns if name == "klein" else rows * columns // 4
    mu = compute_empirical_mu(tokens, STEPS) if name == "klein" else calculate_shift(tokens)
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / STEPS, STEPS).numpy(), mu=mu)
    x = start
    for i in range(k):
        sigma = scheduler.timesteps[i : i + 1] / 1000
        if name == "klein":
            null, asked = (case.other.call(x, sigma, case.told(prompt)) for prompt in ("", "cat"))
            raw = null + 4.0 * (asked - null)
        else:
            raw = case.other.call(x, sigma, case.told("cat", guidance=torch.tensor([3.5])))
        x = scheduler.step(raw, scheduler.timesteps[i], x).prev_sample
    return x, scheduler.timesteps[k : k + 1] / 1000


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize(("name", "method"), list(OFFICIAL))
def test_a_point_equals_the_official_procedure(made: Callable[..., Case], name: str, method: str, k: int) -> None:
    """x_t, target, loss and gradient equal an independent implementation with diffusers' network and schedule."""
    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.examples import collect_examples, target_spec
    from esd_pack.esd.step_plan import StepPlan
    from esd_pack.esd.train import backward

    case = made(name, method=method)
    start, levels = noise(case), torch.arange(k + 1)[:, None]
    sigmas = case.denoiser.sigmas(STEPS)
    spec = target_spec(make_concept("cat"), case.plan.settings)
    route = StepPlan(levels, levels == k)
    (example,) = collect_examples(case.denoiser, case.conditions, [spec], start, route, sigmas, case.plan.settings)
    with torch.no_grad():
        x, sigma = reference_walk(name, case, start, k)
        null, asked = (case.other.call(x, sigma, case.told(prompt)) for prompt in ("", "cat"))
        wanted = asked - (ETA + 1) * (asked - null)
    assert example.sigma == pytest.approx(float(sigma), rel=1e-5)
    assert apart(example.x[None], x) < CLOSE and apart(example.target[None], wanted) < CLOSE
    trained = official_parameters(case.other.network.requires_grad_(False), OFFICIAL[name, method])
    for value in trained.values():
        value.requires_grad_(True)
    loss = (case.other.call(x, sigma, case.told("cat")) - wanted).square().mean()
    loss.backward()
    ours = backward(case.denoiser, case.conditions, [example], 1.0)
    assert ours == pytest.approx(float(loss.detach()), rel=CLOSE)
    worst, seen = compare_gradients(case, trained)
    assert seen == set(case.denoiser.trainable) and worst < CLOSE


def compare_gradients(case: Case, trained: dict[str, Tensor]) -> tuple[float, set[str]]:
    """Return the worst relative distance of the gradients, and the host's tensors that the official ones cover."""
    rows, seen, worst = dict(case.plan.rows), set(), 0.0
    names = case.plan.host.family.diffusers(case.plan.host.config)
    whole = torch.stack([t.grad.norm() for t in trained.values()]).norm()
    for theirs, value in trained.items():
        host = names[theirs]
        host, first, count = host if isinstance(host, tuple) else (host, 0, value.shape[0])
        seen.add(host)
        mine = case.denoiser.trainable[host].grad.narrow(0, first - rows.get(host, (0, 0))[0], count)
        distance = (mine - value.grad).norm()
        worst = max(worst, float(distance / value.grad.norm()) if distance > 1e-6 * whole else 0.0)
    covered = sum(t.numel() for t in trained.values())
    assert covered == sum(p.numel() for p in case.denoiser.trainable.values())
    return worst, seen


@pytest.mark.parametrize("rank", [0, 4])
@EVERY
def test_the_student_begins_as_the_base_and_every_weight_learns(
    made: Callable[..., Case], name: str, rank: int
) -> None:
    """Bit for bit, with and without recomputation, and the gradients of both are equal to the bit."""
    for method in ("esd-x", "esd-x-strict", "text-stream"):
        case = made(name, method=method, rank=rank)
        x, sigma, told = noise(case), torch.tensor([0.7]), case.conditions["cat"]
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
            found.append({n: p.grad.clone() for n, p in case.denoiser.trainable.items()})
        plain, recomputed = found
        assert all(torch.equal(plain[n], recomputed[n]) for n in plain)
        assert all(t.any() for n, t in plain.items() if "lora_down" not in n), method
        with torch.no_grad():
            assert torch.equal(case.denoiser.predict(x, sigma, told), base)


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("name", ["dev", *(pytest.param(n, marks=pytest.mark.full) for n in ("schnell", "klein"))])
def test_a_run_erases_and_its_model_draws_as_the_student(comfy: Any, name: str, rank: int) -> None:
    from esd_pack.esd.concepts import make_concept, make_keep
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.run.erase import erase_model

    row = DITS[name]
    model = row.model()
    before = {key: value.clone() for key, value in model.model.state_dict().items()}
    settings = Settings(
        method="esd-x", rank=rank, steps=2, num_inference_steps=4, trajectory_batch=2, width=64, height=64
    )
    with torch.inference_mode():
        erased = erase_model(model, row.text, [make_concept("cat")], [make_keep("dog", 1.0)], settings)
    assert bool(erased.weights.low_rank) == bool(rank) and erased.losses[0] > 0
    assert set(erased.weights.names) <= set(erased.model.patches)
    assert all(torch.equal(before[key], value) for key, value in model.model.state_dict().items())
    key = next(n for n in erased.weights.names if n.endswith("txt_attn.proj.weight"))
    with torch.inference_mode():
        erased.model.patch_model()
        patched = erased.model.model.state_dict()[key].clone()
        erased.model.unpatch_model()
    assert torch.allclose(patched, before[key] + erased.weights.change(key), atol=1e-6) and not torch.equal(
        patched, before[key]
    )


REAL = {
    "dev": ("Flux", {**FLUX1, "num_heads": 24, "hidden_size": 3072, "context_in_dim": 4096, "vec_in_dim": 768,
                     "depth": 19, "depth_single_blocks": 38, "guidance_embed": True}),
    "klein 4B": ("Flux2", {**KLEIN, "hidden_size": 3072, "num_heads": 24, "context_in_dim": 7680, "depth": 5,
                           "depth_single_blocks": 20}),
    "klein 9B": ("Flux2", {**KLEIN, "hidden_size": 4096, "num_heads": 32, "context_in_dim": 12288, "depth": 8,
                           "depth_single_blocks": 24}),
}  # fmt: skip
COUNTS = [
    ("dev", "esd-x", 228, 2511.1),
    ("dev", "esd-x-strict", 114, 1076.2),
    ("dev", "text-stream", 76, 717.5),
    ("klein 4B", "esd-x", 20, 377.5),
    ("klein 4B", "esd-x-strict", 10, 188.7),
    ("klein 4B", "text-stream", 10, 188.7),
    ("klein 9B", "esd-x", 32, 1073.7),
    ("klein 9B", "esd-x-strict", 16, 536.9),
    ("klein 9B", "text-stream", 16, 536.9),
]
"""The official counts; three tensors of diffusers are one here."""


@pytest.mark.parametrize(("size", "method", "tensors", "millions"), COUNTS)
def test_counts_on_the_real_shapes(comfy: Any, size: str, method: str, tensors: int, millions: float) -> None:
    chosen, values = selected(*REAL[size], method)
    assert (chosen, round(values / 1e6, 1)) == (tensors, millions)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("dev", {"in_channels": 96}, "FLUX Fill model"),
        ("dev", {"in_channels": 32}, "FLUX Canny or Depth model"),
        ("klein", {"guidance_embed": True}, "FLUX.2 dev"),
    ],
)
def test_other_variants_are_refused_by_name(comfy: Any, name: str, changes: dict[str, Any], words: str) -> None:
    from esd_pack.esd.errors import EsdError
    from esd_pack.nodes.host.families import identify

    base = build(DITS[name].kind, {**DITS[name].config, **changes})
    with pytest.raises(EsdError, match=words):
        identify(SimpleNamespace(model=base))


def test_the_schedule_is_the_published_one_of_the_size_unless_a_node_sets_another(made: Callable[..., Case]) -> None:
    small = made("dev", width=512, height=512)
    assert small.denoiser.sampling.shift == pytest.approx(0.63)
    model = DITS["dev"].model()
    sampling = model.get_model_object("model_sampling")
    sampling.set_parameters(shift=0.8)
    patched = model.clone()
    patched.add_object_patch("model_sampling", sampling)
    assert made("dev", model=patched).denoiser.sampling.shift == 0.8


def test_t5_has_the_official_512_tokens_where_the_stock_node_asks_for_them(comfy: Any) -> None:
    """*T5TokenizerOptions*, which docs/official-parameters.md and the workflow for FLUX.1 use, sets this option."""
    from comfy.text_encoders.flux import FluxTokenizer

    tokenizer = FluxTokenizer()
    usual = tokenizer.tokenize_with_weights("cat")
    asked = tokenizer.tokenize_with_weights("cat", tokenizer_options={"t5xxl_min_length": 512})
    assert [len(each["t5xxl"][0]) for each in (usual, asked)] == [256, 512]
    assert usual["l"] == asked["l"]
