"""Bases whose weights are quantised: a low-rank student learns beside them, and nothing else is offered."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from support.dit_models import DITS, build, patcher, randomise

NAME, FP8 = "dev", torch.float8_e4m3fn


def _layers(state: dict[str, Tensor]) -> list[str]:
    ends = (".qkv.weight", ".proj.weight", "linear1.weight", "linear2.weight")
    return [key[:-7] for key in state if key.endswith(ends)]


def _model(config: Any, state: dict[str, Tensor], stored: torch.dtype = torch.float32) -> Any:
    """Return a MODEL with that state, as the host's loader makes it."""
    with torch.inference_mode():
        config.set_inference_dtype(stored, torch.float32)
        base = config.get_model({}, "")
        base.load_model_weights({k: v.clone() for k, v in state.items()}, "")
    return patcher(base)


def _plain() -> tuple[Any, dict[str, Tensor]]:
    base = build(DITS[NAME].kind, DITS[NAME].config)
    randomise(base.diffusion_model)
    state = {key: t.detach().clone() for key, t in base.diffusion_model.state_dict().items()}
    return type(base.model_config)(dict(base.model_config.unet_config)), state


def stored_as_fp8() -> Any:
    """Return a MODEL loaded with weight_dtype fp8: each layer casts its weights."""
    config, state = _plain()
    return _model(config, {k: v.to(FP8) for k, v in state.items()}, FP8)


def scaled_fp8() -> Any:
    """Return a MODEL with scales beside fp8 weights, as files of 2025 have them."""
    config, state = _plain()
    if not hasattr(type(config), "scaled_fp8"):
        pytest.skip("this host turns such files into layouts")
    config.scaled_fp8 = FP8
    for name in _layers(state):
        scale = state[f"{name}.weight"].abs().max() / 448
        state[f"{name}.weight"] = (state[f"{name}.weight"] / scale).to(FP8)
        state[f"{name}.scale_weight"] = scale
    return _model(config, state)


def layout(kind: str) -> Callable[[], Any]:
    """Return a maker of MODELs whose layers keep their weights in a layout of the host's."""

    def make() -> Any:
        import comfy.quant_ops

        config, state = _plain()
        formats = getattr(comfy.quant_ops, "QUANT_ALGOS", {})
        if kind not in formats:
            pytest.skip("this host has no such layout")
        layers = _layers(state)
        for name in layers:
            state |= _quantised(name, state[f"{name}.weight"], kind, formats[kind])
        if hasattr(config, "quant_config"):
            config.quant_config = {"mixed_ops": True}
        else:
            config.layer_quant_config = {name: {"format": kind, "params": {}} for name in layers}
            state = {k: v for k, v in state.items() if not k.endswith(".comfy_quant")}
        return _model(config, state)

    return make


def _quantised(name: str, weight: Tensor, kind: str, algorithm: dict[str, Any]) -> dict[str, Tensor]:
    """Return the entries of a layer in a file."""
    from comfy.quant_ops import QuantizedTensor

    mark = torch.tensor(list(json.dumps({"format": kind}).encode()), dtype=torch.uint8)
    if kind.startswith("float8"):
        scale = weight.abs().max() / 448
        values = (weight / scale).to(algorithm["storage_t"])
        return {f"{name}.weight": values, f"{name}.weight_scale": scale, f"{name}.comfy_quant": mark}
    made = QuantizedTensor.from_float(weight, algorithm["comfy_tensor_layout"])
    return {f"{name}.{key}": t for key, t in made.state_dict("weight").items()} | {f"{name}.comfy_quant": mark}


KINDS = {
    "stored as fp8": stored_as_fp8,
    "scaled fp8": scaled_fp8,
    **{kind: layout(kind) for kind in ("float8_e4m3fn", "float8_e5m2", "nvfp4", "mxfp8", "int8_tensorwise")},
}


@pytest.fixture(params=list(KINDS))
def model(comfy: Any, request: pytest.FixtureRequest) -> Any:
    """Each kind of quantised MODEL."""
    return KINDS[request.param]()


SMALL: dict[str, Any] = {
    "method": "esd-x",
    "steps": 2,
    "closed_form": False,
    "num_inference_steps": 4,
    "width": 64,
    "height": 64,
}


def test_a_low_rank_student_learns_beside_quantised_weights(model: Any) -> None:
    """The first output is the base's bit for bit, every matrix learns, recomputed or not, and the base stays."""
    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.run.erase import erase_model

    before = {key: t.clone() for key, t in model.model.state_dict().items()}
    settings = Settings(**SMALL, rank=4)
    found = []
    with torch.inference_mode():
        for switch in ("auto", "off"):
            changed = replace(settings, gradient_checkpointing=switch)
            found.append(erase_model(model, DITS[NAME].text, [make_concept("cat")], [], changed))
    recomputed, plain = (run.weights.low_rank for run in found)
    assert all(bool(change.up.any()) for change in plain.values())
    assert all(torch.equal(plain[n].up, recomputed[n].up) for n in plain)
    after = model.model.state_dict()
    assert all(torch.equal(before[key].view(torch.uint8), t.view(torch.uint8)) for key, t in after.items() if t.ndim)


def test_the_base_answers_as_the_host_does(model: Any) -> None:
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.model.conditioning import encode
    from esd_pack.nodes.host.run.erase import make_denoiser, make_plan

    with torch.inference_mode():
        plan = make_plan(model, Settings(**SMALL, rank=4))
        told = encode(plan.host, DITS[NAME].text, ["cat"], plan.latent_shape, plan.device)["cat"]
    denoiser = make_denoiser(plan, lambda samples: None)
    x = torch.randn((1, *plan.latent_shape), generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.6])
    with torch.no_grad():
        ours = denoiser.denoised(denoiser.predict(x, sigma, told), x, sigma)
        with denoiser.student():
            assert torch.equal(denoiser.denoised(denoiser.predict(x, sigma, told), x, sigma), ours)
    with torch.inference_mode():
        theirs = model.model.apply_model(x, sigma, **dict(told.tensors))
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-4


def test_a_full_student_is_refused_in_one_sentence(model: Any) -> None:
    from esd_pack.esd.errors import EsdError
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.run.erase import make_plan

    with pytest.raises(EsdError, match="are quantised .*: load the fp16, bf16 or fp32 file .*or set rank to 16"):
        make_plan(model, Settings(**SMALL))


def test_patches_on_a_quantised_model_are_refused(comfy: Any) -> None:
    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.errors import EsdError
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.run.erase import erase_model

    model = stored_as_fp8().clone()
    key = "diffusion_model.double_blocks.0.txt_attn.proj.weight"
    model.add_patches({key: ("diff", (torch.ones(128, 128),))}, 1.0)
    with torch.inference_mode(), pytest.raises(EsdError, match="is quantised and carries LoRAs"):
        erase_model(model, DITS[NAME].text, [make_concept("cat")], [], Settings(**SMALL, rank=4))


def test_a_run_is_kept_and_reused(model: Any, runs: Any, node_classes: Any) -> None:
    """Its key is made of the weights as they are kept."""
    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.run.erase import erase_model
    from esd_pack.nodes.host.run.monitor import MonitorOptions

    with torch.inference_mode():
        first, again = (
            erase_model(
                model,
                DITS[NAME].text,
                [make_concept("cat")],
                [],
                Settings(**SMALL, rank=4),
                monitor=MonitorOptions(node="1"),
            )
            for _ in range(2)
        )
    assert len(list(runs.iterdir())) == 1 and first.losses == again.losses
    assert all(torch.equal(c.up, again.weights.low_rank[n].up) for n, c in first.weights.low_rank.items())


def test_whole_checkpoints_and_absolute_values_are_refused(comfy: Any, tmp_path: Any) -> None:
    from esd_pack.esd.erasure import Erasure, LowRankChange
    from esd_pack.esd.errors import EsdError
    from esd_pack.nodes.host.files import export, save

    model = stored_as_fp8()
    parts = save.Parts(model, SimpleNamespace(), SimpleNamespace())
    with pytest.raises(EsdError, match="quantised .* so a checkpoint would lose small changes: save the erasure alone"):
        save.save_checkpoint("checkpoints/erased", parts, None, {})
    key = "diffusion_model.double_blocks.0.txt_attn.proj.weight"
    weights = Erasure({}, low_rank={key: LowRankChange(torch.ones(128, 2), torch.ones(2, 128))})
    with pytest.raises(EsdError, match="quantised .* absolute values would lose small changes: load the bf16 file"):
        export.format_of("official").write(tmp_path / "w.safetensors", export.Export(weights, {}, model))


def test_patches_of_another_clone_that_is_loaded_do_not_get_in(model: Any) -> None:
    """All clones share one network, whose weights have the patches of the last one that was sampled."""
    import comfy.model_management

    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.run.erase import erase_model

    def run() -> Any:
        return erase_model(model, DITS[NAME].text, [make_concept("cat")], [], Settings(**SMALL, rank=4)).weights

    key = "diffusion_model.double_blocks.0.txt_attn.proj.weight"
    with torch.inference_mode():
        alone = run()
        other = model.clone()
        other.add_patches({key: ("diff", (torch.ones(128, 128),))}, 1.0)
        comfy.model_management.load_models_gpu([other])
        beside = run()
        comfy.model_management.unload_all_models()
    assert all(torch.equal(alone.low_rank[n].up, beside.low_rank[n].up) for n in alone.low_rank)


def test_the_plan_counts_the_casts_of_a_block(comfy: Any) -> None:
    """Backward keeps the weights that the layers of a recomputed block have made plain."""
    from esd_pack.nodes.host.model.host_model import as_host_model
    from esd_pack.nodes.host.model.memory import cast_bytes

    quantised = as_host_model(stored_as_fp8())
    blocks = [*quantised.network.double_blocks, *quantised.network.single_blocks]
    largest = max(sum(p.numel() for p in block.parameters()) for block in blocks)
    assert cast_bytes(quantised, torch.float32) == 4 * largest
    assert cast_bytes(as_host_model(DITS[NAME].model()), torch.float32) == 0
