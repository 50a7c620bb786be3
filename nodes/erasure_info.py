"""Erasure Info: what a file or a run holds."""

from __future__ import annotations

from comfy_api.latest import io

from ..esd.erasure import Erasure
from ..esd.report import describe, layer_norms
from .schema import finding, saying
from .sockets import CATEGORY, Weights
from .ui.charts import bar_chart


class ESDErasureInfo(io.ComfyNode):
    """Weights, in words and as a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDErasureInfo",
            display_name="ESD Erasure Info",
            category=CATEGORY,
            **finding("ESD info", "inspect erasure", "LoRA info"),
            **saying(),
            description="Shows what was erased, how, from which file, and how much each layer changed.",
            is_output_node=True,
            inputs=[Weights.Input("weights", tooltip="The weights output of Erase or Load Erasure.")],
            outputs=[
                io.String.Output("text", display_name="text", tooltip="Concepts, settings, base and sizes."),
                io.Image.Output("picture", display_name="picture", tooltip="The size of the change, a bar a layer."),
            ],
        )

    @classmethod
    def execute(cls, weights: Erasure) -> io.NodeOutput:
        """Describe and draw."""
        text = describe(weights)
        picture = bar_chart("Root mean square of the change by layer", layer_norms(weights))
        return io.NodeOutput(text, picture, ui={"text": [text]})
