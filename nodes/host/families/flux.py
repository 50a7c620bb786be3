"""FLUX.1 dev and schnell, and FLUX.2 klein (base and distilled), by the rules of the official code of 2026."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import comfy.utils

from ....esd.errors import EsdError
from ....esd.selection import LayerNames, Rows
from .family import EMBEDDED, Backward, Family, Names

TEXT = ("txt_attn.qkv.", "txt_attn.proj.")
METHODS = ("esd-x", "esd-x-strict", "text-stream")

FLUX1 = LayerNames(
    text_attention=("img_attn.qkv.", "img_attn.proj.", *TEXT, Rows(".linear1.", 0, 3)),
    text_key_value=(Rows("img_attn.qkv.", 1, 3), Rows(".linear1.", 1, 3)),
    text_inputs=("txt_in.weight", "vector_in.in_layer.weight"),
    self_attention=(),
    text_stream=TEXT,
    methods=METHODS,
)
"""Officially esd-x is all joint attention; esd-x-strict, by the names there, leaves out the keys and values of text."""

KLEIN = LayerNames(
    text_attention=("img_attn.qkv.", "img_attn.proj.", *TEXT),
    text_key_value=(Rows("img_attn.qkv.", 1, 3), Rows("txt_attn.qkv.", 1, 3)),
    self_attention=(),
    text_stream=TEXT,
    methods=METHODS,
)
"""Officially without the single blocks, whose fused projections have other names there."""

BACKWARD = Backward(("DoubleStreamBlock", "SingleStreamBlock"), in_place=True)

TEXT_TO_IMAGE = {"Flux": 16, "Flux2": 128}
"""Channels of the latents that these networks take; editing variants take more."""


def flux1_mu(tokens: int, steps: int) -> float:
    """Return the published shift of FLUX.1: linear in the image's tokens, 0.5 at 256 and 1.15 at 4096."""
    return 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)


def flux2_mu(tokens: int, steps: int) -> float:
    """Return the published empirical shift of FLUX.2, by the image's tokens and the steps of the trajectory."""
    at_200 = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return at_200
    at_10 = 8.73809524e-05 * tokens + 1.89833333
    slope = (at_200 - at_10) / 190
    return slope * steps + at_200 - 200 * slope


def _is(kind: str, image_model: str, guided: bool) -> Callable[[str, dict[str, Any]], bool]:
    def matches(found: str, config: dict[str, Any]) -> bool:
        if found != kind or config.get("image_model") != image_model or config.get("txt_norm"):
            return False  # Ovis-Image has a normalisation where FLUX.1 has none
        _refuse_editing(kind, config)
        return bool(config.get("guidance_embed")) is guided

    return matches


def _refuse_editing(kind: str, config: Mapping[str, Any]) -> None:
    channels, own = config.get("in_channels"), TEXT_TO_IMAGE[kind]
    if channels != own:
        variant = {96: "Fill", 32: "Canny or Depth"}.get(int(channels or 0), "editing")
        raise EsdError(
            f"This is a FLUX {variant} model ({channels} input channels), and ESD draws its examples from text alone: "
            "load FLUX.1 dev or FLUX.2 klein, from which the erasure can be added to others."
        )


ALIASES = re.compile(r"\.linear_(in|out)\.|\.to_qkv_mlp_proj\.")
"""Names that newer hosts add for LoRA files of FLUX.2; a tensor has one name in the files of the official code."""


def names(config: Mapping[str, Any]) -> Names:
    """Return the host's own map, fused projections as rows; only what the official code trains is needed."""
    found: dict[str, str | tuple[str, int, int]] = {}
    for diffusers, host in comfy.utils.flux_to_diffusers(config).items():
        if ALIASES.search(diffusers) or not isinstance(host, str) and len(host) > 2:
            continue
        if diffusers.startswith("single_") and ".attn.to_out." in diffusers:
            continue
        found[diffusers] = host if isinstance(host, str) else (host[0], host[1][1], host[1][2])
    return found


FAMILIES = (
    Family(
        "FLUX.1 dev",
        FLUX1,
        1024,
        3.5,
        _is("Flux", "flux", True),
        BACKWARD,
        guidance=EMBEDDED,
        training_guidance=1.0,
        joint_attention=True,
        cells_per_token=2,
        mu=flux1_mu,
        diffusers=names,
        experimental=True,
    ),
    Family(
        "FLUX.1 schnell",
        FLUX1,
        1024,
        1.0,
        _is("Flux", "flux", False),
        BACKWARD,
        joint_attention=True,
        cells_per_token=2,
        diffusers=names,
        experimental=True,
    ),
    Family(
        "FLUX.2 klein",
        KLEIN,
        1024,
        4.0,
        _is("Flux2", "flux2", False),
        BACKWARD,
        joint_attention=True,
        mu=flux2_mu,
        diffusers=names,
        experimental=True,
    ),
)
