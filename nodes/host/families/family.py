"""What a model family is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ....esd.selection import LayerNames


@dataclass(frozen=True)
class Family:
    """A family: its name for users, layer names, native size (pixels), guidance of trajectories, and how to detect it.

    `matches` is asked with the class name of the MODEL's host model and with the configuration of its network.
    """

    name: str
    layer_names: LayerNames
    native_size: int
    guidance_scale: float
    matches: Callable[[str, dict[str, Any]], bool]
    joint_attention: bool = False
    """Whether prompts must be equally long: joint attention would see repeated tokens more often."""
    experimental: bool = False
