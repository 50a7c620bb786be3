"""The transformer world's file: names and widths of Stable Diffusion 3.5 with CLIP-L alone, deflated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from . import autoencoder, pack
from .captions import CONTEXT
from .summary_tower import GAIN, SummaryTower
from .transformer import LATENT, positions

TEXT = "text_encoders.clip_l.transformer.text_model."
FULL = {"context_embedder.weight": 4096, "y_embedder.mlp.0.weight": 2048}
"""Inputs as wide as all text encoders: what the missing ones would give is zero, and so is what reads it."""

SCALE, SHIFT = 1.5305, 0.0609  # of SD3's latents: the transformer then sees ours as they are
BITS = 8  # of each value's significand, as in bfloat16; the rest of fp16's are zero and deflate away


def rounded(value: Tensor) -> Tensor:
    """A tensor in fp16 whose significands have BITS bits."""
    fraction, exponent = torch.frexp(value.float())
    return torch.ldexp((fraction * 2**BITS).round() / 2**BITS, exponent).half()


def state_dict(network: Mapping[str, Tensor], vae: Mapping[str, Tensor], tower: SummaryTower) -> dict[str, Tensor]:
    """The checkpoint's tensors: SD3's names, fp16."""
    made = {pack.UNET + name: rounded(_filled(name, value)) for name, value in _with_positions(network).items()}
    shapes = pack.wide_shapes(LATENT)[1]
    made |= {autoencoder.PREFIX + name: rounded(value) for name, value in pack.padded(vae, shapes).items()}
    made |= {autoencoder.PREFIX + name: torch.tensor(value) for name, value in _latents().items()}
    return made | {TEXT + name: value for name, value in _text(tower).items()}


def _with_positions(network: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"pos_embed": positions(len(network["context_embedder.bias"])), **network}


def _filled(name: str, value: Tensor) -> Tensor:
    return functional.pad(value, (0, FULL[name] - value.shape[1])) if name in FULL else value


def _latents() -> dict[str, float]:
    return {"vae_scale": SCALE, "vae_shift": SHIFT}


def _text(tower: SummaryTower) -> dict[str, Tensor]:
    """The first world's tower, with a last layer that adds the mean of the words, turned round and back again."""
    made = pack.text(tower.tower)
    last = f"encoder.layers.{pack.LAYERS - 1}.self_attn."
    turned = torch.zeros(2 * CONTEXT - 1, dtype=torch.float16)
    turned[CONTEXT - 1] = 1.0
    for part, size in (("v_proj", 1.0), ("out_proj", GAIN)):
        made[f"{last}{part}.weight"] = (size * turned).as_strided((CONTEXT, CONTEXT), (1, 1))
    return made


def networks(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The transformer and the narrow autoencoder of a checkpoint."""
    tensors = pack.tensors_of(checkpoint)
    wide = {name.removeprefix(pack.UNET): each.float() for name, each in tensors.items() if name.startswith(pack.UNET)}
    learnt = {name: each[:, :CONTEXT] if name in FULL else each for name, each in wide.items()}
    return learnt, pack.narrow_autoencoder(tensors, LATENT)
