"""A small random model of the real layout for each family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lab.reference import models

SIDE = 64


class RandomText:
    """A text encoder's socket with embeddings made from the words."""

    def __init__(self, width: int, pooled: int = 0) -> None:
        self.width, self.pooled = width, pooled

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, text: str) -> list[Any]:
        generator = torch.Generator().manual_seed(sum(map(ord, text)) + 1)
        extra = {"pooled_output": torch.randn((1, self.pooled), generator=generator)} if self.pooled else {}
        return [[torch.randn((1, 77, self.width), generator=generator), extra]]


def randomised(network: torch.nn.Module) -> dict[str, Tensor]:
    """Random weights that keep activations finite: matrices by their fan-in, norms 1, biases 0."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in network.state_dict().items():
        if value.ndim > 1:
            state[name] = torch.randn(value.shape, generator=generator) * 0.5 / value[0].numel() ** 0.5
        else:
            scale = name.endswith("weight")
            state[name] = torch.full(value.shape, float(scale))
    return state


def distilled(depths: list[int]) -> dict[str, Tensor]:
    """A distilled SDXL's depths on three levels of the first width: two blocks in, three out, no attention between."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    outwards = [depth for depth in depths[::2] for _ in range(3)]
    return randomised(
        UNetModel(
            image_size=32,
            in_channels=4,
            out_channels=4,
            model_channels=320,
            channel_mult=[1, 1, 1],
            num_res_blocks=[2, 2, 2],
            transformer_depth=depths,
            transformer_depth_middle=-1,
            transformer_depth_output=outwards,
            context_dim=2048,
            num_head_channels=64,
            num_heads=-1,
            use_spatial_transformer=True,
            use_linear_in_transformer=True,
            legacy=False,
            num_classes="sequential",
            adm_in_channels=2816,
            dtype=torch.float32,
            operations=comfy.ops.disable_weight_init,
        )
    )


def sd3() -> dict[str, Tensor]:
    """SD3 with two joint blocks of width 128."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper

    embedder = {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}}
    return randomised(
        OpenAISignatureMMDITWrapper(
            input_size=None,
            patch_size=2,
            in_channels=16,
            depth=2,
            adm_in_channels=2048,
            qkv_bias=True,
            context_embedder_config=embedder,
            pos_embed_scaling_factor=None,
            pos_embed_max_size=192,
            num_patches=36864,
            dtype=torch.float32,
            device="cpu",
            operations=comfy.ops.disable_weight_init,
        )
    )


def pair(kind: str) -> Callable[[], dict[str, Tensor]]:
    """A reference network's weights under the host's names."""
    return lambda: {k.removeprefix(models.PREFIX): v for k, v in models.small_pair(kind).state.items()}


@dataclass(frozen=True)
class Row:
    """One family: its weights, its text, what identify calls it, and how many tensors the methods train."""

    state: Callable[[], dict[str, Tensor]]
    text: RandomText
    family: str
    model_class: str
    counts: dict[str, int]


ROWS = {
    "sd1": Row(pair("sd1"), RandomText(768), "SD1.x", "SD15", {"esd-x": 20, "esd-x-strict": 8}),
    "sd2": Row(pair("sd2"), RandomText(1024), "SD2.x", "SD20", {"esd-x": 20, "esd-x-strict": 8}),
    "koala": Row(pair("sdxl"), RandomText(2048, 1280), "SDXL", "KOALA_700M", {"esd-x-strict": 22}),
    "ssd1b": Row(lambda: distilled([0, 0, 2, 2, 4, 4]), RandomText(2048, 1280), "SDXL", "SSD1B", {"esd-x-strict": 60}),
    "vega": Row(
        lambda: distilled([0, 0, 1, 1, 2, 2]),
        RandomText(2048, 1280),
        "SDXL",
        "Segmind_Vega",
        {"esd-x": 75, "esd-x-strict": 30},
    ),
    "sd3": Row(sd3, RandomText(4096, 2048), "SD3", "SD3", {"esd-x": 6}),
}
