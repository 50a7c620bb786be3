"""A MODEL as the rooms of the host know it: identified once, and asked for its parts where they are needed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..families import identify, native_latent
from ..families.family import Family
from .weights import SeenWeight, seen_weights


@dataclass(frozen=True)
class HostModel:
    """A MODEL and the family that it is of."""

    patcher: Any
    family: Family

    @property
    def network(self) -> nn.Module:
        """The host's own network, shared by all clones of the MODEL."""
        return self.patcher.model.diffusion_model  # type: ignore[no-any-return]

    @property
    def config(self) -> dict[str, Any]:
        """What the host found out about the network from its file."""
        return self.patcher.model.model_config.unet_config  # type: ignore[no-any-return]

    @property
    def kind(self) -> tuple[type, Mapping[str, Any]]:
        """The class of the network, and what it is made with."""
        return type(self.network), {k: v for k, v in self.config.items() if k not in _NOT_OF_THE_NETWORK}

    @property
    def dtype(self) -> torch.dtype:
        """What the network is loaded in."""
        return self.network.dtype  # type: ignore[return-value]

    @property
    def device(self) -> torch.device:
        """Where the host computes with it."""
        return self.patcher.load_device  # type: ignore[no-any-return]

    @property
    def latent_format(self) -> Any:
        """Channels, scale and rough colours of its latents."""
        return self.patcher.model.latent_format

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """Return "c h w" for a picture's size in pixels, 0 meaning the family's own."""
        return native_latent(self.family, self.patcher, width, height)

    def weights(self) -> dict[str, SeenWeight]:
        """Return the network's weights as they are kept now: the host may move them until the next call."""
        return seen_weights(self.patcher)

    def sampling(self) -> Any:
        """Return its noise schedule with ordinary tensors: the host's own sigmas belong to inference mode."""
        return copy.deepcopy(self.patcher.get_model_object("model_sampling"))


_NOT_OF_THE_NETWORK = ("disable_unet_model_creation", "dtype", "device")


def as_host_model(model: Any) -> HostModel:
    """Identify a MODEL; raise EsdError, which says why, for what cannot be erased."""
    return HostModel(model, identify(model))
