"""`run.py serve`: the server left running, with the nodes in it, until Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import webbrowser
from pathlib import Path

from lab.paths import RUN

from ..progress import ProgressLine
from .base import PACK
from .server import Server, ServerError, device_arguments, free_port, port_is_free

USUAL_PORT = 8188


def main(options: argparse.Namespace) -> None:
    """Start the server, say where it is, and wait until it ends or Ctrl-C."""
    if any(each.partition("=")[0] in ("--port", "--listen") for each in options.comfyui):
        raise ServerError("Write --port before the --: this command has to know where the server is (at 127.0.0.1).")
    port = choose_port(options.port)
    line = ProgressLine()
    line.begin("Starting ComfyUI")
    arguments = [*device_arguments(), *options.comfyui]
    with Server(Path(os.environ["COMFYUI_PATH"]), RUN / "base", port, arguments) as server:
        server.wait()
        line.end()
        print(f"\nComfyUI runs at {server.url}   (Templates -> {PACK} has the workflows; Ctrl-C here ends it)")
        print(f"Pictures and checkpoints go to {server.base / 'output'}, what it prints to {server.log}")
        if not options.no_browser:
            webbrowser.open(server.url)
        while server.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.process.wait(0.5)  # Windows hears Ctrl-C only between two of these
        server.check_alive()


def choose_port(wanted: int | None) -> int:
    """The wanted port, or the usual one where it is free; raises ServerError where the wanted one is taken."""
    if wanted is None:
        return USUAL_PORT if port_is_free(USUAL_PORT) else free_port()
    if not port_is_free(wanted):
        raise ServerError(f"Port {wanted} is in use by another program: end that, or choose another --port.")
    return wanted
