"""`run.py batch`: servers of our own, one a GPU, or a Ray cluster, for `commands/batch`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from commands.batch import command, host
from commands.batch.machine import Start
from commands.batch.work import Host
from lab.paths import RUN

from .base import prepare_base
from .server import Server, device_arguments

BASE = RUN / "batch"


def main(options: argparse.Namespace) -> int:
    """Do the batch and return the exit code."""
    return command.run(options, partial(starts, options), partial(place, options))


def starts(options: argparse.Namespace) -> Sequence[Start]:
    """Return what starts each server: one a GPU, or one where there is none; or those that run at --url."""
    if options.url:
        return command.starts_at(options)
    device = [] if "--cpu" in options.comfyui else device_arguments()
    if device:
        return [partial(_server, 0, [*device, *options.comfyui])]
    return [partial(_server, number, [*chosen, *options.comfyui]) for number, chosen in enumerate(gpus(options))]


def gpus(options: argparse.Namespace) -> list[list[str]]:
    """Return the words that give each GPU to a server of its own; none of them where there is one GPU or no choice."""
    import torch

    count = torch.cuda.device_count()
    if "--cpu" in options.comfyui or count < 2:
        return [[]]
    return [["--cuda-device", str(number)] for number in range(count)]


def _server(number: int, arguments: list[str]) -> Host:
    """Start a server; another one in its place where it ended before."""
    server = Server(Path(os.environ["COMFYUI_PATH"]), BASE / str(number), arguments=arguments)
    try:
        server.wait()
    except BaseException:
        server.stop()
        raise
    return Host(f"server {number + 1}", server, server.base / "output", server.check_alive, server.stop)


def place(options: argparse.Namespace) -> host.Place:
    """Return the same ComfyUI for the workers of a cluster, with the models of a base folder."""
    comfy = Path(os.environ["COMFYUI_PATH"])
    return host.Place(comfy, prepare_base(BASE / "cluster", comfy), Path(), None, tuple(options.comfyui))
