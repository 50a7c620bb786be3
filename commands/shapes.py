"""Networks of real shapes with random weights, and text of the right widths: what speed and memory are measured on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Config = Mapping[str, Any]

_FLUX1: Config = {
    "image_model": "flux",
    "axes_dim": [16, 56, 56],
    "num_heads": 24,
    "mlp_ratio": 4.0,
    "theta": 10000,
    "out_channels": 16,
    "in_channels": 16,
    "qkv_bias": True,
    "hidden_size": 3072,
    "context_in_dim": 4096,
    "patch_size": 2,
    "vec_in_dim": 768,
    "depth": 19,
    "depth_single_blocks": 38,
    "guidance_embed": True,
    "txt_ids_dims": [],
}
_KLEIN: Config = {
    "image_model": "flux2",
    "axes_dim": [32] * 4,
    "num_heads": 24,
    "mlp_ratio": 3.0,
    "theta": 2000,
    "out_channels": 128,
    "in_channels": 128,
    "global_modulation": True,
    "vec_in_dim": None,
    "mlp_silu_act": True,
    "qkv_bias": False,
    "ops_bias": False,
    "default_ref_method": "index",
    "ref_index_scale": 10.0,
    "patch_size": 1,
    "hidden_size": 3072,
    "context_in_dim": 7680,
    "depth": 5,
    "depth_single_blocks": 20,
    "guidance_embed": False,
    "txt_ids_dims": [3],
}
_Z_IMAGE: Config = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 16,
    "dim": 3840,
    "cap_feat_dim": 2560,
    "n_layers": 30,
    "qk_norm": True,
    "n_heads": 30,
    "n_kv_heads": 30,
    "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512],
    "rope_theta": 256.0,
    "ffn_dim_multiplier": 8 / 3,
    "z_image_modulation": True,
    "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}
_UNET: Config = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "use_temporal_attention": False,
    "legacy": False,
}
_SD15: Config = {
    **_UNET,
    "num_res_blocks": [2] * 4,
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1] * 6 + [0] * 2,
    "transformer_depth_output": [1] * 9 + [0] * 3,
    "transformer_depth_middle": 1,
    "num_heads": 8,
    "num_head_channels": -1,
    "context_dim": 768,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
}
_SDXL: Config = {
    **_UNET,
    "num_res_blocks": [2] * 3,
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0] * 3 + [2] * 3 + [10] * 3,
    "transformer_depth_middle": 10,
    "num_heads": -1,
    "num_head_channels": 64,
    "context_dim": 2048,
    "use_linear_in_transformer": True,
    "adm_in_channels": 2816,
    "num_classes": "sequential",
}


@dataclass(frozen=True)
class Shape:
    """A family's real network: the host's class for it, its configuration, its text, and the published preset.

    `depths` names the entries of the configuration that count its blocks; `tokens` is the length of a prompt.
    """

    kind: str
    config: Config
    tokens: int
    width: int
    pooled: int
    side: int
    preset: str
    depths: tuple[str, ...] = ()

    def shortened(self, blocks: tuple[int, ...]) -> Config:
        """Return the configuration with other numbers of blocks; those of the real one where there are none."""
        return {**self.config, **dict(zip(self.depths, blocks, strict=False))}


FLUX_BLOCKS = ("depth", "depth_single_blocks")
SHAPES = {
    "SD1.5": Shape("SD15", _SD15, 77, 768, 0, 512, "official-2026"),
    "SDXL": Shape("SDXL", _SDXL, 77, 2048, 1280, 1024, "official-2025-sdxl"),
    "FLUX.2 klein 4B": Shape("Flux2", _KLEIN, 512, 7680, 0, 1024, "official-2026-klein", FLUX_BLOCKS),
    "Z-Image": Shape("ZImage", _Z_IMAGE, 64, 2560, 0, 1024, "official-2026-klein", ("n_layers",)),
    "FLUX.1 dev": Shape("Flux", _FLUX1, 512, 4096, 768, 512, "official-2026-flux", FLUX_BLOCKS),
}
"""From the smallest to the largest; Z-Image, for which nothing is published, at klein's preset."""


class RandomText:
    """A text encoder's socket with embeddings made from the words."""

    def __init__(self, tokens: int, width: int, pooled: int = 0) -> None:
        """`pooled` is the width of the pooled vector, 0 for none."""
        self.tokens, self.width, self.pooled = tokens, width, pooled

    def tokenize(self, text: str) -> str:
        """Return the text itself."""
        return text

    def encode_from_tokens_scheduled(self, text: str) -> list[Any]:
        """Return a conditioning, "1 tokens width"."""
        generator = torch.Generator().manual_seed(sum(map(ord, text)) + 1)
        pooled = torch.randn((1, self.pooled), generator=generator) if self.pooled else None
        return [[torch.randn((1, self.tokens, self.width), generator=generator), {"pooled_output": pooled}]]


def random_model(shape: Shape, blocks: tuple[int, ...] = (), device: str = "cpu") -> Any:
    """Return a MODEL of the host in bfloat16; on the meta device it has no values.  Call it outside inference mode.

    Raises ValueError where the host does not know the family.
    """
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    kind = getattr(comfy.supported_models, shape.kind, None)
    if kind is None:
        raise ValueError(f"this ComfyUI does not know {shape.kind}")
    config, load_device = shape.shortened(blocks), comfy.model_management.get_torch_device()
    if not hasattr(comfy.model_management, "in_training"):  # hosts before 0.8 have no such entry
        config = {name: value for name, value in config.items() if name != "txt_ids_dims"}
    made = kind(dict(config))
    computing = comfy.model_management.unet_manual_cast(torch.bfloat16, load_device)
    made.set_inference_dtype(torch.bfloat16, computing)
    with _eager_layers(), torch.device(device):
        base = made.get_model({}, "", device=torch.device(device))
    if device != "meta":
        fill(base.diffusion_model)
    return comfy.model_patcher.ModelPatcher(base.eval(), load_device=load_device, offload_device=torch.device("cpu"))


@contextmanager
def _eager_layers() -> Iterator[None]:
    """Let layers have weights as soon as they are made, where DynamicVRAM leaves them out until a file is loaded."""
    import comfy

    management: Any = getattr(comfy, "memory_management", None)
    before = getattr(management, "aimdo_enabled", None)
    if before:
        management.aimdo_enabled = False
    try:
        yield
    finally:
        if before:
            management.aimdo_enabled = before


NOISE = 2**20
"""Values that are drawn; weights are made of them by turns, since drawing billions takes minutes."""


@torch.no_grad()
def fill(network: torch.nn.Module) -> None:
    """Give a network weights under which activations stay finite: small matrices, norms of 1, no biases."""
    noise = torch.randn(NOISE, generator=torch.Generator().manual_seed(0))
    for name, value in (*network.named_parameters(), *network.named_buffers()):
        if value.ndim > 1:
            _tiled(value, noise * (0.5 / value[0].numel() ** 0.5))
        else:
            value.fill_(0.0 if name.endswith("bias") else 1.0)


def _tiled(value: Tensor, noise: Tensor) -> None:
    flat, noise = value.view(-1), noise.to(value.dtype)
    for start in range(0, flat.numel(), NOISE):
        part = flat[start : start + NOISE]
        part.copy_(noise[: part.numel()])
