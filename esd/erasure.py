"""The result of a run: the change of each trained weight, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .errors import EsdError
from .files.safetensors_write import write_safetensors

PREFIX = "diffusion_model."
"""What the host puts before the name of every weight of a network."""

SUFFIXES = {"weight": "diff", "bias": "diff_b"}
"""How LoRA files name a full difference of a weight and of a bias."""


@dataclass(frozen=True, repr=False)
class LowRankChange:
    """The change of one matrix as up @ down: up is "o r", down "r i"; alpha is the rank."""

    up: Tensor
    down: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix."""
        return (self.up.shape[0], self.down.shape[1])

    def dense(self) -> Tensor:
        """Return the matrix, "o i", float32."""
        return self.up.float() @ self.down.float()


@dataclass(frozen=True, repr=False)
class Erasure:
    """Erased minus base by host name (`diffusion_model.<path>.weight`), float32 on the CPU, and text metadata.

    Each weight's change is either a full difference or a low-rank one.
    """

    differences: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    low_rank: Mapping[str, LowRankChange] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Short, since the host prints inputs in its error reports."""
        return f"ErasedWeights({len(self.names)} tensors, {self.metadata.get('esd.concepts', 'no metadata')})"

    @property
    def names(self) -> list[str]:
        """Every weight that changes."""
        return [*self.differences, *self.low_rank]

    @property
    def tensors(self) -> list[Tensor]:
        """Everything that is held."""
        return [*self.differences.values(), *(t for each in self.low_rank.values() for t in (each.up, each.down))]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a weight's change."""
        return tuple(self.low_rank[name].shape if name in self.low_rank else self.differences[name].shape)

    def change(self, name: str) -> Tensor:
        """Return the whole change of a weight."""
        return self.low_rank[name].dense() if name in self.low_rank else self.differences[name]

    def get_ram_usage(self) -> int:
        """Bytes held, for a host whose cache weighs its entries."""
        return sum(t.numel() * t.element_size() for t in self.tensors)


def lora_key(name: str) -> str:
    """`diffusion_model.a.b.weight` as the full-difference key of a LoRA file, `diffusion_model.a.b.diff`."""
    path, _, leaf = name.rpartition(".")
    if leaf not in SUFFIXES:
        raise EsdError(
            f'The weight "{name}" is neither a weight nor a bias, so a LoRA file cannot hold it: save as official.'
        )
    return f"{path}.{SUFFIXES[leaf]}"


def lora_tensors(weights: Erasure) -> dict[str, Tensor]:
    """Return the tensors of a LoRA file: full differences as `.diff`, low-rank changes as `.lora_up` and `.lora_down`.

    Names are the host's own, which every version of its loader knows; fused projections stay fused.
    """
    tensors = {lora_key(name): t for name, t in weights.differences.items()}
    for name, change in weights.low_rank.items():
        path = name.removesuffix(".weight")
        tensors[f"{path}.lora_up.weight"], tensors[f"{path}.lora_down.weight"] = change.up, change.down
        tensors[f"{path}.alpha"] = torch.tensor(float(change.down.shape[0]))
    return tensors


def save_differences(weights: Erasure, path: Path) -> None:
    """Write an erasure as a safetensors file that any LoRA loader which knows full differences applies."""
    write_safetensors(lora_tensors(weights), path, weights.metadata)
