"""Measure: what a MODEL still predicts of a concept, beside its base, in seconds."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..esd.concepts import Concept, Keep
from ..esd.evaluate.report import Report, to_text
from .host.model.measure import MeasureChoice, measure_models
from .schema import advanced, family_size, finding, saying
from .sockets import CATEGORY, EvaluationReport, Keeps, erased_concepts, model_and_base, seed_input
from .ui.evaluation import heat_strip


class ESDMeasure(io.ComfyNode):
    """The numbers inside the model, without pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDMeasure",
            display_name="ESD Measure",
            category=CATEGORY,
            **finding("evaluate", "residual", "erasure score", "ESD"),
            **saying(),
            description="Measures in seconds what a MODEL still predicts of a concept, and how far it drifted "
            "elsewhere, without drawing a picture.",
            is_output_node=True,
            inputs=[*_what(), *_how()],
            outputs=[
                EvaluationReport.Output("report", display_name="report", tooltip="All figures, by noise level."),
                io.Float.Output(
                    "residual",
                    display_name="residual",
                    tooltip="What is left of the concept: 1 untouched, 0 gone. Of several the largest.",
                ),
                io.Float.Output(
                    "drift",
                    display_name="drift",
                    tooltip="How far keep prompts moved, 0 untouched. The largest; NaN without keeps.",
                ),
                io.Image.Output("picture", display_name="picture", tooltip="The residual by noise level."),
                io.String.Output("text", display_name="text", tooltip="The figures in lines."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        base_model: Any,
        clip: Any,
        concepts: tuple[Concept, ...],
        trajectories: int,
        seed: int,
        steps: int,
        width: int,
        height: int,
        keep: tuple[Keep, ...] = (),
    ) -> io.NodeOutput:
        """Measure, and show."""
        choice = MeasureChoice(trajectories, steps, seed, width, height)
        found = measure_models(model, base_model, clip, concepts, keep, choice)
        about = (("trajectories", str(trajectories)), ("steps", str(steps)), ("first seed", str(seed)))
        report = Report("ESD Measure", about, concepts=found.concepts, keeps=found.keeps)
        residual = max(each.residual for each in found.concepts)
        drift = max((each.drift for each in found.keeps), default=float("nan"))
        rows = {each.prompt: list(zip(each.sigmas, each.residuals, strict=True)) for each in found.concepts}
        picture = heat_strip("Residual by noise level: 1 untouched, 0 gone", rows)
        text = to_text(report)
        return io.NodeOutput(report, residual, drift, picture, text, ui={"text": [text]})


def _what() -> list[io.Input]:
    """Return what is measured against what."""
    return [
        *model_and_base(),
        io.Clip.Input("clip", tooltip="The text encoder for both."),
        erased_concepts(),
        Keeps.Input("keep", optional=True, tooltip="Prompts that should be as before (Keep nodes)."),
    ]


def _how() -> list[io.Input]:
    """Return on how many trajectories, and which."""
    return [
        io.Int.Input(
            "trajectories",
            default=2,
            min=1,
            max=64,
            tooltip="Of each prompt, each from noise of its own; figures are means over them.",
        ),
        seed_input("The first trajectory's seed; each further one takes the next."),
        advanced(
            io.Int.Input,
            "steps",
            default=50,
            min=2,
            max=1000,
            tooltip="The grid of noise levels, of which six are measured.",
        ),
        *family_size(),
    ]
