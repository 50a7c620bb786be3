"""Models for the benches: the playground, or random weights of a real shape, with something to prompt them with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from _playground_run import Playground
from torch import Tensor

LATENTS = {"playground": 8, "sd15": 64, "sdxl": 128}
CONTEXT = {"sd15": 768, "sdxl": 2048}


@dataclass
class Subject:
    """A model to train on, in the host's form, and the side of its latents; `world` judges where it can be judged."""

    model: Any
    clip: Any
    world: Playground | None
    latent: int
    dtype: torch.dtype


def subject(name: str, latent: int) -> Subject:
    """The playground, or random weights of the real shape: SD1.5 in float32, SDXL in bfloat16."""
    world = Playground()
    latent = latent or LATENTS[name]
    if name == "playground":
        return Subject(world.loaded.model, world.loaded.clip, world, latent, torch.float32)
    dtype = torch.bfloat16 if name == "sdxl" else torch.float32
    import comfy.sd

    with torch.inference_mode():
        model = comfy.sd.load_diffusion_model_state_dict(random_state(name, dtype), model_options={"dtype": dtype})
    return Subject(model, RandomText(CONTEXT[name]), None, latent, dtype)


class RandomText:
    """Text embeddings of the right width, in the place of a text encoder."""

    def __init__(self, width: int) -> None:
        self.width = width

    def tokenize(self, text: str) -> str:
        """The text itself."""
        return text

    def encode_from_tokens_scheduled(self, text: str) -> list[Any]:
        """A conditioning that depends on the text's length alone."""
        generator = torch.Generator().manual_seed(len(text))
        pooled = {"pooled_output": torch.randn((1, 1280), generator=generator)} if self.width == 2048 else {}
        return [[torch.randn((1, 77, self.width), generator=generator), pooled]]


def diffusers_unet(name: str, device: str) -> Any:
    """The published shape as diffusers builds it."""
    from diffusers import UNet2DConditionModel

    shapes: dict[str, dict[str, Any]] = {
        "sd15": {"cross_attention_dim": 768, "attention_head_dim": 8},
        "sdxl": {
            "block_out_channels": (320, 640, 1280),
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
    }
    with torch.device(device):
        return UNet2DConditionModel(**shapes[name])


def random_state(name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random weights of the real shape under the host's names."""
    from _published import reference  # noqa: F401  puts the tests' folder on the path

    from lab.reference.models import key_map

    generator = torch.Generator().manual_seed(0)
    unet = diffusers_unet(name, "meta")
    return {
        host: torch.randn(unet.get_parameter(ours).shape, generator=generator).mul_(0.02).to(dtype)
        for ours, host in key_map(unet).items()
    }
