"""Judges: what says whether a picture shows a label."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.images.judges import BaseModelJudge, playground_judge
from .schema import finding
from .sockets import CATEGORY, JudgeSocket, seed_input


class ESDJudgeBaseModel(io.ComfyNode):
    """The base model itself."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDJudgeBaseModel",
            display_name="ESD Judge: Base Model",
            category=CATEGORY,
            **finding("classifier", "diffusion classifier", "evaluate", "ESD"),
            description="Judges pictures by which label the base model explains them best. Needs no download and works "
            "for any concept that the base knows.",
            inputs=[
                io.Model.Input("base_model", tooltip="The MODEL before the erasure."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its VAE, which turns pictures into latents."),
                seed_input("The seed of the noise that pictures are judged under."),
            ],
            outputs=[JudgeSocket.Output("judge", display_name="judge", tooltip="For Evaluate.")],
        )

    @classmethod
    def execute(cls, base_model: Any, clip: Any, vae: Any, seed: int) -> io.NodeOutput:
        """Make the judge; it works when Evaluate asks."""
        return io.NodeOutput(BaseModelJudge(base_model, clip, vae, seed))


class ESDJudgePlayground(io.ComfyNode):
    """The small network that ships with the playground."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define outputs; there is nothing to choose."""
        return io.Schema(
            node_id="ESDJudgePlayground",
            display_name="ESD Judge: Playground",
            category=CATEGORY,
            **finding("classifier", "evaluate", "emoji-world", "ESD"),
            description="Judges 64 x 64 pictures of the playground checkpoint by the small network that ships with it.",
            inputs=[],
            outputs=[JudgeSocket.Output("judge", display_name="judge", tooltip="For Evaluate.")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Load the judge."""
        return io.NodeOutput(playground_judge())
