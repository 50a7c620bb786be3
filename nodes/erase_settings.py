"""Erase Settings: what most runs never touch."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..esd.presets import CUSTOM, PRESETS
from ..esd.settings import FIELDS
from ..esd.settings import Settings as RunSettings
from .schema import finding, setting_input
from .sockets import CATEGORY, Settings

WIDGETS = (
    "sampler_model",
    "num_inference_steps",
    "guidance_scale",
    "samples_per_trajectory",
    "strided",
    "trajectory_batch",
    "buffer_size",
    "draws_per_buffer",
    "batch_size",
    "gradient_accumulation_steps",
    "width",
    "height",
    "optimizer",
    "gradient_checkpointing",
    "precision",
    "deterministic",
    "contexts",
    "training_guidance",
    "rank",
    "closed_form",
)
"""The settings of this node, in the order of their widgets."""

SINCE = {"deterministic", "contexts", "training_guidance", "rank", "closed_form"}
"""Widgets that graphs of version 0.1.0 do not have, and that they may leave out."""


class ESDEraseSettings(io.ComfyNode):
    """Everything beside method, steps, learning rate, eta and seed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDEraseSettings",
            display_name="ESD Erase Settings",
            category=CATEGORY,
            **finding("ESD settings", "unlearn settings"),
            description="Optional settings for Erase. Left out, every one has a good default.",
            inputs=[
                _preset_input(),
                *(setting_input(name, optional=name in SINCE) for name in WIDGETS),
            ],
            outputs=[Settings.Output("settings_out", display_name="settings", tooltip="For the Erase node.")],
        )

    @classmethod
    def execute(cls, **fields: Any) -> io.NodeOutput:
        """Gather the fields."""
        return io.NodeOutput(RunSettings(**fields))


def _preset_input() -> io.Input:
    """Make the list of presets, with their values, from which the page fills in the widgets."""
    made = io.Combo.Input("preset", options=[CUSTOM, *PRESETS], default=CUSTOM, tooltip=FIELDS["preset"].tooltip)
    made.extra_dict = {**made.extra_dict, "presets": PRESETS}  # which no maker of 0.3.75 takes
    return made
