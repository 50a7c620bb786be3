"""What is checked of a safetensors file before anything in it is believed: its header against its size."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from ..errors import EsdError
from .lazy_tensor import DTYPES

MOST_HEADER = 100 * 2**20
"""Bytes of a safetensors header, as the format's own readers limit it."""

MOST_VALUES = 2**63 - 1
"""Numbers in one tensor, however many zeros its shape has: beyond that sizes no longer fit an integer."""


@dataclass(frozen=True)
class Entry:
    """Where a safetensors file keeps one tensor: bytes `begin` to `end` of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def safetensors_header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Entries and metadata of a safetensors file; raises EsdError unless they describe the file's bytes exactly."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(MOST_HEADER, size - 8):
            raise EsdError(
                f"{path.name} is damaged: its header does not fit a file of {size} bytes; download it again."
            )
        header = _parsed(path, file.read(length))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise EsdError(f"{path.name} is damaged: its metadata is not text; download it again.")
    entries = {name: _entry(path, name, given, 8 + length) for name, given in header.items()}
    _require_exact_cover(path, entries, 8 + length, size)
    return entries, metadata


def _parsed(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a name stands there twice")
        return dict(pairs)

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
        json.dumps(header, ensure_ascii=False).encode()  # half a surrogate pair is no text that could be written
    except (ValueError, RecursionError) as error:
        raise EsdError(f"{path.name} is damaged: its header cannot be read ({error}); download it again.") from error
    if not isinstance(header, dict):
        raise EsdError(f"{path.name} is damaged: its header is not a table of tensors; download it again.")
    return header


def _entry(path: Path, name: str, given: Any, start: int) -> Entry:
    try:
        dtype, shape, (begin, end) = given["dtype"], tuple(given["shape"]), given["data_offsets"]
        if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
            raise ValueError("negative or broken numbers")
        if prod(max(n, 1) for n in shape) > MOST_VALUES:
            raise ValueError("more values than there can be")
    except (KeyError, TypeError, ValueError) as error:
        raise EsdError(
            f'{path.name} is damaged: the header\'s entry "{name}" makes no sense; download it again.'
        ) from error
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise EsdError(
            f'{path.name} stores "{name}" as {dtype}, which cannot be read: use its fp32, fp16 or bf16 version.'
        )
    if end - begin != prod(shape) * DTYPES[dtype].itemsize:
        raise EsdError(
            f'{path.name} is damaged: "{name}" claims the shape {shape} in {end - begin} bytes; download it again.'
        )
    return Entry(DTYPES[dtype], shape, start + begin, start + end)


def _require_exact_cover(path: Path, entries: dict[str, Entry], start: int, size: int) -> None:
    for entry in sorted(entries.values(), key=lambda e: (e.begin, e.end)):
        if entry.begin != start:
            raise EsdError(
                f"{path.name} is damaged: its header describes bytes twice or not at all; download it again."
            )
        start = entry.end
    if start != size:
        raise EsdError(
            f"{path.name} is damaged: its header describes {start} bytes and the file has {size}; download it again."
        )
