"""Erase Settings: what most runs never touch."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..esd.settings import CHECKPOINTING, OPTIMIZERS, PRECISIONS, PRESETS, SOURCES
from ..esd.settings import Settings as RunSettings
from .erase import DEFAULT
from .schema import advanced, finding
from .sockets import CATEGORY, Settings


class ESDEraseSettings(io.ComfyNode):
    """Everything beside method, steps, learning rate, eta and seed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="ESDEraseSettings",
            display_name="ESD Erase Settings",
            category=CATEGORY,
            **finding("ESD settings", "unlearn settings"),
            description="Optional settings for Erase. Left out, every one has a good default.",
            inputs=[
                *_walk_inputs(),
                *_training_inputs(),
            ],
            outputs=[Settings.Output("settings_out", display_name="settings", tooltip="For the Erase node.")],
        )

    @classmethod
    def execute(cls, **fields: Any) -> io.NodeOutput:
        """Gather the fields."""
        return io.NodeOutput(RunSettings(**fields))


def _integer(name: str, low: int, high: int, tooltip: str, step: int = 1) -> io.Int.Input:
    return io.Int.Input(name, default=getattr(DEFAULT, name), min=low, max=high, step=step, tooltip=tooltip)


def _rare(name: str, low: int, high: int, tooltip: str) -> io.Input:
    return advanced(io.Int.Input, name, default=getattr(DEFAULT, name), min=low, max=high, tooltip=tooltip)


def _walk_inputs() -> list[io.Input]:
    """Where training points come from."""
    return [
        io.Combo.Input(
            "preset",
            options=["custom", *PRESETS],
            default="custom",
            tooltip="custom uses the fields below. default is ours; each other preset repeats a published run: it sets "
            "steps, learning rate and eta of the Erase node too, and wins over the fields below.",
        ),
        io.Combo.Input(
            "source",
            options=list(SOURCES),
            default=DEFAULT.source,
            tooltip="Who draws the training examples: the frozen base (fast: nothing is computed twice) or "
            "the student as it learns (the paper).",
        ),
        _integer("walk_steps", 1, 1000, "Steps of the walk from noise that examples are taken from."),
        io.Float.Input(
            "walk_guidance",
            default=DEFAULT.walk_guidance,
            min=0.0,
            max=100.0,
            step=0.5,
            tooltip="Classifier-free guidance of that walk; 0 means the family's own (SD1.x 3, SDXL 2).",
        ),
        _rare(
            "points_per_walk",
            1,
            1000,
            "How many levels of each walk become training points; 1 is as published.",
        ),
        advanced(
            io.Boolean.Input,
            "coarse_walks",
            default=DEFAULT.coarse_walks,
            tooltip="Walk straight from one training point's level to the next, so that nothing is computed "
            "in vain. Off goes through every step of the walk, as published.",
        ),
        _integer("walk_batch", 1, 256, "Walks computed side by side; more is faster on a GPU and takes memory."),
        _rare(
            "pool",
            0,
            1000000,
            "Training points made at a time and shuffled; 1 is as published. 0 means 200 with the "
            "base as source and 10 with the student, whose points age as it learns.",
        ),
        _rare("refresh", 0, 1000000, "Draws from a pool before it is made anew; 0 draws every point just once."),
    ]


def _training_inputs() -> list[io.Input]:
    """How the student learns."""
    return [
        _integer("batch_size", 1, 1024, "Training points in one network call of the student."),
        _rare("accumulate", 1, 1024, "Calls whose gradients are averaged before each optimiser step."),
        _integer("width", 0, 16384, "Width in pixels of the examples; 0 means the family's own size.", 8),
        _integer("height", 0, 16384, "Height in pixels of the examples; 0 means the family's own size.", 8),
        advanced(
            io.Combo.Input,
            "optimizer",
            options=list(OPTIMIZERS),
            default=DEFAULT.optimizer,
            tooltip="adamw (no weight decay) is the published one; adamw8bit needs bitsandbytes; adafactor "
            "takes the least memory.",
        ),
        advanced(
            io.Combo.Input,
            "checkpointing",
            options=list(CHECKPOINTING),
            default=DEFAULT.checkpointing,
            tooltip="Recompute activations instead of storing them: less memory, about a third slower. auto "
            "turns it on when memory asks for it.",
        ),
        advanced(
            io.Combo.Input,
            "precision",
            options=list(PRECISIONS),
            default=DEFAULT.precision,
            tooltip="Precision of the network while training. The trained weights and the loss are fp32 "
            "whatever you choose.",
        ),
        advanced(
            io.Boolean.Input,
            "deterministic",
            default=DEFAULT.deterministic,
            optional=True,
            tooltip="Use only GPU kernels that give the same bits again for the same inputs. Off may be faster. "
            "On a CPU it changes nothing.",
        ),
    ]
