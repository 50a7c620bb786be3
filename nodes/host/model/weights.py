"""The weights of a MODEL as its layers compute with them, wherever and however the host keeps them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import comfy.lora
import comfy.utils
import torch
from torch import Tensor

from ..families import NETWORK_PREFIX

CPU = torch.device("cpu")


@dataclass(frozen=True, repr=False)
class SeenWeight:
    """One weight of a MODEL: what the host keeps of it, the dtype that its layer computes in, and its patches.

    Under DynamicVRAM the host keeps the file's own dtype (the layer casts at each call), maybe in a read-only mapping
    of the file, and on the meta device what the file lacks and the layer fills with zeros.
    """

    key: str
    kept: Tensor
    dtype: torch.dtype
    entry: list[Any]
    """The host's own: (weight, conversion of quantised layers), then the patches."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As in the network."""
        return tuple(self.kept.shape)

    @property
    def is_patched(self) -> bool:
        """Whether LoRAs or other patches change it."""
        return len(self.entry) > 1

    def shares(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether `on` needs no memory of its own for it."""
        here = self.kept.device == device and not self.kept.is_meta
        return here and self.kept.dtype == self.dtype == dtype and not self.is_patched

    def on(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return an ordinary tensor with its patches on a device, over the host's own memory where it `shares`."""
        if self.shares(device, dtype):
            return _ordinary(self.kept)
        if self.is_patched:
            return self.patched(device).to(dtype).clone()
        return self.plain().to(device=device, dtype=dtype, copy=True)

    def held(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return what `on` does, but on the CPU; patches are worked out on the device."""
        return self.on(device, dtype).to(CPU) if self.is_patched else self.on(CPU, dtype)

    def patched(self, device: torch.device) -> Tensor:
        """With its patches, in float32, as a copy."""
        (_, convert), *patches = self.entry
        full = convert(self.plain().to(device=device, dtype=torch.float32, copy=True), inplace=True)
        changed: Tensor = comfy.lora.calculate_weight(patches, full, self.key)
        return changed

    def plain(self) -> Tensor:
        """Return it without patches, maybe the host's own memory."""
        if self.kept.is_meta:
            return torch.zeros(self.shape, dtype=self.dtype)
        return self.kept.detach().to(self.dtype)


def seen_weights(model: Any) -> dict[str, SeenWeight]:
    """Return the weights of a MODEL's network by name, in the network's order; no value is computed yet."""
    return {
        key.removeprefix(NETWORK_PREFIX): SeenWeight(key, entry[0][0], _dtype(model, key, entry[0][0]), entry)
        for key, entry in model.get_key_patches(NETWORK_PREFIX).items()
    }


def is_within(name: str, blocks: Collection[str]) -> bool:
    """Whether a module or a weight of a network belongs to one of the blocks, by their paths."""
    return any(name == block or name.startswith(f"{block}.") for block in blocks)


def _dtype(model: Any, key: str, kept: Tensor) -> torch.dtype:
    path, _, leaf = key.rpartition(".")
    declared = getattr(comfy.utils.get_attr(model.model, path), f"{leaf}_comfy_model_dtype", None)
    return declared or kept.dtype


def _ordinary(weight: Tensor) -> Tensor:
    """Return the same memory as an ordinary tensor: the host's are inference tensors, which autograd refuses."""
    plain = torch.empty(0, dtype=weight.dtype, device=weight.device)
    return plain.set_(weight.untyped_storage(), weight.storage_offset(), weight.shape, weight.stride())
