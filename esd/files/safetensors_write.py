"""Write safetensors files: whole, or tensor by tensor, so that only one needs to be in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import EsdError
from .atomic import write_atomically
from .lazy_tensor import DTYPES, LazyTensor


def write_stream(path: Path, tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file: the header from shapes and dtypes, then each tensor as it is loaded.

    The largest element size comes first, as the format's own writer orders them, so that readers find every tensor
    aligned.  Raises EsdError when a tensor turns out otherwise than it was announced.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    with path.open("wb") as file:
        file.write(_header(ordered, metadata))
        for name, stored in ordered:
            tensor = stored.load()
            if tuple(tensor.shape) != stored.shape or tensor.dtype != stored.dtype:
                raise EsdError(f'"{name}" changed while the file was written: queue again.')
            file.write(_bytes(tensor).numpy().data)


def _header(ordered: list[tuple[str, LazyTensor]], metadata: Mapping[str, str]) -> bytes:
    called = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, stored in ordered:
        if stored.dtype not in called:
            raise EsdError(
                f'"{name}" is {stored.dtype}, which a safetensors file cannot hold: convert the model first.'
            )
        end = at + stored.nbytes
        header[name] = {"dtype": called[stored.dtype], "shape": list(stored.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors (any device, any strides) and text metadata to a safetensors file, all or nothing."""
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}

    def write(temporary: Path) -> None:
        try:
            save_file(plain, temporary, metadata=dict(metadata) or None)  # an empty table and no tensors make no JSON
        except Exception as error:  # the safetensors writer has an error type of its own for a full disk
            raise OSError(str(error)) from error

    write_atomically(path, write)
