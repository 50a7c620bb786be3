"""Keep: prompts whose pictures stay as they are."""

from __future__ import annotations

from comfy_api.latest import io

from ..esd.concepts import Keep, make_keep
from .schema import finding
from .sockets import CATEGORY, Keeps


class ESDKeep(io.ComfyNode):
    """Prompts that must look as before."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDKeep",
            display_name="ESD Keep",
            category=CATEGORY,
            **finding("preserve", "retain", "anchor concept", "ESD"),
            description="Prompts on which the erased model must go on matching the original. Costs time: as many "
            "training examples again.",
            inputs=[
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="",
                    tooltip="One prompt a line: the nearest neighbours of what is erased, such as other animals "
                    "beside a cat.",
                ),
                io.Float.Input(
                    "weight",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How much matching the original counts beside erasing. 0 switches it off; ESD as published "
                    "has none.",
                ),
                Keeps.Input("previous", optional=True, tooltip="More prompts to keep, with their own weight."),
            ],
            outputs=[Keeps.Output("keeps", display_name="keeps", tooltip="For the keep input of Erase.")],
        )

    @classmethod
    def execute(cls, prompts: str, weight: float, previous: tuple[Keep, ...] = ()) -> io.NodeOutput:
        """Append one list of prompts."""
        return io.NodeOutput((*previous, make_keep(prompts, weight)))
