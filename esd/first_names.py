"""What version 0.1 called the settings: files of it still open, and its kept runs are still found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIRST_NAMES = {
    "sampler_model": "source",
    "num_inference_steps": "walk_steps",
    "guidance_scale": "walk_guidance",
    "samples_per_trajectory": "points_per_walk",
    "strided": "coarse_walks",
    "trajectory_batch": "walk_batch",
    "buffer_size": "pool",
    "draws_per_buffer": "refresh",
    "gradient_accumulation_steps": "accumulate",
    "gradient_checkpointing": "checkpointing",
}
"""What version 0.1 called settings that have another name now."""


def by_first_name(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings under the names of version 0.1, from which the keys of kept runs are made."""
    return {FIRST_NAMES.get(name, name): value for name, value in values.items()}


def by_present_name(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that a file of any version names, under their present names."""
    renamed = {old: new for new, old in FIRST_NAMES.items()}
    return {renamed.get(name, name): value for name, value in stored.items()}
