"""A whole network as a folder that diffusers' `UNet2DConditionModel.from_pretrained` opens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..erasure import PREFIX, Erasure
from ..errors import EsdError
from ..files.safetensors_write import write_stream
from .network import Network, diffusers_names
from .official import absolute

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class UnetShape:
    """The shape of a UNet of the SD1, SD2 or SDXL layout, levels from fine to coarse; depths are transformer blocks.

    `middle` is -1 for a middle without attention and -2 for none; `heads` counts heads a layer, or is 0 for heads of
    64 channels; `vector` is the width of SDXL's pooled embedding with sizes, 0 for none.
    """

    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    down: tuple[int, ...]
    middle: int
    up: tuple[int, ...]
    context: int
    linear: bool
    heads: int
    vector: int


def write_unet(folder: Path, weights: Erasure, network: Network, shape: UnetShape) -> None:
    """Write the erased network, float32, with its configuration, into an existing folder."""
    names = diffusers_names(network)
    changes = {key.removeprefix(PREFIX): partial(weights.change, key) for key in weights.names}
    tensors = {names[host]: absolute(network, host, changes.get(host)) for host in network.shapes}
    (folder / "config.json").write_text(json.dumps(config(shape), indent=2) + "\n", encoding="utf-8")
    write_stream(folder / WEIGHTS_FILE, tensors, {**weights.metadata, "format": "pt"})


def config(shape: UnetShape) -> dict[str, Any]:
    """Return the configuration file of diffusers for a shape; raise EsdError for one that diffusers cannot express."""
    depths = [depth or 1 for depth in shape.down]
    if shape.middle > 0 and shape.down[-1] not in (0, shape.middle):
        raise EsdError(
            "This network's middle is deeper than its lowest level, which diffusers cannot express: save lora."
        )
    depths[-1] = shape.middle if shape.middle > 0 else depths[-1]
    rising = [depth or 1 for depth in shape.up]
    middle = {-1: "UNetMidBlock2D", -2: None}.get(shape.middle, "UNetMidBlock2DCrossAttn")
    return {
        "_class_name": "UNet2DConditionModel",
        "act_fn": "silu",
        "in_channels": shape.in_channels,
        "out_channels": shape.out_channels,
        "block_out_channels": list(shape.channels),
        "layers_per_block": _one(shape.blocks),
        "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in shape.down],
        "mid_block_type": middle,
        "up_block_types": ["CrossAttnUpBlock2D" if d else "UpBlock2D" for d in shape.up],
        "transformer_layers_per_block": _one(depths),
        "reverse_transformer_layers_per_block": None if _matches(shape) else rising,
        "cross_attention_dim": shape.context,
        "attention_head_dim": shape.heads or [width // 64 for width in shape.channels],
        "use_linear_projection": shape.linear,
        "norm_num_groups": 32,
        "norm_eps": 1e-05,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "sample_size": 128 if shape.vector else 64,
        **_embedding(shape.vector),
    }


def _matches(shape: UnetShape) -> bool:
    return list(shape.up) == list(reversed(shape.down))


def _one(values: Sequence[int]) -> int | list[int]:
    return values[0] if len(set(values)) == 1 else list(values)


def _embedding(vector: int) -> Mapping[str, Any]:
    if not vector:
        return {}
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": vector,
    }
