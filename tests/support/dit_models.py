"""Tiny diffusion transformers of the host's own classes, and the same networks as diffusers has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from support.family_models import RandomText

FLUX1 = {
    "image_model": "flux",
    "axes_dim": [16, 56, 56],
    "num_heads": 1,
    "mlp_ratio": 4.0,
    "theta": 10000,
    "out_channels": 16,
    "in_channels": 16,
    "qkv_bias": True,
    "hidden_size": 128,
    "context_in_dim": 64,
    "patch_size": 2,
    "vec_in_dim": 32,
    "depth": 2,
    "depth_single_blocks": 2,
    "txt_ids_dims": [],
}
KLEIN = {
    "image_model": "flux2",
    "axes_dim": [32] * 4,
    "num_heads": 1,
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
    "hidden_size": 128,
    "context_in_dim": 96,
    "depth": 2,
    "depth_single_blocks": 2,
    "guidance_embed": False,
    "txt_ids_dims": [3],
}


def is_new_host() -> bool:
    """Whether the host is one after 0.8, whose networks take more keys."""
    import comfy.model_management

    return hasattr(comfy.model_management, "in_training")


def build(kind: str, config: Mapping[str, Any], device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """Return the host's model of a configuration, without files or detection."""
    import comfy.supported_models

    known = {k: v for k, v in config.items() if k != "txt_ids_dims" or is_new_host()}
    made = getattr(comfy.supported_models, kind)(known)
    made.set_inference_dtype(dtype, None)
    with torch.device(device):
        return made.get_model({}, "", device=torch.device(device))


def randomise(network: torch.nn.Module) -> None:
    """Fill in weights under which text and picture matter: matrices by their fan-in, norms near 1."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, value in network.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            scale = 0.6 / value[0].numel() ** 0.5 if value.ndim > 1 else 0.05
            is_norm = value.ndim == 1 and "norm" in name and not name.endswith("bias")
            value.copy_(noise * scale + (1.0 if is_norm else 0.0))


def patcher(base: Any) -> Any:
    """Return a MODEL of the host on the CPU."""
    import comfy.model_patcher

    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(base.eval(), load_device=cpu, offload_device=cpu)


@dataclass(frozen=True)
class Dit:
    """A family: the host's class and tiny configuration, its text, picture size, and what we call it."""

    kind: str
    config: Mapping[str, Any]
    text: RandomText
    side: int
    family: str
    classes: tuple[str, ...]

    def model(self) -> Any:
        """Make the MODEL; equal weights every time."""
        base = build(self.kind, self.config)
        randomise(base.diffusion_model)
        return patcher(base)


class UnpooledText(RandomText):
    """A text encoder without a pooled vector, which it says."""

    def encode_from_tokens_scheduled(self, text: str) -> list[Any]:
        """Return tokens alone."""
        ((tokens, extra),) = super().encode_from_tokens_scheduled(text)
        return [[tokens, {**extra, "pooled_output": None}]]


BLOCKS = ("DoubleStreamBlock", "SingleStreamBlock")
DITS = {
    "dev": Dit("Flux", {**FLUX1, "guidance_embed": True}, RandomText(64, 32), 64, "FLUX.1 dev", BLOCKS),
    "schnell": Dit("FluxSchnell", {**FLUX1, "guidance_embed": False}, RandomText(64, 32), 64, "FLUX.1 schnell", BLOCKS),
    "klein": Dit("Flux2", KLEIN, UnpooledText(96), 64, "FLUX.2 klein", BLOCKS),
}


def ids(rows: int, columns: int, axes: int) -> Tensor:
    """Return the positions of image tokens, "(h w) axes": time, row, column, and then 0."""
    made = torch.zeros(rows, columns, axes)
    made[..., 1] = torch.arange(rows)[:, None]
    made[..., 2] = torch.arange(columns)[None]
    return made.reshape(-1, axes)


Call = Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]
"""x, sigma and what the network is told, to its raw output."""


@dataclass(frozen=True)
class Twin:
    """The same network in diffusers, how it is called on the host's latents, and its names of the host's tensors."""

    network: Any
    call: Call


def twin(name: str, model: Any) -> Twin:
    """Return the diffusers network with the weights of a tiny MODEL."""
    state = {key: t.detach().clone() for key, t in model.model.diffusion_model.state_dict().items()}
    made = _klein(state) if name == "klein" else _flux1(state, DITS[name].config)
    for module in made.network.modules():  # newer hosts leave it to PyTorch, which matters where q and k are small
        if isinstance(module, torch.nn.RMSNorm) and is_new_host():
            module.eps = None
    return made


def _flux1(state: dict[str, Tensor], config: Mapping[str, Any]) -> Twin:
    import comfy.utils
    from diffusers import FluxTransformer2DModel

    network = FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=128,
        num_attention_heads=1,
        joint_attention_dim=64,
        pooled_projection_dim=32,
        guidance_embeds=config["guidance_embed"],
    )
    wanted, found = set(network.state_dict()), {}
    for theirs, to in comfy.utils.flux_to_diffusers(config).items():
        host, rows, change = ((to, None, None) if isinstance(to, str) else (*to, None))[:3]
        own = state.get(host, state.get(host.replace("_norm.weight", "_norm.scale")))
        if theirs in wanted and own is not None:
            part = own if rows is None else own.narrow(*rows)
            found[theirs] = change(part) if change else part
    network.load_state_dict(found)

    def call(x: Tensor, sigma: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        rows, columns = x.shape[-2] // 2, x.shape[-1] // 2
        raw = network(
            hidden_states=rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2),
            timestep=sigma,
            encoder_hidden_states=told["context"],
            pooled_projections=told["y"],
            guidance=told.get("guidance") if config["guidance_embed"] else None,
            img_ids=ids(rows, columns, 3),
            txt_ids=torch.zeros(told["context"].shape[1], 3),
        )[0]
        return rearrange(raw, "b (h w) (c p q) -> b c (h p) (w q)", p=2, q=2, h=rows)

    return Twin(network.eval(), call)


def _klein(state: dict[str, Tensor]) -> Twin:
    from diffusers import Flux2Transformer2DModel
    from diffusers.loaders import single_file_utils

    network = Flux2Transformer2DModel(
        in_channels=128,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=128,
        num_attention_heads=1,
        joint_attention_dim=96,
        guidance_embeds=False,
    )
    scales = {key.replace("_norm.weight", "_norm.scale"): t for key, t in state.items()}
    network.load_state_dict(single_file_utils.convert_flux2_transformer_checkpoint_to_diffusers(scales))

    def call(x: Tensor, sigma: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        text = torch.zeros(told["context"].shape[1], 4)
        text[:, 3] = torch.arange(len(text))
        raw = network(
            hidden_states=rearrange(x, "b c h w -> b (h w) c"),
            timestep=sigma,
            encoder_hidden_states=told["context"],
            img_ids=ids(x.shape[-2], x.shape[-1], 4),
            txt_ids=text,
        )[0]
        return rearrange(raw, "b (h w) c -> b c h w", h=x.shape[-2])

    return Twin(network.eval(), call)
