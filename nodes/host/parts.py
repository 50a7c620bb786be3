"""The parts of a checkpoint that may be missing: CLIP and VAE."""

from __future__ import annotations

from typing import Any

from ...esd.errors import EsdError


def is_missing(part: Any) -> bool:
    """Whether a CLIP or VAE is none; for a checkpoint without a VAE the host hands out an empty one."""
    return part is None or getattr(part, "first_stage_model", part) is None


def require_parts(clip: Any, vae: Any) -> None:
    """Raise EsdError where the text encoder or the VAE is missing."""
    for part, name in ((clip, "CLIP"), (vae, "VAE")):
        if is_missing(part):
            raise EsdError(
                f"No {name} arrived: connect the {name} output of a checkpoint that has one, or of Load {name}."
            )
