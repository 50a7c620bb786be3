"""Save Erased Checkpoint and Save Erasure."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..esd.weights import ErasedWeights
from .host import exports, provenance, saving
from .schema import advanced, finding, saying
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
                    options=list(saving.PRECISIONS),
                    default=saving.PRECISIONS[0],
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
        return saving.check_name(filename_prefix)

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        filename_prefix: str,
        weights: ErasedWeights | None = None,
        precision: str = saving.AS_SOURCE,
    ) -> io.NodeOutput:
        """Write the file."""
        graph = saving.graph_metadata(cls.hidden.prompt, cls.hidden.extra_pnginfo)
        source = provenance.whole_checkpoint(cls.hidden.prompt, cls.hidden.unique_id)
        parts = saving.Parts(model, clip, vae, source)
        path, text = saving.save_checkpoint(filename_prefix, parts, weights, graph, precision)
        return io.NodeOutput(ui=saving.listing(path, text))


class ESDSaveErasure(io.ComfyNode):
    """The erasure alone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
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
                    options=list(exports.FORMATS),
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
        return saving.check_name(filename_prefix)

    @classmethod
    def execute(
        cls,
        weights: ErasedWeights,
        filename_prefix: str,
        format: str = "difference",
        rank: int = 0,
        energy: float = 0.99,
        model: Any = None,
    ) -> io.NodeOutput:
        """Write the file."""
        graph = saving.graph_metadata(cls.hidden.prompt, cls.hidden.extra_pnginfo)
        export = exports.Export(weights, weights.metadata, model, rank, energy)
        path, text = saving.save_erasure(filename_prefix, export, graph, format)
        return io.NodeOutput(ui=saving.listing(path, text))
