"""Pictures of a student in the middle of its training."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import comfy.model_management
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from ....esd.concepts import NULL_PROMPT, Concept, Keep
from ....esd.denoiser import Condition, Denoiser
from ....esd.trajectory import cfg_trajectory
from ..model.loaded import end_streaming, unload
from ..parts import is_missing

STEPS, GUIDANCE, SEED = 12, 3.0, 0
SMALLEST, LARGEST = 128, 256
"""Sides of a preview in pixels."""


def preview_prompts(concepts: Sequence[Concept], keeps: Sequence[Keep]) -> dict[str, str]:
    """Return what is drawn, by label: the first concept, and the first keep prompt where there is one."""
    kept = [prompt for keep in keeps for prompt in keep.prompts]
    return {"erase": concepts[0].student_prompt, **({"keep": kept[0]} if kept else {})}


def draw_previews(
    denoiser: Denoiser, conditions: Mapping[str, Condition], prompts: Mapping[str, str], latent_format: Any, vae: Any
) -> list[dict[str, str]]:
    """One picture a prompt by the student, from the same noise each time; neither weights nor random state move."""
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn((1, *denoiser.latent_shape), generator=generator)
    noise = noise.expand(len(prompts), *denoiser.latent_shape)
    sigmas = denoiser.sigmas(STEPS)[:-1, None].to(denoiser.device).expand(-1, len(prompts))
    shown = [conditions[prompt] for prompt in prompts.values()]
    with torch.no_grad(), denoiser.student():
        *_, last = cfg_trajectory(denoiser, noise.to(denoiser.device), conditions[NULL_PROMPT], shown, sigmas, GUIDANCE)
        latents = denoiser.denoised(last.guided, last.x, last.sigma)
    pictures = (
        decoded(vae, latent_format.process_out(latents)) if not is_missing(vae) else rough(latents, latent_format)
    )
    return [
        {"label": label, "prompt": prompt, "jpeg": _jpeg(picture)}
        for (label, prompt), picture in zip(prompts.items(), pictures, strict=True)
    ]


def preview_bytes(vae: Any, latent_shape: tuple[int, ...], device: torch.device) -> int:
    """Return what the VAE takes on the device for a preview: its weights, and decoding as the host counts it."""
    if is_missing(vae) or getattr(vae, "device", None) != device:
        return 0
    return int(vae.patcher.model_size() + vae.memory_used_decode((2, *latent_shape), vae.vae_dtype))


def decoded(vae: Any, latents: Tensor) -> Tensor:
    """By the VAE, in the mode that its weights live in, and off the GPU again: "b h w c" in 0 ... 1."""
    try:
        with torch.inference_mode():
            pictures: Tensor = vae.decode(latents)
        return pictures[:, 0] if pictures.ndim == 5 else pictures
    finally:
        patcher = getattr(vae, "patcher", None)
        if patcher is not None and not comfy.model_management.is_device_cpu(patcher.load_device):
            unload(patcher)
            end_streaming()


def rough(latents: Tensor, latent_format: Any) -> Tensor:
    """By the latent's own colours, one pixel a latent: "b h w c" in 0 ... 1."""
    latents = latents[:, :, 0] if latents.ndim == 5 else latents
    if latent_format.latent_rgb_factors is None:
        return rearrange(latents[:, :1].sigmoid().expand(-1, 3, -1, -1), "b c h w -> b h w c").float().cpu()
    factors = torch.tensor(latent_format.latent_rgb_factors)
    colours = torch.einsum("bchw,cr->bhwr", latents.float().cpu(), factors)
    if latent_format.latent_rgb_factors_bias is not None:
        colours = colours + torch.tensor(latent_format.latent_rgb_factors_bias)
    return (colours + 1) / 2


def _jpeg(picture: Tensor) -> str:
    values = (picture.detach().cpu().float().nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8)
    image = Image.fromarray(values.numpy())
    scale = max(1, SMALLEST // max(image.size))
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    image.thumbnail((LARGEST, LARGEST))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    return base64.b64encode(file.getvalue()).decode("ascii")
