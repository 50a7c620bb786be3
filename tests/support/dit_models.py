"""Tiny diffusion transformers of the host's own classes, and the same networks as diffusers has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor

from commands.shapes import SHAPES
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
    **SHAPES["FLUX.2 klein 4B"].config,
    "num_heads": 1,
    "hidden_size": 128,
    "context_in_dim": 96,
    "depth": 2,
    "depth_single_blocks": 2,
}


CHROMA = {
    **{key: value for key, value in FLUX1.items() if key != "vec_in_dim"},
    "image_model": "chroma",
    "vec_in_dim": None,
    "in_channels": 64,
    "out_channels": 64,
    "in_dim": 64,
    "out_dim": 128,
    "hidden_dim": 96,
    "n_layers": 2,
}
SD35 = {
    "in_channels": 16,
    "patch_size": 2,
    "out_channels": 16,
    "depth": 2,
    "input_size": None,
    "adm_in_channels": 2048,
    "num_patches": 256,
    "pos_embed_max_size": 16,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 4096, "out_features": 128},
    },
    "qk_norm": "rms",
    "pos_embed_scaling_factor": None,
    "x_block_self_attn_layers": [0],
}
QWEN = {
    "image_model": "qwen_image",
    "in_channels": 64,
    "num_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "joint_attention_dim": 48,
    "axes_dims_rope": (8, 12, 12),
}
Z_IMAGE = {
    **SHAPES["Z-Image"].config,
    "dim": 384,
    "cap_feat_dim": 48,
    "n_layers": 2,
    "n_heads": 6,
    "n_kv_heads": 6,
    "axes_dims": [16, 24, 24],
}
LUMINA = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 16,
    "dim": 192,
    "cap_feat_dim": 48,
    "n_layers": 2,
    "qk_norm": True,
    "n_heads": 4,
    "n_kv_heads": 2,
    "axes_dims": [16, 16, 16],
    "axes_lens": [300, 512, 512],
    "rope_theta": 10000.0,
    "ffn_dim_multiplier": 4.0,
}
WAN = {
    "image_model": "wan2.1",
    "dim": 128,
    "out_dim": 16,
    "num_heads": 1,
    "ffn_dim": 256,
    "num_layers": 2,
    "patch_size": (1, 2, 2),
    "freq_dim": 256,
    "window_size": (-1, -1),
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
    "in_dim": 16,
    "model_type": "t2v",
}


KREA = {
    "image_model": "krea2",
    "features": 256,
    "channels": 16,
    "patch": 2,
    "layers": 2,
    "heads": 2,
    "kvheads": 1,
    "txtlayers": 3,
    "txtdim": 80,
    "txtheads": 20,
    "txtkvheads": 20,
}
ANIMA = {
    "image_model": "anima",
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 128,
    "concat_padding_mask": True,
    "crossattn_emb_channels": 1024,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop",
    "min_fps": 1,
    "max_fps": 30,
    "use_adaln_lora": True,
    "adaln_lora_dim": 256,
    "num_blocks": 2,
    "num_heads": 2,
    "extra_per_block_abs_pos_emb": False,
    "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0,
    "rope_t_extrapolation_ratio": 1.0,
    "extra_h_extrapolation_ratio": 1.0,
    "extra_w_extrapolation_ratio": 1.0,
    "extra_t_extrapolation_ratio": 1.0,
    "rope_enable_fps_modulation": False,
}


def is_new_host() -> bool:
    """Whether the host is one after 0.8, whose networks take more keys."""
    import comfy.model_management

    return hasattr(comfy.model_management, "in_training")


def build(kind: str, config: Mapping[str, Any], device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """Return the host's model of a configuration, without files or detection."""
    import comfy.supported_models

    if not hasattr(comfy.supported_models, kind):
        pytest.skip("this host does not know the family")
    newer = ("txt_ids_dims", *(("vec_in_dim",) if config.get("image_model") == "chroma" else ()))
    known = {k: v for k, v in config.items() if k not in newer or is_new_host()}
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
        for name, value in network.named_buffers():
            if name == "pos_embed":  # SD3 keeps it as a buffer
                value.copy_(torch.randn(value.shape, generator=generator) * 0.02)


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


class ShortText(RandomText):
    """A text encoder whose prompts have 32 tokens, or as many more as they have words."""

    def encode_from_tokens_scheduled(self, text: str) -> list[Any]:
        """Return the first tokens."""
        ((tokens, extra),) = super().encode_from_tokens_scheduled(text)
        return [[tokens[:, : 32 + 32 * text.count(" ")], extra]]


class UnpooledText(RandomText):
    """A text encoder without a pooled vector, which it says."""

    def encode_from_tokens_scheduled(self, text: str) -> list[Any]:
        """Return tokens alone."""
        ((tokens, extra),) = super().encode_from_tokens_scheduled(text)
        return [[tokens, {**extra, "pooled_output": None}]]


class TwoTexts(ShortText):
    """A text encoder that tells the tokens of a second one too, with their weights."""

    def encode_from_tokens_scheduled(self, text: str) -> list[Any]:
        """Return states of 32 tokens or more, and the numbers of half as many others."""
        ((tokens, extra),) = super().encode_from_tokens_scheduled(text)
        count = tokens.shape[1] // 2
        numbers = (torch.arange(count) * 7 + len(text)) % 1000
        return [[tokens, {**extra, "t5xxl_ids": numbers, "t5xxl_weights": torch.linspace(0.5, 1.5, count)}]]


BLOCKS = ("DoubleStreamBlock", "SingleStreamBlock")
DITS = {
    "dev": Dit("Flux", {**FLUX1, "guidance_embed": True}, RandomText(64, 32), 64, "FLUX.1 dev", BLOCKS),
    "schnell": Dit("FluxSchnell", {**FLUX1, "guidance_embed": False}, RandomText(64, 32), 64, "FLUX.1 schnell", BLOCKS),
    "klein": Dit("Flux2", KLEIN, UnpooledText(96), 64, "FLUX.2 klein", BLOCKS),
}
OTHERS = {
    "chroma": Dit("Chroma", CHROMA, UnpooledText(64), 64, "Chroma", BLOCKS),
    "sd35": Dit("SD3", SD35, RandomText(4096, 2048), 64, "SD3", ("JointBlock",)),
    "qwen": Dit("QwenImage", QWEN, ShortText(48), 64, "Qwen-Image", ("QwenImageTransformerBlock",)),
    "zimage": Dit("ZImage", Z_IMAGE, ShortText(48), 128, "Z-Image", ("JointTransformerBlock",)),
    "lumina": Dit("Lumina2", LUMINA, ShortText(48), 64, "Lumina 2", ("JointTransformerBlock",)),
    "wan": Dit("WAN21_T2V", WAN, RandomText(4096), 64, "Wan t2v", ("WanAttentionBlock",)),
    "krea": Dit("Krea2", KREA, ShortText(240), 64, "Krea 2", ("SingleStreamBlock",)),
    "anima": Dit("Anima", ANIMA, TwoTexts(1024), 64, "Anima", ("Block",)),
}
"""Families without an official procedure."""


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
    """The same network in diffusers, how it is called on the host's latents, and its names of the host's tensors.

    `convert` is linear, so that it turns gradients by the host's names into gradients by theirs too.
    """

    network: Any
    call: Call
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict


def twin(name: str, model: Any) -> Twin:
    """Return the diffusers network with the weights of a tiny MODEL."""
    state = {key: t.detach().clone() for key, t in model.model.diffusion_model.state_dict().items()}
    made = TWINS[name](state, {**DITS, **OTHERS}[name].config)
    for module in made.network.modules():  # newer hosts leave it to PyTorch, which matters where q and k are small
        if name in DITS and isinstance(module, torch.nn.RMSNorm) and is_new_host():
            module.eps = None
    return made


def gradients_apart(denoiser: Any, rows: Mapping[str, tuple[int, int]], other: Twin) -> float:
    """Return how far the gradients are from those of diffusers, of all trained weights together."""
    whole = {}
    for name, parameter in denoiser.network.named_parameters():
        trained = denoiser.trainable.get(name)
        whole[name] = torch.zeros(parameter.shape)
        if trained is not None and trained.grad is not None:
            first, last = rows.get(name, (0, parameter.shape[0]))
            whole[name][first:last] = trained.grad
    ours, theirs = other.convert(whole), dict(other.network.named_parameters())
    trained = [name for name, t in ours.items() if t.any()]
    mine, wanted = (torch.cat([each[name].flatten() for name in trained]) for each in (ours, _gradients(theirs)))
    assert len(mine) > 1000
    return float((mine - wanted).norm() / wanted.norm())


def _gradients(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: p.grad for name, p in parameters.items() if p.grad is not None}


def by_map(state: Mapping[str, Tensor], names: Mapping[str, Any], network: Any) -> dict[str, Tensor]:
    """Return a host's state by the names of a diffusers network, through one of the host's own maps."""
    wanted, found = set(network.state_dict()), {}
    for theirs, to in names.items():
        host, rows, change = ((to, None, None) if isinstance(to, str) else (*to, None))[:3]
        own = state.get(host, state.get(host.replace("_norm.weight", "_norm.scale")))
        if theirs in wanted and own is not None:
            part = own if rows is None else own.narrow(*rows)
            found[theirs] = change(part) if change else part
    return found


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
    network.load_state_dict(by_map(state, comfy.utils.flux_to_diffusers(config), network))

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


def _klein(state: dict[str, Tensor], config: Mapping[str, Any]) -> Twin:
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


def packed(x: Tensor) -> Tensor:
    """Return latents as tokens of two by two cells."""
    return rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)


def unpacked(tokens: Tensor, rows: int) -> Tensor:
    """Return tokens of two by two cells as latents."""
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", p=2, q=2, h=rows)


def _chroma(state: dict[str, Tensor], config: Mapping[str, Any]) -> Twin:
    import comfy.utils
    from diffusers import ChromaTransformer2DModel
    from diffusers.models.transformers import transformer_chroma

    network = ChromaTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=128,
        num_attention_heads=1,
        joint_attention_dim=64,
        approximator_num_channels=64,
        approximator_hidden_dim=96,
        approximator_layers=2,
    )
    # the host's table always has the 344 rows of the real network
    network.time_text_embed = transformer_chroma.ChromaCombinedTimestepTextProjEmbeddings(16, 344)

    def convert(found: dict[str, Tensor]) -> dict[str, Tensor]:
        made = by_map(found, comfy.utils.flux_to_diffusers(config), network)
        for name, value in found.items():
            if name.startswith("distilled"):
                name = (
                    name.replace(".scale", ".weight").replace("in_layer", "linear_1").replace("out_layer", "linear_2")
                )
                made[name] = value
        return {name: t for name, t in made.items() if "norm_out" not in name and "time_text" not in name}

    missing = network.load_state_dict(convert(state), strict=False)
    assert not missing.unexpected_keys

    def call(x: Tensor, sigma: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        rows, columns = x.shape[-2] // 2, x.shape[-1] // 2
        raw = network(
            hidden_states=packed(x),
            timestep=sigma,
            encoder_hidden_states=told["context"],
            img_ids=ids(rows, columns, 3),
            txt_ids=torch.zeros(told["context"].shape[1], 3),
        )[0]
        return unpacked(raw, rows)

    return Twin(network.eval(), call, convert)


def _sd35(state: dict[str, Tensor], config: Mapping[str, Any]) -> Twin:
    import comfy.utils
    from diffusers import SD3Transformer2DModel

    depth = config["depth"]
    network = SD3Transformer2DModel(
        sample_size=16,
        in_channels=16,
        num_layers=depth,
        attention_head_dim=64,
        num_attention_heads=depth,
        joint_attention_dim=4096,
        caption_projection_dim=64 * depth,
        pooled_projection_dim=2048,
        out_channels=16,
        pos_embed_max_size=config["pos_embed_max_size"],
        dual_attention_layers=tuple(config["x_block_self_attn_layers"]),
        qk_norm="rms_norm",
    )
    names = comfy.utils.mmdit_to_diffusers({**config, "num_blocks": depth})
    network.load_state_dict(by_map(state, names, network))

    def call(x: Tensor, sigma: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        text = {"encoder_hidden_states": told["context"], "pooled_projections": told["y"]}
        return network(hidden_states=x, timestep=sigma * 1000, **text)[0]

    return Twin(network.eval(), call, lambda found: by_map(found, names, network))


def _qwen(state: dict[str, Tensor], config: Mapping[str, Any]) -> Twin:
    from diffusers import QwenImageTransformer2DModel

    network = QwenImageTransformer2DModel(
        num_layers=2, attention_head_dim=32, num_attention_heads=2, joint_attention_dim=48, axes_dims_rope=(8, 12, 12)
    )
    network.load_state_dict(state)

    def call(x: Tensor, sigma: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        rows, columns = x.shape[-2] // 2, x.shape[-1] // 2
        raw = network(
            hidden_states=packed(x[:, :, 0]),
            timestep=sigma,
            encoder_hidden_states=told["context"],
            img_shapes=[[(1, rows, columns)]] * len(x),
            encoder_hidden_states_mask=None,
        )[0]
        return unpacked(raw, rows)[:, :, None]

    return Twin(network.eval(), call)


def _zimage(state: dict[str, Tensor], config: Mapping[str, Any]) -> Twin:
    import comfy.utils
    from diffusers import ZImageTransformer2DModel

    network = ZImageTransformer2DModel(
        dim=384,
        n_layers=2,
        n_heads=6,
        n_kv_heads=6,
        cap_feat_dim=48,
        axes_dims=[16, 24, 24],
        axes_lens=[1536, 512, 512],
    )
    network.t_embedder = type(network.t_embedder)(256, mid_size=384)  # the host: at most the width
    names = comfy.utils.z_image_to_diffusers({**config, "n_refiner_layers": 2})
    missing = network.load_state_dict(by_map(state, names, network), strict=False)
    assert not missing.unexpected_keys

    def call(x: Tensor, sigma: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        raw = network([each[:, None] for each in x], 1 - sigma, list(told["context"]))[0]
        return -torch.stack(raw)[:, :, 0]

    return Twin(network.eval(), call, lambda found: by_map(found, names, network))


def _lumina(state: dict[str, Tensor], config: Mapping[str, Any]) -> Twin:
    from diffusers import Lumina2Transformer2DModel
    from diffusers.loaders import single_file_utils

    network = Lumina2Transformer2DModel(
        sample_size=16,
        hidden_size=192,
        num_layers=2,
        num_refiner_layers=2,
        num_attention_heads=4,
        num_kv_heads=2,
        axes_dim_rope=(16, 16, 16),
        axes_lens=(300, 512, 512),
        cap_feat_dim=48,
        multiple_of=256,
        ffn_dim_multiplier=None,
    )

    def convert(found: dict[str, Tensor]) -> dict[str, Tensor]:
        fused = {name: t for name, t in found.items() if "qkv" in name}
        made = single_file_utils.convert_lumina2_to_diffusers({n: t for n, t in found.items() if n not in fused})
        for name, value in fused.items():
            for part, rows in zip(("to_q", "to_k", "to_v"), value.split([192, 96, 96]), strict=True):
                made[name.replace("attention.qkv", f"attn.{part}")] = rows
        return made

    missing = network.load_state_dict(convert(state), strict=False)
    assert not missing.unexpected_keys

    def call(x: Tensor, sigma: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        mask = torch.ones(told["context"].shape[:2], dtype=torch.bool)
        text = {"encoder_hidden_states": told["context"], "encoder_attention_mask": mask}
        return -network(hidden_states=x, timestep=1 - sigma, **text)[0]

    return Twin(network.eval(), call, convert)


def _wan(state: dict[str, Tensor], config: Mapping[str, Any]) -> Twin:
    from diffusers import WanTransformer3DModel
    from diffusers.loaders import single_file_utils

    network = WanTransformer3DModel(
        num_attention_heads=1,
        attention_head_dim=128,
        in_channels=16,
        out_channels=16,
        text_dim=4096,
        ffn_dim=256,
        num_layers=2,
    )
    network.load_state_dict(single_file_utils.convert_wan_transformer_to_diffusers(dict(state)))

    def call(x: Tensor, sigma: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        return network(hidden_states=x, timestep=sigma * 1000, encoder_hidden_states=told["context"])[0]

    return Twin(network.eval(), call, lambda found: single_file_utils.convert_wan_transformer_to_diffusers(dict(found)))


def _krea(state: dict[str, Tensor], config: Mapping[str, Any]) -> Twin:
    from diffusers import Krea2Transformer2DModel
    from diffusers.loaders import single_file_utils

    inner, text_inner = (
        state[f"{path}.mlp.gate.weight"].shape[0] for path in ("blocks.0", "txtfusion.refiner_blocks.0")
    )
    network = Krea2Transformer2DModel(
        num_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=inner,
        text_hidden_dim=80,
        num_text_layers=3,
        text_intermediate_size=text_inner,
        text_num_attention_heads=20,
        text_num_key_value_heads=20,
    )

    def convert(found: dict[str, Tensor]) -> dict[str, Tensor]:
        return single_file_utils.convert_krea2_transformer_checkpoint_to_diffusers(dict(found))

    network.load_state_dict(convert(state))

    def call(x: Tensor, sigma: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        rows, columns, text = x.shape[-2] // 2, x.shape[-1] // 2, told["context"]
        raw = network(
            hidden_states=packed(x[:, :, 0]),
            timestep=sigma,
            encoder_hidden_states=text.reshape(*text.shape[:2], 3, 80),
            position_ids=torch.cat([torch.zeros(text.shape[1], 3), ids(rows, columns, 3)]),
        )[0]
        return unpacked(raw, rows)[:, :, None]

    return Twin(network.eval(), call, convert)


def _anima(state: dict[str, Tensor], config: Mapping[str, Any]) -> Twin:
    """Return the network of Cosmos-Predict2, whose layout is the same, behind the host's own adapter."""
    import comfy.ops
    from comfy.ldm.anima.model import LLMAdapter
    from diffusers import CosmosTransformer3DModel
    from diffusers.loaders import single_file_utils

    network = CosmosTransformer3DModel(
        in_channels=16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=64,
        num_layers=2,
        mlp_ratio=4.0,
        text_embed_dim=1024,
        adaln_lora_dim=256,
        max_size=(128, 240, 240),
        patch_size=(1, 2, 2),
        rope_scale=(1.0, 4.0, 4.0),
        concat_padding_mask=True,
        extra_pos_embed_type=None,
    )
    adapter = LLMAdapter(operations=comfy.ops.disable_weight_init)
    prefix = "llm_adapter."
    adapter.load_state_dict({n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)})

    def convert(found: dict[str, Tensor]) -> dict[str, Tensor]:
        own = {f"net.{n}": t for n, t in found.items() if not n.startswith(("pos_embedder", prefix))}
        return single_file_utils.convert_cosmos_transformer_checkpoint_to_diffusers(own)

    missing = network.load_state_dict(convert(state), strict=False)
    assert not missing.unexpected_keys

    def call(x: Tensor, sigma: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        text = adapter(told["context"], told["t5xxl_ids"]) * told["t5xxl_weights"]
        text = torch.nn.functional.pad(text, (0, 0, 0, 512 - text.shape[1]))
        mask = torch.zeros(1, 1, *x.shape[-2:])
        return network(hidden_states=x, timestep=sigma, encoder_hidden_states=text, padding_mask=mask)[0]

    return Twin(network.eval(), call, convert)


TWINS: dict[str, Callable[[dict[str, Tensor], Mapping[str, Any]], Twin]] = {
    "dev": _flux1,
    "schnell": _flux1,
    "klein": _klein,
    "chroma": _chroma,
    "sd35": _sd35,
    "qwen": _qwen,
    "zimage": _zimage,
    "lumina": _lumina,
    "wan": _wan,
    "krea": _krea,
    "anima": _anima,
}


def selected(kind: str, config: Mapping[str, Any], method: str) -> tuple[int, int]:
    """How many tensors of a network a method trains, and how many values in them; built without values."""
    from esd_pack.esd.selection import row_slices, select
    from esd_pack.esd.students import StudentPlan, parameter_shapes
    from esd_pack.nodes.host.families import identify
    from esd_pack.nodes.host.model.network import weights_of

    base = build(kind, config, device="meta", dtype=torch.bfloat16)
    names = identify(SimpleNamespace(model=base)).layer_names
    infos = weights_of(base.diffusion_model)
    chosen, rows = select(method, infos, names), row_slices(method, infos, names)
    shapes = {n: tuple(p.shape) for n, p in base.diffusion_model.named_parameters()}
    trained = parameter_shapes(StudentPlan(tuple(chosen), tuple(rows.items())), shapes)
    return len(chosen), sum(map(math.prod, trained))
