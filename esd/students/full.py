"""The full student: its own values of the selected weights in the place of the frozen ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from ..erasure import Erasure
from .student import StudentPlan

Slot = tuple[nn.Module, str]

WIDE, AT_A_TIME = 2048, 256
"""Of an edit that is wider, so many columns are on the device at a time: it may be larger than the weight."""


class FullStudent:
    """Float32 values of the selected weights, swapped in by name."""

    def __init__(self, plan: StudentPlan, network: nn.Module, device: torch.device | None = None) -> None:
        """Begin with the network's own values; the network stays as it is."""
        self.device = device
        self.slots = {name: _slot(network, name) for name in plan.names}
        self.frozen = {name: _read(slot) for name, slot in self.slots.items()}
        self.rows = {name: plan.rows_of(name, t.shape[0]) for name, t in self.frozen.items() if t.ndim}
        self.trainable = {name: nn.Parameter(self._begun(name), name not in plan.fixed) for name in plan.names}

    def _begun(self, name: str) -> Tensor:
        return self._trained_rows(name).detach().to(self.device, torch.float32, copy=True)

    def _trained_rows(self, name: str) -> Tensor:
        """Return the trained part of the frozen weight."""
        return self.frozen[name][slice(*self.rows[name])] if self._is_sliced(name) else self.frozen[name]

    def _is_sliced(self, name: str) -> bool:
        return name in self.rows and self.rows[name] != (0, self.frozen[name].shape[0])

    @torch.no_grad()
    def begin(self, edits: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        """Add W B to the trained weights, in float32."""
        for name, edit in edits.items():
            own = self._trained_rows(name).to(self.trainable[name])
            columns = edit.split(AT_A_TIME, dim=1) if len(edit) > WIDE else [edit]
            parts = [own @ part.to(own.device) for part in columns]
            self.trainable[name].copy_(own + torch.cat(parts, dim=1))

    @contextmanager
    def attached(self, dtype: torch.dtype) -> Iterator[None]:
        """Put the student's weights in place, as layers compute and tracked by autograd, and the base's back."""
        try:
            for name, slot in self.slots.items():
                _write(slot, self._whole(name, self.trainable[name].to(dtype)))
            yield
        finally:
            for name, slot in self.slots.items():
                _write(slot, self.frozen[name])

    def _whole(self, name: str, trained: Tensor) -> Tensor:
        """Return a weight with the frozen rows round the trained ones."""
        if not self._is_sliced(name):
            return trained
        first, last = self.rows[name]
        frozen = self.frozen[name].to(trained)
        return torch.cat([frozen[:first], trained, frozen[last:]])

    def erasure(self, prefix: str) -> Erasure:
        """Return student minus base by name; rows that were not trained are 0."""
        return Erasure({prefix + name: self._difference(name) for name in self.trainable})

    def _difference(self, name: str) -> Tensor:
        own = self.trainable[name].detach()
        change = (own - self._trained_rows(name).to(own)).cpu()
        if not self._is_sliced(name):
            return change
        whole = torch.zeros(self.frozen[name].shape)
        whole[slice(*self.rows[name])] = change
        return whole


def _slot(network: nn.Module, name: str) -> Slot:
    path, _, leaf = name.rpartition(".")
    return network.get_submodule(path), leaf


def _read(slot: Slot) -> Tensor:
    value: Tensor = getattr(*slot)
    return value


def _write(slot: Slot, value: Tensor) -> None:
    # the dict, not the attribute: a module only takes leaves there, and the student's casts are not leaves
    cast(dict[str, Tensor], slot[0]._parameters)[slot[1]] = value
