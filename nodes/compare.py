"""Before / After: the same prompts and seeds through two models, or through one at several strengths."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..esd.erasure import Erasure
from ..esd.errors import EsdError
from .host.images import compare, sampling
from .schema import advanced, finding
from .sockets import CATEGORY, Weights, seed_input
from .ui.grid import Column, Row, difference, labelled_grid


class ESDBeforeAfter(io.ComfyNode):
    """Two models or more, one grid."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs; what came later is optional, so that older graphs run as they are."""
        return io.Schema(
            node_id="ESDBeforeAfter",
            display_name="ESD Before / After",
            category=CATEGORY,
            **finding("compare models", "comparison grid", "xy plot", "ESD"),
            description="Draws every prompt before and after from the same seeds, at several strengths if you like, as "
            "one labelled picture.",
            inputs=[
                io.Model.Input("model_before", tooltip="The original model."),
                io.Model.Input(
                    "model_after",
                    optional=True,
                    tooltip="The erased model, or any other of the family: the last row. Not needed with weights.",
                ),
                io.Clip.Input("clip", tooltip="The text encoder for all rows."),
                io.Vae.Input("vae", tooltip="The VAE for all rows."),
                *_what(),
                *_how(),
                *_more(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def validate_inputs(cls, prompts: str | None, strengths: str | None = compare.FULL_STRENGTH) -> bool | str:
        """Refuse what cannot be drawn before anything is trained for it; what is linked is not known yet."""
        try:
            if prompts is not None:
                sampling.prompt_lines(prompts)
            if strengths is not None:
                compare.strengths_of(strengths)
        except EsdError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        model_before: Any,
        clip: Any,
        vae: Any,
        prompts: str,
        seed: int,
        model_after: Any = None,
        weights: Erasure | None = None,
        seeds_per_prompt: int = 1,
        strengths: str = compare.FULL_STRENGTH,
        difference_gain: float = 0.0,
        **choice: Any,
    ) -> io.NodeOutput:
        """Draw all rows."""
        samples = sampling.samples_of(sampling.prompt_lines(prompts), seed, seeds_per_prompt)
        models = compare.models_to_compare(model_before, model_after, weights, strengths)
        drawn = sampling.draw_rows(models, clip, vae, samples, sampling.SamplerChoice(seed, **choice))
        rows = [Row(label, pictures) for label, pictures in drawn.items()]
        before, after = rows[0].pictures, rows[-1].pictures
        if difference_gain:
            rows.append(difference(before, after, difference_gain))
        columns = [Column(sample.prompt, sample.seed) for sample in samples]
        return io.NodeOutput(labelled_grid(columns, rows, seeds_per_prompt), before, after)


def _what() -> list[io.Input]:
    """Which pictures."""
    return [
        io.String.Input(
            "prompts",
            multiline=True,
            default="",
            tooltip="One prompt a line: what was erased, and what should look as before. A line may repeat.",
        ),
        seed_input("The first picture's seed; each further picture takes the next."),
    ]


def _how() -> list[io.Input]:
    """Return the widgets of a KSampler."""
    return [
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
    ]


def _more() -> list[io.Input]:
    """Sweeps and differences."""
    return [
        Weights.Input(
            "weights",
            optional=True,
            tooltip="The weights of Erase or Load Erasure: draws model_before with them at each of the strengths.",
        ),
        io.Int.Input(
            "seeds_per_prompt",
            default=1,
            min=1,
            max=64,
            optional=True,
            tooltip="Pictures of each prompt, each from a seed of its own. 3 to 8 show what is chance and what is not.",
        ),
        io.String.Input(
            "strengths",
            default=compare.FULL_STRENGTH,
            optional=True,
            tooltip="A row for each strength of the weights, with commas between: 0, 0.25, 0.5, 0.75, 1. 0 is the "
            "original, 1 is erased as trained. Needs weights; from -10 to 10, at most 16.",
        ),
        advanced(
            io.Float.Input,
            "difference_gain",
            default=0.0,
            min=0.0,
            max=100.0,
            step=0.5,
            optional=True,
            tooltip="Adds a row that shows where the last row differs from the first, times this factor; 2 to 8 make "
            "faint changes visible. 0 leaves it out.",
        ),
    ]


def _outputs() -> list[io.Output]:
    """Return the picture, and the two batches that an image comparer takes."""
    comparer = "for Image Compare of newer versions of ComfyUI and the like."
    return [
        io.Image.Output("comparison", display_name="comparison", tooltip="One labelled picture of all."),
        io.Image.Output("images_before", display_name="before", tooltip=f"A batch of the first row, {comparer}"),
        io.Image.Output("images_after", display_name="after", tooltip=f"A batch of the last row, {comparer}"),
    ]
