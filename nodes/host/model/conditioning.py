"""Prompts to conditions, the way the host's sampler makes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import torch

from ....esd.denoiser import Condition
from ....esd.errors import EsdError
from ..families.family import EMBEDDED
from .host_model import HostModel


@dataclass(frozen=True)
class Guidance:
    """What networks with guidance as an input are told, on trajectories and in training; 0 means the family's own."""

    trajectory: float = 0.0
    training: float = 0.0


@torch.no_grad()
def encode(
    host: HostModel,
    clip: Any,
    prompts: Iterable[str],
    latent_shape: tuple[int, ...],
    device: torch.device,
    guidance: Guidance = Guidance(),
) -> dict[str, Condition]:
    """Every prompt as a condition for latents of that shape ("c h w"), encoded once, as ordinary tensors."""
    require_clip(clip)
    noise = torch.zeros((1, *latent_shape))
    return {prompt: _encode(host, clip, prompt, noise, device, guidance) for prompt in prompts}


def _encode(
    host: HostModel, clip: Any, prompt: str, noise: torch.Tensor, device: torch.device, guidance: Guidance
) -> Condition:
    model, family = host.patcher, host.family
    encoded = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    converted = comfy.sampler_helpers.convert_cond(encoded)[:1]
    with torch.inference_mode(torch.is_inference_mode_enabled() and not family.adapter_in_network):
        (made,) = comfy.samplers.encode_model_conds(
            model.model.extra_conds, converted, noise, comfy.model_management.intermediate_device(), "positive"
        )
    with torch.inference_mode(False):
        told = {name: c.cond for name, c in made["model_conds"].items() if c.cond is not None}
        tensors = {name: c.clone().to(device) for name, c in told.items() if isinstance(c, torch.Tensor)}
        sampling = {}
        if family.guidance == EMBEDDED:
            tensors["guidance"] = torch.tensor([guidance.training or family.training_guidance], device=device)
            sampling["guidance"] = torch.tensor([guidance.trajectory or family.guidance_scale], device=device)
    require_finite(prompt, tensors.values())
    constants = {name: c for name, c in told.items() if name not in tensors}
    return Condition(tensors, constants, sampling, repeatable=not family.joint_attention)


def require_finite(prompt: str, told: Iterable[torch.Tensor]) -> None:
    """Raise EsdError where the text encoder does not give numbers for a prompt."""
    if not all(bool(torch.isfinite(t).all()) for t in told):
        raise EsdError(
            f'The text encoder makes NaN or infinity of the prompt "{prompt:.100}": take weights such as (cat:nan) '
            "out of it, or load another text encoder."
        )


def require_clip(clip: Any) -> None:
    """Raise EsdError where a checkpoint had no text encoder."""
    if clip is None:
        raise EsdError("No CLIP arrived: this checkpoint has no text encoder, so connect one with Load CLIP.")
