"""Inputs of the nodes that draw a prompt set."""

from __future__ import annotations

from comfy_api.latest import io

from .host.images import sampling
from .schema import advanced
from .sockets import seed_input


def sampling_of_rows() -> list[io.Input]:
    """Return how many pictures a row has, and from which seeds."""
    return [
        io.Int.Input(
            "samples", default=1, min=1, max=1000, tooltip="Pictures of each row, each from a seed of its own."
        ),
        seed_input("For rows without a seed of their own: the first one's; each further picture takes the next."),
    ]


def drawing() -> list[io.Input]:
    """Return the widgets of a KSampler."""
    return [
        io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Sampling steps, as in KSampler."),
        io.Float.Input(
            "cfg", default=7.5, min=0.0, max=100.0, step=0.5, tooltip="Guidance, for rows without their own."
        ),
        io.Combo.Input(
            "sampler_name", options=sampling.samplers(), default="euler", tooltip="Sampler, as in KSampler."
        ),
        io.Combo.Input(
            "scheduler", options=sampling.schedulers(), default="normal", tooltip="Scheduler, as in KSampler."
        ),
        io.Int.Input("width", default=512, min=16, max=16384, step=8, tooltip="For rows without their own, in pixels."),
        io.Int.Input(
            "height", default=512, min=16, max=16384, step=8, tooltip="For rows without their own, in pixels."
        ),
    ]


def resuming() -> list[io.Input]:
    """Return whether pictures are kept, and which part of them is drawn here."""
    return [
        advanced(
            io.Boolean.Input,
            "resume",
            default=True,
            optional=True,
            tooltip="Keeps every picture and score in output/esd/evaluations, so that a stopped run goes on where it "
            "was, and models share the base's pictures.",
        ),
        advanced(
            io.Int.Input,
            "shard_number",
            default=1,
            min=1,
            max=1000,
            optional=True,
            tooltip="Which part of the pictures this run draws, where several runs or machines share the work.",
        ),
        advanced(
            io.Int.Input,
            "shards",
            default=1,
            min=1,
            max=1000,
            optional=True,
            tooltip="How many parts there are. Run once more with 1 to report on all that was kept.",
        ),
    ]
