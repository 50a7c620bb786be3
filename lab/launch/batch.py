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
VISIBLE = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
"""Which GPUs a process sees, on ROCm and on CUDA."""


def main(options: argparse.Namespace) -> int:
    """Do the batch and return the exit code."""
    return command.run(options, partial(starts, options), partial(place, options))


def starts(options: argparse.Namespace) -> Sequence[Start]:
    """Return what starts each server: one a GPU, or one where there is none; or those that run at --url."""
    if options.url:
        return command.starts_at(options)
    device = [] if "--cpu" in options.comfyui else device_arguments()
    arguments = [*device, *options.comfyui]
    return [partial(_server, number, arguments, variables) for number, variables in enumerate(gpus(options))]


def gpus(options: argparse.Namespace) -> list[dict[str, str]]:
    """Return the variables that give each GPU to a server of its own; none where there is one, or it is chosen."""
    import torch

    count = torch.cuda.device_count()
    if count < 2 or {"--cpu", "--cuda-device"} & {word.partition("=")[0] for word in options.comfyui}:
        return [{}]
    name = next((each for each in VISIBLE if os.environ.get(each)), VISIBLE[-1])
    visible = os.environ.get(name) or ",".join(map(str, range(count)))
    return [{name: number.strip()} for number in visible.split(",")[:count]]


def _server(number: int, arguments: list[str], variables: dict[str, str]) -> Host:
    """Start a server; another one in its place where it ended before."""
    server = Server(Path(os.environ["COMFYUI_PATH"]), BASE / str(number), arguments=arguments, variables=variables)
    try:
        server.wait()
    except BaseException:
        server.stop()
        raise
    return Host(f"server {number + 1}", server, server.base / "output", server.check_alive, server.stop)


def place(options: argparse.Namespace) -> host.Place:
    """Return the same ComfyUI for the workers of a cluster, each with a base folder on its node."""
    comfy = Path(os.environ["COMFYUI_PATH"])
    return host.Place(comfy, None, Path(), None, tuple(options.comfyui), partial(_base_in, comfy))


def _base_in(comfy: Path, slot: Path) -> Path:
    return prepare_base(slot / "base", comfy)
