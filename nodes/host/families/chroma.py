"""Chroma: FLUX.1's layout with true classifier-free guidance and no pooled text."""

from __future__ import annotations

from .family import Family
from .flux import BACKWARD, FLUX1

FAMILIES = (
    Family(
        "Chroma",
        FLUX1,
        1024,
        3.5,
        lambda kind, config: kind == "Chroma",
        BACKWARD,
        joint_attention=True,
        cells_per_token=2,
        experimental=True,
    ),
)
