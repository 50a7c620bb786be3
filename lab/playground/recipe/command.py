"""`run.py playground`: runs the stages that are asked for, one after another."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from commands.playground import world as shipped
from lab.paths import OWN_HOST, RUN
from lab.progress import ProgressLine

from . import measure, sheet, world_spec
from .stages import STAGES, Build, shortened

SHIPPED_STAGES = ("pictures", "measure", "sheet")
ALL: dict[str, Callable[[Build], bool]] = {**STAGES, "measure": measure.main, "sheet": sheet.main}


def main(options: argparse.Namespace) -> int:
    """Run the stages; 1 if one of them was stopped before its end."""
    if options.threads:
        torch.set_num_threads(options.threads)
    line = ProgressLine()

    def report(stage: str, done: int, total: int) -> None:
        line.begin(stage)
        line.update(done, total)

    build = workshop(options, report)
    try:
        for stage in options.stages or (SHIPPED_STAGES if build.ready else tuple(ALL)):
            line.begin(stage)
            if not ALL[stage](build):
                line.abandon()
                return 1
            line.end()
    except BaseException:
        line.abandon()
        raise
    return 0


def workshop(options: argparse.Namespace, report: Callable[[str, int, int], None]) -> Build:
    """What the options ask for."""
    file = options.world or world_spec.WORLD
    host = Path(os.environ.get("COMFYUI_PATH") or OWN_HOST).resolve()
    build = Build(
        world_spec.read(file),
        (options.folder or RUN / "playground" / ("shipped" if options.shipped else file.stem)).resolve(),
        host / "comfy" / "sd1_tokenizer",
        report,
        start_from=options.start_from.resolve() if options.start_from else None,
        ready=shipped.CHECKPOINT if options.shipped else None,
    )
    plans = ("autoencoder", "judge", "second_judge", "denoiser")
    return replace(build, **{plan: shortened(getattr(build, plan), options.steps) for plan in plans})
