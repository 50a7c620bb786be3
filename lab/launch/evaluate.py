"""`run.py evaluate`: a server of our own on this machine's device, measured by `commands/evaluate.py`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from commands import evaluate
from lab.paths import RUN

from .demo import started
from .server import device_arguments


def main(options: argparse.Namespace) -> int:
    """Start the server, make the table, and return the exit code."""
    given = options.comfyui
    device = [] if "--cpu" in given else device_arguments()
    with started(RUN / "base", [*device, *given]) as server:
        options.url, options.comfyui = server.url, Path(os.environ["COMFYUI_PATH"])
        options.models = server.base / "models"
        return evaluate.run(options)
