"""Measure erasing on this machine's device: `python commands/gpu.py`, with the Python that starts your ComfyUI.

The playground is erased from once, whole.  Networks of real shapes with random weights (or a file that you name) train
a few steps, of the full student and of rank 16, where they fit.  What whole runs take is their number of network passes
times the seconds that a pass took here: of a run at the defaults the most, and of the published procedure.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # this file's folder is not where its package is found
    HERE = Path(os.path.abspath(__file__)).parent
    sys.path[:] = [str(HERE.parent), *(entry for entry in sys.path if os.path.abspath(entry or ".") != str(HERE))]

from commands import inprocess, places  # noqa: E402
from commands.playground.world import CHECKPOINT  # noqa: E402
from commands.talk import ServerError  # noqa: E402

if TYPE_CHECKING:
    from commands.gpu_subjects import Subject

Json = dict[str, Any]

FORMAT = "esd-gpu-1"
CONCEPT = "cat"
PLAYGROUND = "playground"
ARMS = (0, 16)
"""Ranks: the full student, and a low-rank one."""


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog="gpu.py", description=__doc__)
    made.add_argument("--comfyui", type=Path, metavar="FOLDER", help="ComfyUI's own folder, where main.py is")
    made.add_argument("--shapes", nargs="*", metavar="NAME", help="which shapes, such as SDXL (default: all that fit)")
    made.add_argument("--checkpoint", type=Path, metavar="FILE", help="measure this file instead of random weights")
    made.add_argument("--steps", type=int, default=4, help="training steps of each arm (default: %(default)s)")
    made.add_argument("--side", type=int, default=0, help="pixels (default: the size of the published procedure)")
    made.add_argument("--blocks", type=int, default=0, help="of each kind, for a quick look (default: all)")
    made.add_argument("--cpu", action="store_true", help="measure the CPU")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    return made


def measure(on: Subject, rank: int, steps: int) -> Json:
    """Train some steps and return what they took; what cannot run is told in `error`."""
    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.errors import EsdError
    from esd_pack.esd.settings import ALL_STEPS, OWN_WORDS, Settings
    from esd_pack.nodes.host.run.erase import erase_model

    settings = Settings(steps=steps, rank=rank, learning_rate=1e-4, eta=1.0, width=on.side, height=on.side)
    settings = replace(settings, stop=ALL_STEPS, contexts=OWN_WORDS, closed_form=False)
    settings = replace(settings, samples_per_trajectory=1, trajectory_batch=1, buffer_size=1)
    ends: list[float] = []
    row: Json = {"family": on.name, "rank": rank, "side": on.side}
    with Said() as said:
        try:
            erased = erase_model(
                on.model, on.clip, [make_concept(CONCEPT)], [], settings, on_step=lambda step: _note(ends)
            )
        except EsdError as error:
            return {**row, "error": str(error), "said": said.lines}
    seconds = statistics.median(
        b - a for a, b in zip(ends, ends[1:], strict=False)
    )  # without the first, which warms up
    passes = erased.passes / steps
    figures = {"seconds_per_step": seconds, "passes_per_step": passes, "passes_per_second": passes / seconds}
    return {**row, **figures, **whole_runs(on, rank, seconds / passes), "peak_bytes": peak(), "said": said.lines}


def _note(ends: list[float]) -> bool:
    synchronise()
    ends.append(time.perf_counter())
    return False


def whole_runs(on: Subject, rank: int, seconds_per_pass: float) -> Json:
    """Return passes of a default run (the most) and of the published procedure, and the seconds they would take."""
    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.passes import planned_passes
    from esd_pack.esd.presets import with_preset
    from esd_pack.esd.settings import Settings
    from esd_pack.esd.until_gone import settled

    found: Json = {}
    for name, settings in (("default", Settings(rank=rank)), ("published", with_preset(Settings(), on.preset))):
        concepts, chosen = settled([make_concept(CONCEPT)], settings)
        passes = planned_passes(chosen, concepts, [])
        found |= {f"{name}_passes": passes, f"{name}_seconds": passes * seconds_per_pass}
    return {**found, "preset": on.preset}


class Said(logging.Handler):
    """What the pack's log says while it is open: the memory that was planned and taken, and streamed blocks."""

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(record.getMessage())

    def __enter__(self) -> Said:
        """Listen."""
        log = logging.getLogger("esd")
        self.before = log.level
        log.setLevel(logging.INFO)
        log.addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        """Listen no more."""
        log = logging.getLogger("esd")
        log.removeHandler(self)
        log.setLevel(self.before)


def _counter() -> Any:
    import comfy.model_management
    import torch

    return getattr(torch, comfy.model_management.get_torch_device().type, None)


def synchronise() -> None:
    """Wait for the device, where it works beside Python."""
    wait = getattr(_counter(), "synchronize", None)
    if wait is not None:
        wait()


def peak() -> int | None:
    """Return the most bytes on the device in the last run, the MODEL's included; None where PyTorch does not count."""
    most = getattr(_counter(), "max_memory_allocated", None)
    return None if most is None else int(most())


def playground() -> Json:
    """Erase from the small model as a user does, until it is gone."""
    import folder_paths

    from commands.gpu_subjects import Subject
    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.files import load
    from esd_pack.nodes.host.run.erase import erase_model

    folder_paths.add_model_folder_path("checkpoints", str(CHECKPOINT.parent))
    loaded = load.load(CHECKPOINT.name)
    on = Subject(PLAYGROUND, loaded.model, loaded.clip, 64, "official-2026")
    settings, concepts = Settings(width=64, height=64), [make_concept(CONCEPT)]
    seconds = []
    for _ in range(2):  # the first warms up
        synchronise()
        start = time.perf_counter()
        erased = erase_model(loaded.model, loaded.clip, concepts, [], settings)
        synchronise()
        seconds.append(time.perf_counter() - start)
    row = measure(on, 0, 8)
    return {**row, "default_passes": erased.passes, "default_seconds": seconds[-1]}


def about() -> Json:
    """Return what is measured, and with what."""
    import comfy.model_management
    import torch

    from esd_pack.version import VERSION

    device = comfy.model_management.get_torch_device()
    return {
        "format": FORMAT,
        "pack": VERSION,
        "device": str(comfy.model_management.get_torch_device_name(device)),
        "memory": int(comfy.model_management.get_total_memory(device)),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "concept": CONCEPT,
    }


def rows(options: argparse.Namespace) -> Iterator[Json]:
    """Yield a row for each network and arm; the host runs in this process already."""
    import comfy.model_management
    import torch

    from commands.gpu_subjects import subjects

    with torch.inference_mode():  # as the host runs its nodes
        if options.shapes is None and options.checkpoint is None or PLAYGROUND in (options.shapes or ()):
            yield playground()
        options.shapes = options.shapes and [name for name in options.shapes if name != PLAYGROUND]
        made = subjects(options)
        while True:
            with torch.inference_mode(False):  # weights are ordinary tensors
                on = next(made, None)
            if on is None:
                return
            if isinstance(on, dict):
                yield on
                continue
            for rank in ARMS:
                yield measure(on, rank, options.steps)
            del on
            comfy.model_management.unload_all_models()


def line(row: Json) -> str:
    """Return a row of the table."""
    if "error" in row:
        rank = f", rank {row['rank']}" if row.get("rank") else ""
        return f"| {row['family']}{rank} | {row['error']} |"
    arm = f"rank {row['rank']}" if row["rank"] else "full"
    held = "not counted" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:.2f} GB"
    streamed = next((each.partition(": ")[2] for each in row["said"] if "will be streamed" in each), "")
    return (
        f"| {row['family']} | {arm} | {row['side']} px | {row['passes_per_second']:.2f} passes/s | {held} | "
        f"default {row['default_seconds']:.0f} s | {row['preset']} {row['published_seconds']:.0f} s | {streamed} |"
    )


def run(options: argparse.Namespace) -> int:
    """Measure, print the table, and write the JSON; the host runs in this process already."""
    target = options.json and options.json.absolute()
    found = about()
    print(f"{found['device']}, {found['memory'] / 2**30:.1f} GB, PyTorch {found['torch']}", flush=True)
    found["rows"] = []
    for row in rows(options):
        found["rows"].append(row)
        print(line(row), flush=True)
        if target is not None:
            target.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return 0


def main(words: Sequence[str] | None = None) -> int:
    """Start the host in this process, and measure."""
    options = parser().parse_args(words)
    options.json = options.json and options.json.absolute()  # the host changes the working folder
    options.checkpoint = options.checkpoint and options.checkpoint.absolute()
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        host = places.host_folder(options.comfyui, [])
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as base:
            inprocess.start(host, Path(base), cpu=options.cpu)
            return run(options)
    except (ServerError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
