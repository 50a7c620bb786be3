"""`run.py playground`: runs the stages that are asked for, one after another."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from lab.paths import OWN_HOST, RUN
from lab.progress import ProgressLine

from . import measure, sheet, world_spec
from .layouts import LAYOUTS
from .stages import STAGES, Build, shortened

SHIPPED_STAGES = ("pictures", "measure", "sheet")
JUDGES = ("judge", "second-judge")
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
        for stage in options.stages or _usual_stages(build):
            line.begin(stage)
            if not ALL[stage](build):
                line.abandon()
                return 1
            line.end()
    except BaseException:
        line.abandon()
        raise
    return 0


def _usual_stages(build: Build) -> tuple[str, ...]:
    if build.ready:
        return SHIPPED_STAGES
    return tuple(stage for stage in ALL if build.layout.own_judges or stage not in JUDGES)


def workshop(options: argparse.Namespace, report: Callable[[str, int, int], None]) -> Build:
    """What the options ask for."""
    file = options.world or world_spec.WORLD
    name = ("shipped" if options.shipped else file.stem) + ("" if options.layout == "sd1" else f"-{options.layout}")
    host = Path(os.environ.get("COMFYUI_PATH") or OWN_HOST).resolve()
    layout = LAYOUTS[options.layout]
    build = Build(
        world_spec.read(file),
        (options.folder or RUN / "playground" / name).resolve(),
        host / "comfy" / "sd1_tokenizer",
        report,
        layout,
        start_from=options.start_from.resolve() if options.start_from else None,
        ready=layout.shipped.checkpoint if options.shipped else None,
        autoencoder=layout.autoencoder_plan,
        denoiser=layout.plan,
    )
    plans = ("autoencoder", "judge", "second_judge", "denoiser")
    return replace(build, **{plan: shortened(getattr(build, plan), options.steps) for plan in plans})
