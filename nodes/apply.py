"""Apply Erasure: the strength dial."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..esd.erasure import Erasure
from .host.model import apply as host
from .schema import finding
from .sockets import CATEGORY, Weights


class ESDApply(io.ComfyNode):
    """Weights onto a model, at a strength."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDApply",
            display_name="ESD Apply Erasure",
            category=CATEGORY,
            **finding("erasure strength", "unlearn strength", "ESD"),
            description="Adds an erasure to a MODEL at a strength. Changing the strength never trains again.",
            inputs=[
                io.Model.Input("model", tooltip="The original model, or another of the same family."),
                Weights.Input("weights", tooltip="The weights output of Erase or Load Erasure."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="0 is the original bit for bit, 1 is erased as trained; more pushes further, and "
                    "below 0 strengthens the concept.",
                ),
            ],
            outputs=[io.Model.Output("erased_model", display_name="MODEL", tooltip="A clone with the erasure added.")],
        )

    @classmethod
    def execute(cls, model: Any, weights: Erasure, strength: float) -> io.NodeOutput:
        """Patch a clone."""
        return io.NodeOutput(host.apply(model, weights, strength))
