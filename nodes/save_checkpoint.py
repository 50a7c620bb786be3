"""Save Erased Checkpoint."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..esd.erasure import Erasure
from .host.files import graph, save
from .schema import advanced, finding, saying
from .sockets import CATEGORY, Weights


class ESDSaveCheckpoint(io.ComfyNode):
    """A full checkpoint."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDSaveCheckpoint",
            display_name="ESD Save Erased Checkpoint",
            category=CATEGORY,
            **finding("save model", "save unlearned model", "ESD"),
            **saying(),
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
                advanced(
                    io.Combo.Input,
                    "precision",
                    options=list(save.PRECISIONS),
                    default=save.PRECISIONS[0],
                    optional=True,
                    tooltip="as source: the precision of the file you loaded, untouched tensors byte for byte, changed "
                    "ones computed in fp32 and rounded once (an fp16 file then draws almost, not exactly, as the MODEL "
                    "here). as loaded: every weight as it is in memory; on the CPU the saved file draws bit for bit "
                    "the same pictures.",
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None) -> bool | str:
        """Refuse a bad file name before anything runs."""
        return save.check_name(filename_prefix)

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        filename_prefix: str,
        weights: Erasure | None = None,
        precision: str = save.AS_SOURCE,
    ) -> io.NodeOutput:
        """Write the file."""
        embedded = save.graph_metadata(cls.hidden.prompt, cls.hidden.extra_pnginfo)
        source = graph.whole_checkpoint(cls.hidden.prompt, cls.hidden.unique_id)
        parts = save.Parts(model, clip, vae, source)
        path, text = save.save_checkpoint(filename_prefix, parts, weights, embedded, precision)
        return io.NodeOutput(ui=save.listing(path, text))
