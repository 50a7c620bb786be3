"""What a model family is: everything that is particular about it, in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import comfy.utils

from ....esd.selection import LayerNames

CFG, EMBEDDED = "cfg", "embedded"
"""How trajectories are guided: by predictions of two prompts, or by a number that the network is told."""


@dataclass(frozen=True)
class Backward:
    """What backward through a family's network asks for."""

    blocks: tuple[str, ...]
    """Classes of the blocks whose activations can be recomputed: the outermost, with one transformer block at most."""
    in_place: bool = False
    """Whether blocks write into their inputs, which autograd may still need: those are then copied."""


Names = Mapping[str, "str | tuple[str, int, int]"]
"""diffusers name of a tensor to the host's name, or to (name, first row, number of rows) of a fused one."""


def unet_names(config: Mapping[str, Any]) -> Names:
    """Return the host's own map for UNets."""
    return comfy.utils.unet_to_diffusers(config)  # type: ignore[no-any-return]


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
    backward: Backward
    guidance: str = CFG
    training_guidance: float = 0.0
    """With embedded guidance: the guidance at which target and student predict."""
    joint_attention: bool = False
    """Whether tokens must not be repeated: joint attention would see them more often."""
    cells_per_token: int = 1
    """Of a latent along each side."""
    mu: Callable[[int, int], float] | None = None
    """The exponential shift of the flow's schedule by image tokens and steps, where the family publishes one."""
    adapter_in_network: bool = False
    """Whether the network itself makes its conditions of the texts, as it does for hosts in training."""
    diffusers: Callable[[Mapping[str, Any]], Names] = unet_names
    """What diffusers calls the tensors, by the configuration of the network."""
    experimental: bool = False
