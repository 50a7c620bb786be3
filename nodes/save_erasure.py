"""Save Erasure."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..esd.erasure import Erasure
from .host.files import export, save
from .schema import advanced, finding, saying
from .sockets import CATEGORY, Weights


class ESDSaveErasure(io.ComfyNode):
    """The erasure alone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDSaveErasure",
            display_name="ESD Save Erasure",
            category=CATEGORY,
            **finding("save ESD", "save LoRA", "save LECO", "export erasure"),
            **saying(),
            description="Writes the erasure alone: as a LoRA file, for the official code, or as a UNet for diffusers.",
            is_output_node=True,
            inputs=[
                Weights.Input("weights", tooltip="The weights output of Erase or Load Erasure."),
                io.String.Input(
                    "filename_prefix",
                    default="loras/erasure",
                    tooltip="Name in the output folder. Files in loras/ show up in Load LoRA, and files in loras/ and "
                    "esd/ in Load Erasure, after a refresh (R).",
                ),
                io.Combo.Input(
                    "format",
                    options=list(export.FORMATS),
                    default="difference",
                    optional=True,
                    tooltip="difference: everything that changed, for the stock Load LoRA. lora: smaller, approximate, "
                    "for any program that reads LoRAs. official: for the loader of the official ESD code. diffusers "
                    "unet: a folder with the whole erased UNet.",
                ),
                advanced(
                    io.Int.Input,
                    "rank",
                    default=0,
                    min=0,
                    max=4096,
                    optional=True,
                    tooltip="For lora: the rank of every layer. 0 chooses each layer's rank by energy.",
                ),
                advanced(
                    io.Float.Input,
                    "energy",
                    default=0.99,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="For lora with rank 0: the share of the change (squared) that each layer must keep.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="For official and diffusers unet, which hold absolute values: the MODEL that went into "
                    "Erase, without this erasure.",
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None) -> bool | str:
        """Refuse a bad file name before anything runs."""
        return save.check_name(filename_prefix)

    @classmethod
    def execute(
        cls,
        weights: Erasure,
        filename_prefix: str,
        format: str = "difference",
        rank: int = 0,
        energy: float = 0.99,
        model: Any = None,
    ) -> io.NodeOutput:
        """Write the file."""
        embedded = save.graph_metadata(cls.hidden.prompt, cls.hidden.extra_pnginfo)
        wanted = export.Export(weights, weights.metadata, model, rank, energy)
        path, text = save.save_erasure(filename_prefix, wanted, embedded, format)
        return io.NodeOutput(ui=save.listing(path, text))
