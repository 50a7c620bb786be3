"""Writing files so that a name never stands for half a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import uuid4

from safetensors.torch import save_file
from torch import Tensor

from .errors import EsdError

TEMPORARY = ".esd-partial"
"""Ending of files that are still being written; whatever bears it may be deleted."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to the disk, and only then give it its name.

    Raises EsdError when the disk is full or the folder cannot be written; nothing is left behind then.
    """
    temporary = path.with_name(f"{path.name}.{uuid4().hex[:8]}{TEMPORARY}")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise EsdError(
            f"{path.name} could not be written ({error.strerror or error}): "
            "free some space or allow writing in the output folder, then queue again."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors (any device, any strides) and text metadata to a safetensors file, all or nothing."""
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}

    def write(temporary: Path) -> None:
        try:
            save_file(plain, temporary, metadata=dict(metadata))
        except Exception as error:  # the safetensors writer has an error type of its own for a full disk
            raise OSError(str(error)) from error

    write_atomically(path, write)
