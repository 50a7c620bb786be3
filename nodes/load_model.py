"""Load Model: a checkpoint that is known to be erasable."""

from __future__ import annotations

from comfy_api.latest import io

from .host.files import load
from .schema import finding, saying
from .sockets import CATEGORY


class ESDLoadModel(io.ComfyNode):
    """A checkpoint through the host's loader, refused early where it cannot be erased."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDLoadModel",
            display_name="ESD Load Model",
            category=CATEGORY,
            **finding("load checkpoint", "ESD"),
            **saying(),
            description="Loads a checkpoint, says which model family it is, and refuses what ESD cannot erase.",
            inputs=[
                io.Combo.Input(
                    "ckpt_name",
                    options=load.checkpoints(),
                    tooltip="A checkpoint from models/checkpoints (SD1.x, SD2.x, SDXL, or SD3 as an experiment).",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The diffusion model, as the stock loader gives it."),
                io.Clip.Output(display_name="CLIP", tooltip="The text encoder of the checkpoint."),
                io.Vae.Output(display_name="VAE", tooltip="The image encoder and decoder of the checkpoint."),
            ],
        )

    @classmethod
    def execute(cls, ckpt_name: str) -> io.NodeOutput:
        """Load, and show the family."""
        loaded = load.load(ckpt_name)
        return io.NodeOutput(loaded.model, loaded.clip, loaded.vae, ui={"text": [loaded.summary]})
