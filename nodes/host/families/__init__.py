"""Which model families can be erased, and why the others cannot."""

from __future__ import annotations

from typing import Any

import torch

from ....esd.erasure import PREFIX
from ....esd.errors import EsdError
from . import anima, chroma, flux, krea, lumina, qwen, sd, sd3, wan
from .family import Family

NETWORK_PREFIX = PREFIX
PLAIN_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


FAMILIES: tuple[Family, ...] = (
    *sd.FAMILIES,
    *sd3.FAMILIES,
    *flux.FAMILIES,
    *chroma.FAMILIES,
    *lumina.FAMILIES,
    *qwen.FAMILIES,
    *wan.FAMILIES,
    *anima.FAMILIES,
    *krea.FAMILIES,
)
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
            return family
    raise EsdError(
        f"This model is {_REFUSED.get(kind, kind)}, which ESD cannot erase from here: "
        f"load a model of the family {', '.join(f.name for f in FAMILIES)}."
    )


_REFUSED = {
    "SDXLRefiner": "an SDXL refiner",
    "SVD_img2vid": "a video model (Stable Video Diffusion)",
    "SD21UNCLIP": "an unCLIP model",
    "Flux": "a model of FLUX's layout that is neither FLUX.1 dev nor schnell",
    "Flux2": "FLUX.2 dev",
    "ChromaRadiance": "Chroma Radiance",
    "HiDream": "HiDream",
    "AuraFlow": "AuraFlow",
    "PixArt": "PixArt",
    "HunyuanImage21": "HunyuanImage",
    "WAN21_Vace": "a video model (Wan VACE)",
    "WAN22": "a video model (Wan 2.2 5B)",
    "HunyuanVideo": "a video model (HunyuanVideo)",
    "LTXV": "a video model (LTX)",
}


def _require_model(model: Any) -> None:
    if not hasattr(model, "model") or not hasattr(model.model, "diffusion_model"):
        raise EsdError("No MODEL arrived: connect the MODEL output of Load Model or Load Checkpoint.")


def quantised_weight(model: Any) -> tuple[str, str] | None:
    """Return name and kind of the first weight of a MODEL's network that is kept in fewer bits; None for none."""
    for name, tensor in model.model.diffusion_model.state_dict().items():
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            return name, type(tensor).__name__
        if tensor.dtype not in PLAIN_DTYPES:
            return name, str(tensor.dtype)
    return None


def require_plain_weights(model: Any, purpose: str, cure: str) -> None:
    """Raise EsdError where the weights of a MODEL are quantised, so that small changes of them would be lost."""
    found = quantised_weight(model)
    if found is not None:
        raise EsdError(
            f"The weights of this MODEL are quantised ({found[0]} is {found[1]}), so {purpose} would lose small "
            f"changes: {cure}"
        )


def native_latent(family: Family, model: Any, width: int, height: int) -> tuple[int, ...]:
    """Return the latent shape for a picture size in pixels, 0 meaning the family's own.

    It is "c h w", or "c 1 h w" where the network is one of videos.
    """
    ratio = spatial_ratio(model)
    pixels = (height or family.native_size, width or family.native_size)
    if any(p % ratio or p < ratio for p in pixels):
        raise EsdError(f"The size {pixels[1]} x {pixels[0]} does not fit: both must be multiples of {ratio}.")
    return latent_of(model, pixels[1], pixels[0])


def latent_of(model: Any, width: int, height: int) -> tuple[int, ...]:
    """Return the shape of a picture's latent, "c h w", or "c 1 h w" where the network is one of videos."""
    latent, ratio = model.model.latent_format, spatial_ratio(model)
    time = (1,) if getattr(latent, "latent_dimensions", 2) == 3 else ()
    return (latent.latent_channels, *time, height // ratio, width // ratio)


PIXELS_PER_CELL = {"Flux2": 16, "Wan22": 16, "HunyuanImage21": 32}
"""By the host's class of latents; the others have 8."""


def spatial_ratio(model: Any) -> int:
    """Pixels for one latent cell along each side; hosts before 0.8 do not say it."""
    latent = model.model.latent_format
    return int(getattr(latent, "spacial_downscale_ratio", PIXELS_PER_CELL.get(type(latent).__name__, 8)))


def image_tokens(family: Family, latent: tuple[int, ...]) -> int:
    """Return how many tokens a latent of that shape is to the network."""
    rows, columns = (-(-size // family.cells_per_token) for size in latent[-2:])
    return rows * columns
