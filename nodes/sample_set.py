"""Sample Set: the pictures of a prompt set, for another pack's tagger, detector or classifier."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..esd.evaluate.prompt_set import PromptSet
from .drawing_inputs import drawing, resuming, sampling_of_rows
from .host.files.kept_rows import KeptRows
from .host.images.evaluate import draw_all
from .host.images.sampling import SamplerChoice
from .host.images.shots import shard, shots_of
from .schema import finding
from .sockets import CATEGORY, Prompts, Rows


class ESDSampleSet(io.ComfyNode):
    """One MODEL, one prompt set, pictures one by one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDSampleSet",
            display_name="ESD Sample Set",
            category=CATEGORY,
            **finding("evaluate", "batch prompts", "tagger", "ESD"),
            description="Draws the pictures of a prompt set one by one, for any other node that says something of a "
            "picture. Score then counts what it says.",
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that draws: the erased one, or the base."),
                io.Clip.Input("clip", tooltip="The text encoder."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                Prompts.Input("prompts", tooltip="What is drawn: a Prompt Set."),
                *sampling_of_rows(),
                *drawing(),
                *resuming(),
            ],
            outputs=[
                io.Image.Output(
                    "pictures",
                    display_name="pictures",
                    is_output_list=True,
                    tooltip="One picture after the other, for the node that judges.",
                ),
                Rows.Output("rows", display_name="rows", tooltip="What was drawn, in the same order: for Score."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        prompts: PromptSet,
        samples: int,
        seed: int,
        resume: bool = True,
        shard_number: int = 1,
        shards: int = 1,
        **choice: Any,
    ) -> io.NodeOutput:
        """Draw."""
        shots = shard(shots_of(prompts, samples, SamplerChoice(seed, **choice)), shard_number, shards)
        drawn, pictures = draw_all(model, clip, vae, shots, KeptRows() if resume else None)
        return io.NodeOutput([picture[None].float() / 255.0 for picture in pictures], drawn)
