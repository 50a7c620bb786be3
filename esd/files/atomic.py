"""Writing files so that a name never stands for half a file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from ..errors import EsdError

TEMPORARY = ".esd-partial"
"""Ending of folders that are still being written; the number before it is the writing process's."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file in a temporary folder beside `path`, flush it, and only then give it its name.

    Raises EsdError when the disk is full or the folder cannot be written; nothing is left behind then.
    """
    folder = _beside(path)
    temporary = folder / "part"
    try:
        folder.mkdir()  # of its own: some writers put temporary files beside theirs, and leave them when killed
        write(temporary)
        _flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_folder_atomically(folder: Path, write: Callable[[Path], object]) -> None:
    """Do the same for a new folder of files: `write` fills a temporary one, which then gets its name."""
    temporary = _beside(folder)
    try:
        temporary.mkdir(parents=True)
        write(temporary)
        for path in temporary.iterdir():
            _flush(path)
        os.replace(temporary, folder)
    except OSError as error:
        raise _not_written(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.{uuid4().hex[:8]}.{os.getpid()}{TEMPORARY}")


def writer_of(path: Path) -> int | None:
    """Return the process that a temporary folder belongs to; None for any other name."""
    number = path.name.removesuffix(TEMPORARY).rpartition(".")[2]
    return int(number) if path.name.endswith(TEMPORARY) and number.isdecimal() else None


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _not_written(path: Path, error: OSError) -> EsdError:
    return EsdError(
        f"{path.name} could not be written ({error.strerror or error}): "
        "free some space or allow writing in the output folder, then queue again."
    )
