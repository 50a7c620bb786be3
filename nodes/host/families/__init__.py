"""Which model families can be erased, and why the others cannot."""

from __future__ import annotations

from typing import Any

import torch

from ....esd.erasure import PREFIX
from ....esd.errors import EsdError
from . import sd, sd3
from .family import Family

NETWORK_PREFIX = PREFIX
PLAIN_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


FAMILIES: tuple[Family, ...] = (*sd.FAMILIES, *sd3.FAMILIES)
"""Every family that can be erased; a new one is a file beside this one, and its rows here."""


def identify(model: Any) -> Family:
    """Return the family of a MODEL; raise EsdError, which says why, for what cannot be erased."""
    _require_model(model)
    base = model.model
    kind, config = type(base).__name__, base.model_config.unet_config
    if kind not in _REFUSED and ("instructpix2pix" in kind or config.get("in_channels") in (8, 9)):
        raise EsdError(
            f"This is an inpainting or image-editing model ({config.get('in_channels')} input channels), and ESD draws "
            "its examples from text alone: load the ordinary text-to-image model it was made from."
        )
    for family in FAMILIES:
        if family.matches(kind, config):
            _require_plain_weights(base)
            return family
    raise EsdError(
        f"This model is {_REFUSED.get(kind, kind)}, which ESD cannot erase from here: "
        f"load a model of the family {', '.join(f.name for f in FAMILIES)}."
    )


_REFUSED = {
    "SDXLRefiner": "an SDXL refiner",
    "SVD_img2vid": "a video model (Stable Video Diffusion)",
    "SD21UNCLIP": "an unCLIP model",
    "Flux": "a Flux model",
    "WAN21": "a video model (Wan)",
    "HunyuanVideo": "a video model (HunyuanVideo)",
    "LTXV": "a video model (LTX)",
}


def _require_model(model: Any) -> None:
    if not hasattr(model, "model") or not hasattr(model.model, "diffusion_model"):
        raise EsdError("No MODEL arrived: connect the MODEL output of Load Model or Load Checkpoint.")


def _require_plain_weights(base: Any) -> None:
    for name, tensor in base.diffusion_model.state_dict().items():
        if tensor.dtype not in PLAIN_DTYPES or type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            raise EsdError(
                f"The weights of this MODEL are quantised ({name} is {tensor.dtype}), so small changes would be lost: "
                "load the fp16, bf16 or fp32 file (weight_dtype default), erase there, and quantise the result."
            )


def native_latent(family: Family, model: Any, width: int, height: int) -> tuple[int, int, int]:
    """Return the latent shape "c h w" for a picture size in pixels, 0 meaning the family's own size."""
    ratio = spatial_ratio(model)
    pixels = (height or family.native_size, width or family.native_size)
    if any(p % ratio or p < ratio for p in pixels):
        raise EsdError(f"The size {pixels[1]} x {pixels[0]} does not fit: both must be multiples of {ratio}.")
    rows, columns = (p // ratio for p in pixels)
    return (model.model.latent_format.latent_channels, rows, columns)


def spatial_ratio(model: Any) -> int:
    """Pixels for one latent cell along each side."""
    return int(getattr(model.model.latent_format, "spacial_downscale_ratio", 8))
