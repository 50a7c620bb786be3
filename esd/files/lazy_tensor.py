"""A tensor that is known by shape and dtype and read only when asked for, and the dtypes of safetensors files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""How safetensors headers call the dtypes."""


@dataclass(frozen=True)
class LazyTensor:
    """Shape and dtype now, values on `load()`."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class TensorFile:
    """What a file holds: tensors by their own names, text metadata, and whether modules were nested in it."""

    tensors: Mapping[str, LazyTensor]
    metadata: Mapping[str, str]
    nested: bool = False


def in_memory(tensor: Tensor) -> LazyTensor:
    """Return a tensor that is there already, as a stored one."""
    return LazyTensor(tuple(tensor.shape), tensor.dtype, lambda: tensor)
