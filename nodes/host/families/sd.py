"""Stable Diffusion 1.x, 2.x and XL, and the distilled networks of their layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....esd.selection import SDXL_UNET, UNET
from .family import Backward, Family

BACKWARD = Backward(("ResBlock", "SpatialTransformer", "BasicTransformerBlock"))


def _unet(context: int) -> Callable[[str, dict[str, Any]], bool]:
    return lambda kind, config: kind in ("BaseModel", "SDXL") and config.get("context_dim") == context


FAMILIES = (
    Family("SD1.x", UNET, 512, 3.0, _unet(768), BACKWARD),
    Family("SD2.x", UNET, 768, 3.0, _unet(1024), BACKWARD),
    Family("SDXL", SDXL_UNET, 1024, 2.0, _unet(2048), BACKWARD),
)
