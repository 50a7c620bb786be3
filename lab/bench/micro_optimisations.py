"""Whether known tricks help here: `python run.py bench micro_optimisations`.

Batched guidance (both prompts of a walk in one call) against two calls; channels-last activations, and weights as
well; torch.compile.  For each, the seconds of one level of a walk and of one training step, against the network as
it is, with the first call of a variant (where compilation happens) given apart.  Variants take turns; medians.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from _models import LATENTS, subject
from _playground_run import write_json
from _single_calls import Call, Probe

VARIANTS = ("as it is", "two calls", "channels-last activations", "channels-last", "compile")


@dataclass
class Variant:
    """A probe with a trick played on it, and what its calls took; `first` is the seconds before it ran smoothly."""

    probe: Probe
    cfg_trajectory: Callable[[], Call]
    first: float = 0.0
    walks: list[float] = field(default_factory=list)
    trains: list[float] = field(default_factory=list)


def variant(name: str, on: Any, latent: int, batch: int) -> Variant:
    """A fresh probe with one of the tricks."""
    probe = Probe(on, latent)
    network = probe.denoiser.network
    if name.startswith("channels-last"):
        network.register_forward_pre_hook(_channels_last)
    if name == "channels-last":
        network.to(memory_format=torch.channels_last)
        learner = probe.denoiser.learner
        learner.frozen = {n: m._parameters[leaf] for n, (m, leaf) in learner.slots.items()}
    if name == "compile":
        probe.denoiser.network = torch.compile(network)
    if name == "two calls":
        return Variant(probe, lambda: _twice(probe, batch))
    return Variant(probe, lambda: probe.cfg_trajectory(batch))


def _channels_last(network: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return inputs[0].contiguous(memory_format=torch.channels_last), *inputs[1:]


def _twice(probe: Probe, walks: int) -> Call:
    """The same level with a call for each prompt."""
    both = [probe.level(walks) for _ in range(2)]
    return Call(sum(each.seconds for each in both), max(each.bytes for each in both))


def compare(model: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The variants of one model, in turn."""
    latent = options.latent or LATENTS[model]
    on = subject(model, latent)
    found: dict[str, Variant] = {}
    rows = []
    for name in options.variants:
        made = found[name] = variant(name, on, latent, options.walks)
        made.first = made.cfg_trajectory().seconds + made.probe.train(options.batch).seconds
    for _ in range(options.repeats):
        for made in found.values():
            made.walks.append(made.cfg_trajectory().seconds)
            made.trains.append(made.probe.train(options.batch).seconds)
    plain = next(iter(found.values()))
    for name, made in found.items():
        level, step = statistics.median(made.walks), statistics.median(made.trains)
        rows.append(
            {
                "model": model,
                "latent": latent,
                "walks": options.walks,
                "variant": name,
                "seconds_first_calls": made.first,
                "seconds_walk_level": level,
                "seconds_training_step": step,
                "walk_ratio": level / statistics.median(plain.walks),
                "training_ratio": step / statistics.median(plain.trains),
                "repeats": options.repeats,
            }
        )
    return rows


def show(row: dict[str, Any]) -> str:
    """One line of the table."""
    cells = [row["model"], str(row["latent"]), row["variant"], f"{row['seconds_first_calls']:.1f}"]
    cells += [f"{row['seconds_walk_level']:.3f} ({row['walk_ratio']:.2f})"]
    cells += [f"{row['seconds_training_step']:.3f} ({row['training_ratio']:.2f})"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Try the variants on the models asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["playground"], choices=sorted(LATENTS))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--latent", type=int, default=0, help="side of the latent (0: the model's own)")
    parser.add_argument("--walks", type=int, default=1, help="trajectories at a time")
    parser.add_argument("--batch", type=int, default=1, help="training examples in a step")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print("| model | latent | variant | first calls, s | walk level, s | training step, s |\n|---|---|---|---|---|---|")
    for model in options.models:
        for row in compare(model, options):
            rows.append(row)
            print(show(row), flush=True)
    write_json(options.json, rows)


if __name__ == "__main__":
    main()
