"""Each model family, as a small random network of its real layout, through the host's own detection and classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from support.family_models import ROWS, SIDE, RandomText

FULL = pytest.mark.full


@pytest.fixture(scope="module")
def load(comfy: Any) -> Callable[[str], Any]:
    """Loads a row's network as the host's MODEL."""
    import comfy.sd

    def loaded(name: str) -> Any:
        state = ROWS[name].state()
        with torch.inference_mode():
            return comfy.sd.load_diffusion_model_state_dict({k: v.clone() for k, v in state.items()})

    return loaded


@pytest.mark.parametrize(
    "name", ["sd1", "sd3", *(pytest.param(n, marks=FULL) for n in ROWS if n not in ("sd1", "sd3"))]
)
def test_a_family_is_found_and_erased(load: Callable[[str], Any], name: str) -> None:
    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.families import identify
    from esd_pack.nodes.host.run.erase import erase_model

    row, model = ROWS[name], load(name)
    assert identify(model).name == row.family
    assert type(model.model.model_config).__name__ == row.model_class
    before = {key: value.clone() for key, value in model.model.state_dict().items()}
    concepts = [make_concept("cat"), make_concept("hat", "cowboy")]
    for method, count in row.counts.items():
        settings = Settings(
            method=method,
            steps=2,
            num_inference_steps=4,
            trajectory_batch=2,
            width=SIDE,
            height=SIDE,
            closed_form=False,
        )
        with torch.inference_mode():
            erased = erase_model(model, row.text, concepts, [], settings)
        assert len(erased.weights.differences) == count
        assert all(torch.isfinite(t).all() for t in erased.weights.differences.values())
        assert any(t.any() for t in erased.weights.differences.values())
        assert set(erased.weights.differences) <= set(erased.model.patches)
    assert all(torch.equal(before[key], value) for key, value in model.model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "recomputed"),
    [
        ("sd1", {"ResBlock", "SpatialTransformer"}),
        pytest.param("ssd1b", {"ResBlock", "BasicTransformerBlock"}, marks=FULL),
        ("sd3", {"JointBlock"}),
    ],
)
def test_checkpointing_recomputes_block_by_block(load: Callable[[str], Any], name: str, recomputed: set[str]) -> None:
    """Each stores nothing but its input and holds at most one transformer block; the weights come out equal."""
    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.families import identify
    from esd_pack.nodes.host.model.backward import checkpoint_blocks
    from esd_pack.nodes.host.run.erase import erase_model

    row, model = ROWS[name], load(name)
    blocks = checkpoint_blocks(model.model.diffusion_model, identify(model).backward.blocks)
    assert {type(block).__name__ for block in blocks} == recomputed
    for block in blocks:
        assert sum(type(part).__name__ == "BasicTransformerBlock" for part in block.modules()) <= 1
    settings = Settings(
        method="esd-x", steps=2, num_inference_steps=4, trajectory_batch=2, width=SIDE, height=SIDE, closed_form=False
    )
    with torch.inference_mode():
        on, off = (
            erase_model(
                model, row.text, [make_concept("cat")], [], replace(settings, gradient_checkpointing=switch)
            ).weights
            for switch in ("on", "off")
        )
    assert on.differences.keys() == off.differences.keys()
    assert all(torch.equal(on.differences[key], value) for key, value in off.differences.items())


def test_sd3_refuses_methods_that_it_has_no_names_for(load: Callable[[str], Any]) -> None:
    from esd_pack.esd.errors import EsdError
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.run.erase import make_plan

    with pytest.raises(EsdError, match='"esd-x-strict" is not defined for this kind of model: choose esd-x or esd-u'):
        make_plan(load("sd3"), Settings(method="esd-x-strict", width=SIDE, height=SIDE))


def test_prompts_of_different_lengths_go_apart_through_joint_attention(load: Callable[[str], Any]) -> None:
    """Attention of text and picture together would weigh repeated tokens more."""
    from esd_pack.esd.denoiser import batched, predict
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.model.conditioning import encode
    from esd_pack.nodes.host.run.erase import make_denoiser, make_plan

    class Lengths(RandomText):
        def encode_from_tokens_scheduled(self, text: str) -> list[Any]:
            ((tokens, extra),) = super().encode_from_tokens_scheduled(text)
            return [[tokens.repeat(1, 1 + len(text) // 10, 1), extra]]

    row, device = ROWS["sd3"], torch.device("cpu")
    text = Lengths(row.text.width, row.text.pooled)
    prompts = ["", "a very long prompt", "cat"]
    with torch.inference_mode():
        plan = make_plan(load("sd3"), Settings(width=SIDE, height=SIDE))
        told = list(encode(plan.host, text, prompts, plan.latent_shape, device).values())
    calls: list[int] = []
    denoiser = make_denoiser(plan, calls.append)
    x = torch.randn((3, *plan.latent_shape), generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.9, 0.5, 0.1])
    with torch.no_grad():
        together = predict(denoiser, x, sigma, batched(told))
        apart = [denoiser.predict(x[i : i + 1], sigma[i : i + 1], told[i]) for i in range(3)]
    assert calls == [2, 1, 1, 1, 1] and torch.allclose(together, torch.cat(apart), atol=1e-5)


@pytest.mark.parametrize("name", ["sd1", "koala", "sd3"])
def test_a_walk_ends_where_the_hosts_own_euler_does(load: Callable[[str], Any], name: str) -> None:
    """The whole walk down to sigma 0 equals k-diffusion's Euler on the host's own model call."""
    import comfy.k_diffusion.sampling

    from esd_pack.esd.settings import Settings
    from esd_pack.esd.trajectory import cfg_trajectory, euler_step
    from esd_pack.nodes.host.model.conditioning import encode
    from esd_pack.nodes.host.run.erase import make_denoiser, make_plan

    row, model = ROWS[name], load(name)
    with torch.inference_mode():
        plan = make_plan(model, Settings(width=SIDE, height=SIDE))
        conditions = encode(plan.host, row.text, ["", "cat"], plan.latent_shape, plan.device)
    denoiser = make_denoiser(plan, lambda samples: None)
    noise = torch.randn((1, *plan.latent_shape), generator=torch.Generator().manual_seed(0))
    sigmas = denoiser.sigmas(5)
    levels = list(cfg_trajectory(denoiser, noise, conditions[""], [conditions["cat"]], sigmas[:-1, None], 1.0))
    last = levels[-1]
    ours = euler_step(denoiser, last.cond, last.x, last.sigma, sigmas[-1:])

    def host_denoised(x: Tensor, sigma: Tensor) -> Tensor:
        return model.model.apply_model(x, sigma, **dict(conditions["cat"].tensors))

    with torch.inference_mode():
        start = denoiser.pure_noise(noise, sigmas[:1])
        theirs = comfy.k_diffusion.sampling.sample_euler(host_denoised, start.clone(), sigmas, disable=True)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-4


def test_a_unet_file_with_a_text_encoder_of_its_own_is_erased(comfy: Any, comfy_base: Any, playground: Any) -> None:
    """Stock UNETLoader and CLIPLoader on the parts of a checkpoint give the erasure of the checkpoint, bit for bit."""
    import folder_paths
    from safetensors.torch import save_file

    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.run.erase import erase_model

    whole, clip, _ = playground
    parts = {
        "diffusion_models": whole.model.diffusion_model.state_dict(),
        "text_encoders": clip.cond_stage_model.clip_l.transformer.state_dict(),
    }
    for folder, tensors in parts.items():
        place = comfy_base / "models" / folder
        place.mkdir(exist_ok=True)
        folder_paths.add_model_folder_path(folder, str(place))
        with torch.inference_mode(False):
            save_file({name: t.clone().contiguous() for name, t in tensors.items()}, place / "part.safetensors")
    classes = comfy.NODE_CLASS_MAPPINGS
    with torch.inference_mode():
        (model,) = classes["UNETLoader"]().load_unet("part.safetensors", "default")
        (text,) = classes["CLIPLoader"]().load_clip("part.safetensors", "stable_diffusion", "default")
        settings = Settings(steps=2, num_inference_steps=4, trajectory_batch=2, width=64, height=64, closed_form=False)
        apart, together = (
            erase_model(m, c, [make_concept("cat")], [], settings).weights.differences
            for m, c in ((model, text), (whole, clip))
        )
    assert apart.keys() == together.keys()
    assert all(torch.equal(apart[name], together[name]) for name in apart)
