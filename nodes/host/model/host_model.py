"""A MODEL as the rooms of the host know it: identified once, and asked for its parts where they are needed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..families import identify, image_tokens, native_latent, quantised_weight
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
    def computing_dtype(self) -> torch.dtype:
        """What its layers compute in: the dtype of the weights, or what quantised weights are cast to."""
        return self.patcher.model.manual_cast_dtype or self.dtype if self.is_quantised else self.dtype

    @property
    def device(self) -> torch.device:
        """Where the host computes with it."""
        return self.patcher.load_device  # type: ignore[no-any-return]

    @property
    def latent_format(self) -> Any:
        """Channels, scale and rough colours of its latents."""
        return self.patcher.model.latent_format

    @property
    def is_quantised(self) -> bool:
        """Whether weights are kept in fewer bits than layers compute in."""
        return quantised_weight(self.patcher) is not None

    def latent_shape(self, width: int, height: int) -> tuple[int, ...]:
        """Return "c h w" (or "c 1 h w") for a picture's size in pixels, 0 meaning the family's own."""
        return native_latent(self.family, self.patcher, width, height)

    def weights(self) -> dict[str, SeenWeight]:
        """Return the network's weights as they are kept now: the host may move them until the next call."""
        return seen_weights(self.patcher)

    def sampling(self, latent: tuple[int, ...], steps: int) -> Any:
        """Return its noise schedule with ordinary tensors: the host's own sigmas belong to inference mode.

        Where the family publishes a shift for each size, and no node has set another, it is that of the latents.
        """
        made = copy.deepcopy(self.patcher.get_model_object("model_sampling"))
        if self.family.mu is not None and "model_sampling" not in self.patcher.object_patches:
            made.set_parameters(shift=self.family.mu(image_tokens(self.family, latent), steps))
        return made


_NOT_OF_THE_NETWORK = ("disable_unet_model_creation", "dtype", "device")


def as_host_model(model: Any) -> HostModel:
    """Identify a MODEL; raise EsdError, which says why, for what cannot be erased."""
    return HostModel(model, identify(model))
