"""Time and memory against resolution, batch, number of concepts and points: `python run.py bench scaling`.

`calls` are single network calls (one level of a walk, one training step) at three resolutions and several batches,
with and without checkpointing, beside what the node foretells of them (nodes/host/rehearsal.py).
`concepts`, `points`, `batch` and `walks` are whole runs on the playground.  Repeats alternate; medians are given.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from _meter import Meter, PeakMemory
from _models import subject
from _playground_run import FIXED, SIZE, Playground, write_json
from _single_calls import Probe

PARTS = ("calls", "concepts", "points", "batch", "walks")


def calls(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Each resolution without and with checkpointing at one sample, then batches at the smallest resolution."""
    on = subject(options.model, 0)
    from esd_pack.nodes.host.model.rehearsal import sampling_bytes, training_bytes

    cases = [(latent, 1, 1, on_off) for latent in options.latents for on_off in (False, True)]
    least = min(options.latents)
    cases += [(least, batch, batch, on_off) for batch in options.batches for on_off in (False, True)]
    for latent, walks, batch, gradient_checkpointing in cases:
        probe = Probe(on, latent, gradient_checkpointing)
        cfg_trajectory, train = probe.cfg_trajectory(walks), probe.train(batch)
        yield {
            "part": "calls",
            "model": options.model,
            "latent": latent,
            "batch": batch,
            "gradient_checkpointing": gradient_checkpointing,
            "seconds_walk_level": cfg_trajectory.seconds,
            "seconds_training_step": train.seconds,
            "walk_bytes": cfg_trajectory.bytes,
            "training_bytes": train.bytes,
            "walk_foretold": sampling_bytes(probe.stage, 2 * walks),
            "training_foretold": training_bytes(probe.stage, batch, gradient_checkpointing),
        }


def run_cases(part: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What varies in a part: the number of concepts and the settings."""
    points = options.points
    return {
        "concepts": [{"concepts": n, "steps": points} for n in (1, 4, 16)],
        "points": [{"steps": max(1, points * n // 8)} for n in (1, 4, 8)],
        "batch": [{"batch_size": n, "steps": max(1, points // n)} for n in (1, 2, 4, 8)],
        "walks": [{"trajectory_batch": n, "steps": points} for n in (1, 2, 4, 8)],
    }[part]


def whole(world: Playground, case: dict[str, Any], seed: int) -> dict[str, float]:
    """One run of the node on the playground: its figures for a point, text encoding and planning included."""
    from esd_pack.commands.playground.world import OBJECTS
    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.settings import Settings

    change = dict(case)
    concepts = [make_concept(name) for name in OBJECTS[: change.pop("concepts", 1)]]
    settings = replace(Settings(**SIZE, **FIXED), seed=seed, **change)
    meter, original = Meter(), world.erasing.make_denoiser

    def watched(*arguments: Any) -> Any:
        denoiser = original(*arguments)
        meter.attach(denoiser.network)
        return denoiser

    world.erasing.make_denoiser = watched
    try:
        with PeakMemory() as memory, meter.backwards():
            _, seconds = world.erase(concepts, [], settings, on_step=lambda step: False)
    finally:
        world.erasing.make_denoiser = original
    points = settings.examples
    return {
        "seconds_per_point": seconds / points,
        "passes_per_point": meter.passes / points,
        "peak_bytes_above_model": memory.bytes,
        "outside_network": max(0.0, 1 - meter.inside / seconds),
    }


def runs(part: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The cases of a part, each as often as asked, in turn."""
    world, cases = Playground(), run_cases(part, options)
    found: list[list[dict[str, float]]] = [[] for _ in cases]
    for seed in range(options.repeats):
        for case, figures in zip(cases, found, strict=True):
            figures.append(whole(world, case, seed))
    for case, figures in zip(cases, found, strict=True):
        middle = {name: statistics.median(each[name] for each in figures) for name in figures[0]}
        yield {"part": part, **case, **middle, "repeats": len(figures)}


def show(row: dict[str, Any]) -> str:
    """A row in words: every part has its own columns."""
    return "| " + " | ".join(f"{name} {_short(name, value)}" for name, value in row.items()) + " |"


def _short(name: str, value: Any) -> str:
    if "bytes" in name:
        return f"{value / 2**30:.3f} GB"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Measure the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--model", default="sd15", choices=["playground", "sd15", "sdxl"], help="of the single calls")
    parser.add_argument("--latents", nargs="+", type=int, default=[32, 64, 96], help="resolutions of the single calls")
    parser.add_argument("--batches", nargs="*", type=int, default=[2, 4], help="batches at the smallest of these")
    parser.add_argument("--points", type=int, default=160, help="training examples of a whole run")
    parser.add_argument("--repeats", type=int, default=3, help="of each whole run")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    rows = []
    for part in options.parts:
        for row in calls(options) if part == "calls" else runs(part, options):
            rows.append(row)
            print(show(row), flush=True)
            write_json(options.json, rows)


if __name__ == "__main__":
    main()
