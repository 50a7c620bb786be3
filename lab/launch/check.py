"""`run.py check` and `run.py evaluate`: `commands/` at work on a server of our own, on this machine's device."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from commands import check
from lab.paths import RUN

from .demo import started
from .server import device_arguments


def main(options: argparse.Namespace, work: Callable[[argparse.Namespace], int] = check.run) -> int:
    """Start the server, do the work on it, and return its exit code."""
    given = options.comfyui
    device = [] if "--cpu" in given else device_arguments()
    with started(RUN / "base", [*device, *given]) as server:
        options.url, options.comfyui = server.url, Path(os.environ["COMFYUI_PATH"])
        options.models = server.base / "models"
        return work(options)
