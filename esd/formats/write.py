"""Safetensors files written tensor by tensor, so that only one tensor needs to be in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import EsdError
from .stored import DTYPES, StoredTensor


def write_stream(path: Path, tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str]) -> None:
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


def _header(ordered: list[tuple[str, StoredTensor]], metadata: Mapping[str, str]) -> bytes:
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
