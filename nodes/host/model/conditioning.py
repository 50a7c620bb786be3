"""Prompts to conditions, the way the host's sampler makes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import torch

from ....esd.denoiser import Condition
from ....esd.errors import EsdError
from .host_model import HostModel


@torch.no_grad()
def encode(
    host: HostModel, clip: Any, prompts: Iterable[str], latent_shape: tuple[int, ...], device: torch.device
) -> dict[str, Condition]:
    """Every prompt as a condition for latents of that shape ("c h w"), encoded once, as ordinary tensors."""
    if clip is None:
        raise EsdError("No CLIP arrived: this checkpoint has no text encoder, so connect one with Load CLIP.")
    noise = torch.zeros((1, *latent_shape))
    conditions = {prompt: _encode(host.patcher, clip, prompt, noise, device) for prompt in prompts}
    if host.family.joint_attention:
        _require_one_length(conditions)
    return conditions


def _require_one_length(conditions: Mapping[str, Condition]) -> None:
    """Raise EsdError where prompts differ in length: SD3's joint attention would see repeated tokens more often."""
    lengths = {prompt: condition.tensors["c_crossattn"].shape[1] for prompt, condition in conditions.items()}
    if len(set(lengths.values())) > 1:
        longest = max(lengths, key=lambda prompt: lengths[prompt])
        raise EsdError(
            f'The prompt "{longest:.100}" has more tokens than others ({lengths[longest]}), and in SD3 all must have '
            "equally many: shorten it."
        )


def _encode(model: Any, clip: Any, prompt: str, noise: torch.Tensor, device: torch.device) -> Condition:
    encoded = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    converted = comfy.sampler_helpers.convert_cond(encoded)[:1]
    (made,) = comfy.samplers.encode_model_conds(
        model.model.extra_conds, converted, noise, comfy.model_management.intermediate_device(), "positive"
    )
    with torch.inference_mode(False):
        tensors = {name: c.cond.clone().to(device) for name, c in made["model_conds"].items()}
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
        raise EsdError(
            f'The text encoder makes NaN or infinity of the prompt "{prompt:.100}": take weights such as (cat:nan) '
            "out of it, or load another text encoder."
        )
    return Condition(tensors)
