"""The transformer world's recipe: short cuts that change nothing, and a file that hosts take for SD3.5's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from commands.playground import world as shipped
from lab.playground.recipe import autoencoder, captions, flow, layouts, pack, pack_sd35, summary_tower, transformer
from lab.playground.recipe.autoencoder import Autoencoder
from lab.playground.recipe.transformer import HEAD, Prompts, Transformer

pytestmark = pytest.mark.full

WORDS = ["face wearing a cowboy hat in fluent style on a yellow background", "cat", ""]
LONG = ["a very long prompt of many words that the world does not know at all, " * 2, "cat"]


@pytest.fixture(scope="module")
def network() -> Transformer:
    """A small one with weights at random everywhere."""
    torch.manual_seed(0)
    made = Transformer(heads=2)
    transformer.start_at_zero(made)
    for value in made.parameters():
        if not value.any():
            torch.nn.init.normal_(value, std=0.05)
    return made.eval().requires_grad_(False)


@pytest.fixture
def tokens(comfy_path: Path) -> Any:
    """Tokens of prompts as the host makes them."""
    return lambda words: captions.tokens(words, comfy_path / "comfy" / "sd1_tokenizer")


def asked(count: int) -> tuple[Tensor, Tensor]:
    """Latents and noise levels."""
    random = torch.Generator().manual_seed(1)
    return torch.randn(count, 16, 8, 8, generator=random), torch.rand(count, generator=random)


@pytest.mark.parametrize("words", [WORDS, ["cat", "cat"], LONG])
def test_one_token_stands_for_all_that_fill_a_prompt_up(network: Transformer, tokens: Any, words: list[str]) -> None:
    """The velocity of 77 tokens each, to rounding, in short and long prompts."""
    tower, given = summary_tower.summary_tower(), tokens(words)
    short, full = tower.shortened(given), tower(given)
    assert short.tokens.shape[1] - 1 + short.repeats == captions.LENGTH == full.tokens.shape[1]
    assert torch.equal(short.pooled, full.pooled) and torch.equal(short.tokens, full.tokens[:, : short.tokens.shape[1]])
    assert (short.repeats > 60) == (words is not LONG)
    x, sigma = asked(len(words))
    torch.testing.assert_close(network(x, sigma, short), network(x, sigma, full), atol=1e-5, rtol=0)
    other = Prompts(short.tokens, short.pooled, short.repeats + 5)
    assert (network(x, sigma, other) - network(x, sigma, full)).abs().max() > 1e-4


def test_the_summary_tells_prompts_apart(tokens: Any) -> None:
    """By their words: prompts that share most of them are most alike."""
    words = ["cat in ink style", "cat in sepia style", "rocket", ""]
    pooled = summary_tower.summary_tower()(tokens(words)).pooled
    alike = torch.corrcoef(pooled)
    assert alike[0, 1] > alike[0, 2] + 0.05 and alike[0, 1] < 0.95


def test_new_channels_hold_what_the_first_leave_out() -> None:
    """The first four stay bit for bit, so does what the decoder makes; the others have mean 0 and no part of them."""
    learnt = pack.networks(shipped.CHECKPOINT)[1]
    pictures = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)).repeat_interleave(4, 2)
    pictures = pictures.repeat_interleave(4, 3)
    before = Autoencoder.of(learnt)
    after = Autoencoder.of(autoencoder.with_more_channels(learnt, 16, pictures))
    old, new = before.encode(pictures), after.encode(pictures)
    torch.testing.assert_close(new[:, :4], old, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.reconstruct(pictures), before.reconstruct(pictures), atol=1e-5, rtol=0)
    fine, kept = (part.permute(1, 0, 2, 3).flatten(1).double() for part in (new[:, 4:], old))
    sizes = fine.std(1)
    assert sizes[0] == pytest.approx(autoencoder.FINE, rel=0.05) and (sizes.diff() <= 1e-6).all()
    assert fine.mean(1).abs().max() < 1e-4
    crossed = fine @ (kept - kept.mean(1, keepdim=True)).T / kept.shape[1] / kept.std(1)
    assert (crossed / sizes[:, None]).abs().max() < 1e-3


def test_levels_are_those_of_the_host(comfy: Any) -> None:
    """sgm_uniform over SD3's schedule, for any number of steps."""
    import comfy.model_sampling
    import comfy.samplers

    schedule = comfy.model_sampling.ModelSamplingDiscreteFlow()
    schedule.set_parameters(shift=flow.SHIFT, multiplier=1000)
    for steps in (4, 20, 33):
        theirs = comfy.samplers.normal_scheduler(schedule, steps, sgm=True)
        torch.testing.assert_close(flow.sgm_uniform(steps), theirs, atol=1e-6, rtol=0)


def test_values_are_rounded_to_the_bits_of_bfloat16() -> None:
    """To nearest: no value moves by more than half of its last bit, zero stays zero."""
    value = torch.cat([torch.randn(1000), torch.zeros(3), torch.tensor([1.0, -2.0, 0.375])])
    found = pack_sd35.rounded(value)
    assert (
        found.dtype == torch.float16 and not found[1000:1003].any() and torch.equal(found[1003:].float(), value[1003:])
    )
    moved = (found.float() - value).abs() / value.abs().clamp(min=1e-6)
    assert moved.max() <= 2**-pack_sd35.BITS and moved.max() > 2 ** -(pack_sd35.BITS + 1)
    assert not (found.view(torch.int16) & 0b111).any()


def test_a_packed_transformer_is_read_back(network: Transformer, tmp_path: Path) -> None:
    """All of it but what rounding takes, and inputs of encoders that are missing read as zeros."""
    vae = autoencoder.with_more_channels(pack.networks(shipped.CHECKPOINT)[1], 16, torch.rand(4, 3, 64, 64))
    tensors = layouts.SD35.state_dict(network.state_dict(), vae)
    width = 2 * HEAD
    wide = tensors[f"{pack.UNET}context_embedder.weight"]
    assert wide.shape == (width, 4096) and not wide[:, 768:].any()
    assert tensors[f"{pack.UNET}y_embedder.mlp.0.weight"].shape == (width, 2048)
    pack.write(tensors, tmp_path / "made.ckpt")
    read, decoded = layouts.SD35.networks(tmp_path / "made.ckpt")
    assert read.keys() == network.state_dict().keys() and decoded.keys() == vae.keys()
    for name, value in network.state_dict().items():
        assert read[name].shape == value.shape and torch.allclose(read[name], value, atol=1e-6, rtol=2**-8)


def test_times_are_drawn_where_the_schedule_walks() -> None:
    """Half of all noise levels above 3/4, as a shift of 3 makes of a logit-normal."""
    levels = flow.shifted(torch.randn(20_000, generator=torch.Generator().manual_seed(0)).sigmoid())
    assert float(levels.median()) == pytest.approx(0.75, abs=0.01) and 0 < levels.min() and levels.max() < 1
    assert float(flow.shifted(torch.tensor(0.5))) == 0.75 and math.isclose(float(flow.shifted(torch.tensor(1.0))), 1)
