"""Chroma: FLUX.1's layout with true classifier-free guidance and no pooled text."""

from __future__ import annotations

from dataclasses import replace

from .family import Family
from .flux import BACKWARD, FLUX1

FAMILIES = (
    Family(
        "Chroma",
        replace(FLUX1, text_inputs=None),  # its prompts differ in length, so tokens have no counterparts
        1024,
        3.5,
        lambda kind, config: kind == "Chroma",
        BACKWARD,
        joint_attention=True,
        cells_per_token=2,
        experimental=True,
    ),
)
