"""Before / After: the same prompts and seeds through two models."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .grid import labelled_grid
from .host import sampling
from .sockets import CATEGORY


class ESDBeforeAfter(io.ComfyNode):
    """Two models, one grid."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="ESDBeforeAfter",
            display_name="ESD Before / After",
            category=CATEGORY,
            description="Draws every prompt with both models from the same seeds, as one labelled picture.",
            inputs=[
                io.Model.Input("model_before", tooltip="The original model."),
                io.Model.Input("model_after", tooltip="The erased model."),
                io.Clip.Input("clip", tooltip="The text encoder for both."),
                io.Vae.Input("vae", tooltip="The VAE for both."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="",
                    tooltip="One prompt a line: what was erased, and what should look as before. A line may repeat.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,
                    tooltip="The first line's seed; each further line takes the next.",
                ),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Sampling steps, as in KSampler."),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.5, tooltip="Guidance, as in KSampler."),
                io.Combo.Input(
                    "sampler_name", options=sampling.samplers(), default="euler", tooltip="Sampler, as in KSampler."
                ),
                io.Combo.Input(
                    "scheduler", options=sampling.schedulers(), default="normal", tooltip="Scheduler, as in KSampler."
                ),
                io.Int.Input("width", default=512, min=16, max=16384, step=8, tooltip="Width in pixels."),
                io.Int.Input("height", default=512, min=16, max=16384, step=8, tooltip="Height in pixels."),
            ],
            outputs=[
                io.Image.Output("comparison", display_name="comparison", tooltip="One labelled picture of all."),
                io.Image.Output("images_before", display_name="before", tooltip="A batch, one picture a prompt."),
                io.Image.Output("images_after", display_name="after", tooltip="A batch, one picture a prompt."),
            ],
        )

    @classmethod
    def execute(
        cls, model_before: Any, model_after: Any, clip: Any, vae: Any, prompts: str, **choice: Any
    ) -> io.NodeOutput:
        """Draw both rows."""
        lines = sampling.prompt_lines(prompts)
        chosen = sampling.SamplerChoice(**choice)
        before, after = (sampling.draw(m, clip, vae, lines, chosen) for m in (model_before, model_after))
        return io.NodeOutput(labelled_grid(lines, {"before": before, "after": after}), before, after)
