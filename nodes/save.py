"""Save Erased Checkpoint and Save Erasure."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..esd.weights import ErasedWeights
from .host import saving
from .sockets import CATEGORY, Weights


class ESDSaveCheckpoint(io.ComfyNode):
    """A full checkpoint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="ESDSaveCheckpoint",
            display_name="ESD Save Erased Checkpoint",
            category=CATEGORY,
            description="Writes a full checkpoint that the stock Load Checkpoint opens, under the output folder.",
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The erased model."),
                io.Clip.Input("clip", tooltip="The text encoder to put into the file."),
                io.Vae.Input("vae", tooltip="The VAE to put into the file."),
                io.String.Input(
                    "filename_prefix",
                    default="checkpoints/erased",
                    tooltip="Name in the output folder, with sub-folders if you like. Files in checkpoints/ show up in "
                    "Load Checkpoint after a refresh (R).",
                ),
                Weights.Input(
                    "weights", optional=True, tooltip="Connect it to record concept, method and settings in the file."
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, filename_prefix: str, weights: ErasedWeights | None = None
    ) -> io.NodeOutput:
        """Write the file."""
        graph = saving.graph_metadata(cls.hidden.prompt, cls.hidden.extra_pnginfo)
        path = saving.save_checkpoint(filename_prefix, model, clip, vae, weights, graph)
        return io.NodeOutput(ui=saving.listing(path, f"Saved {path.name}"))


class ESDSaveErasure(io.ComfyNode):
    """The differences alone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="ESDSaveErasure",
            display_name="ESD Save Erasure",
            category=CATEGORY,
            description="Writes only what erasing changed, as a small file that the stock Load LoRA applies.",
            is_output_node=True,
            inputs=[
                Weights.Input("weights", tooltip="The weights output of Erase."),
                io.String.Input(
                    "filename_prefix",
                    default="loras/erasure",
                    tooltip="Name in the output folder. Files in loras/ show up in Load LoRA after a refresh (R).",
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
        )

    @classmethod
    def execute(cls, weights: ErasedWeights, filename_prefix: str) -> io.NodeOutput:
        """Write the file."""
        graph = saving.graph_metadata(cls.hidden.prompt, cls.hidden.extra_pnginfo)
        path = saving.save_erasure(filename_prefix, weights, graph)
        return io.NodeOutput(ui=saving.listing(path, f"Saved {path.name}"))
