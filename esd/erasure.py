"""The result of a run: the change of each trained weight, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from .errors import EsdError
from .files.safetensors_write import write_safetensors

PREFIX = "diffusion_model."
"""What the host puts before the name of every weight of a network."""

SUFFIXES = {"weight": "diff", "bias": "diff_b"}
"""How LoRA files name a full difference of a weight and of a bias."""


@dataclass(frozen=True, repr=False)
class Erasure:
    """Erased minus base by host name (`diffusion_model.<path>.weight`), float32 on the CPU, and text metadata."""

    differences: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Short, since the host prints inputs in its error reports."""
        return f"ErasedWeights({len(self.differences)} tensors, {self.metadata.get('esd.concepts', 'no metadata')})"

    def get_ram_usage(self) -> int:
        """Bytes held, for a host whose cache weighs its entries."""
        return sum(t.numel() * t.element_size() for t in self.differences.values())


def lora_key(name: str) -> str:
    """`diffusion_model.a.b.weight` as the full-difference key of a LoRA file, `diffusion_model.a.b.diff`."""
    path, _, leaf = name.rpartition(".")
    if leaf not in SUFFIXES:
        raise EsdError(
            f'The weight "{name}" is neither a weight nor a bias, so a LoRA file cannot hold it: save as official.'
        )
    return f"{path}.{SUFFIXES[leaf]}"


def save_differences(weights: Erasure, path: Path) -> None:
    """Write the differences as a safetensors file that any LoRA loader which knows full differences applies."""
    write_safetensors({lora_key(k): t for k, t in weights.differences.items()}, path, weights.metadata)
