"""`run.py check`: a server of our own on this machine's device, checked by `commands/check.py`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from commands import check
from lab.paths import RUN

from .demo import started
from .server import device_arguments


def main(options: argparse.Namespace) -> int:
    """Start the server, check it, and return the exit code."""
    given = options.comfyui
    device = [] if "--cpu" in given else device_arguments()
    with started(RUN / "base", [*device, *given]) as server:
        options.url, options.comfyui = server.url, Path(os.environ["COMFYUI_PATH"])
        options.models = server.base / "models"
        return check.run(options)
