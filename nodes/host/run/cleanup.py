"""Delete what processes that died left half-written in the output folder."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import folder_paths
import psutil

from ....esd.files.atomic import writer_of

log = logging.getLogger("esd")


def delete_partials() -> None:
    """Delete what processes that are gone have left half-written in the output folder."""
    for folder, folders, files in os.walk(folder_paths.get_output_directory()):
        for name in (*folders, *files):
            path = Path(folder, name)
            try:
                _delete_partial(path)
            except OSError as error:  # a leftover is no reason for the pack not to load
                log.warning("ESD: %s, left half-written, could not be deleted: %s", name, error)


def _delete_partial(path: Path) -> None:
    writer = writer_of(path)
    if writer is None or (writer != os.getpid() and _may_be_writing(writer, path)):
        return
    log.info("ESD: deleting %s, left half-written by a process that is gone", path.name)
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


YOUNGER_SECONDS = 60
"""A process that began so long after a file was last written did not write it: its number has been given anew."""


def _may_be_writing(number: int, path: Path) -> bool:
    try:
        return bool(psutil.Process(number).create_time() < path.stat().st_mtime + YOUNGER_SECONDS)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
