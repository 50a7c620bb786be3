"""Files written all or nothing, so that a stage which was stopped finds the last whole one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path, about: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file with `about` as its metadata, under a temporary name first."""
    unfinished = _unfinished(path)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished, dict(about or {}))
    os.replace(unfinished, path)


def about(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file."""
    with safe_open(path, "pt") as opened:
        return opened.metadata() or {}


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """Write a torch archive, under a temporary name first."""
    unfinished = _unfinished(path)
    torch.save(dict(state), unfinished)
    os.replace(unfinished, path)


def save_text(text: str, path: Path) -> None:
    """Write UTF-8 text, under a temporary name first."""
    save_bytes(text.encode("utf-8"), path)


def save_bytes(content: bytes, path: Path) -> None:
    """Write bytes, under a temporary name first."""
    unfinished = _unfinished(path)
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def digest(*parts: bytes) -> str:
    """Twelve letters that stand for contents."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:12]


def _unfinished(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{path.name}.{os.getpid()}")
