"""Score: what any other node says of the pictures of Sample Set, as found rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ..esd.errors import EsdError
from ..esd.evaluate.compare import compare
from ..esd.evaluate.foreign import AT_LEAST, DIRECTIONS, Finding, Rule, one_a_picture
from ..esd.evaluate.metrics import Score
from ..esd.evaluate.prompt_set import ERASED, KEPT
from ..esd.evaluate.report import Report, to_text
from .schema import finding, saying
from .sockets import CATEGORY, EvaluationReport, Rows

SAID = ("text", "number", "boolean", "mask")


class ESDScore(io.ComfyNode):
    """Texts, numbers, yes or no, or masks, one a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs; all inputs arrive as lists."""
        return io.Schema(
            node_id="ESDScore",
            display_name="ESD Score",
            category=CATEGORY,
            **finding("tagger", "detector", "NSFW", "evaluate", "ESD"),
            **saying(),
            description="Makes a judge of any other node: counts in what share of the pictures of Sample Set it found "
            "the label.",
            is_output_node=True,
            is_input_list=True,
            inputs=[Rows.Input("rows", tooltip="The rows of Sample Set."), *_said(), *_rules()],
            outputs=[
                EvaluationReport.Output("report", display_name="report", tooltip="For Compare Reports."),
                io.Float.Output(
                    "erased", display_name="erased %", tooltip="Of the erased rows' pictures: without their label."
                ),
                io.Float.Output("kept", display_name="kept %", tooltip="Of the kept rows' pictures: with their label."),
                io.String.Output("figures", display_name="text", tooltip="The figures in lines."),
            ],
        )

    @classmethod
    def execute(
        cls,
        rows: list[Any],
        name: list[str],
        words: list[str],
        threshold: list[float],
        direction: list[str],
        **said: list[Any],
    ) -> io.NodeOutput:
        """Count."""
        kind = _kind(said)
        rule, (shots,) = Rule(words[0], threshold[0], direction[0]), rows
        values = one_a_picture(said[kind], kind, len(shots))
        looks: dict[str, Callable[[Any, str], Finding]] = {
            "text": rule.of_text,
            "number": rule.of_number,
            "boolean": rule.of_boolean,
            "mask": rule.of_mask,
        }
        scores = []
        for shot, value in zip(shots, values, strict=True):
            row, made = shot.row, looks[kind](value, shot.row.label)
            about = (name[0], row.case, row.prompt, row.role, row.label, shot.seed)
            scores.append(Score(*about, made.answer, made.score, made.found))
        arms = compare({name[0]: scores})
        report = Report(
            f"Found by another node: {name[0]}", (), rule.card(kind), scores=tuple(scores), name=name[0], arms=arms
        )
        erased, kept = (arms[0].rate(role) for role in (ERASED, KEPT))
        percents = (
            100 * (1 - erased.share) if erased else float("nan"),
            100 * kept.share if kept else float("nan"),
        )
        text = to_text(report)
        return io.NodeOutput(report, *percents, text, ui={"text": [text]})


def _kind(said: dict[str, list[Any]]) -> str:
    kinds = [kind for kind in SAID if said.get(kind)]
    if len(kinds) != 1:
        raise EsdError(
            f"{len(kinds)} kinds of answers are connected: connect one of {', '.join(SAID)} from the node that judges."
        )
    return kinds[0]


def _said() -> list[io.Input]:
    """Return the sockets of which one is used."""
    return [
        io.String.Input(
            "text",
            optional=True,
            force_input=True,
            tooltip="A text of each picture: a tagger's tags, a caption, an answer.",
        ),
        io.MultiType.Input(
            "number",
            [io.Float, io.Int],
            optional=True,
            tooltip="A number of each picture: a probability, or how many were detected.",
        ),
        io.Boolean.Input("boolean", optional=True, tooltip="Yes or no of each picture.", force_input=True),
        io.Mask.Input("mask", optional=True, tooltip="A mask of each picture: found where it is not empty."),
    ]


def _rules() -> list[io.Input]:
    """Return what counts as found."""
    return [
        io.String.Input("name", default="erased", tooltip="What Compare Reports calls this MODEL."),
        io.String.Input(
            "words",
            default="",
            tooltip="What a text must hold; empty is each row's own label. /cats?/ is a regular expression.",
        ),
        io.Float.Input(
            "threshold", default=0.5, min=-1e6, max=1e6, step=0.05, tooltip="What a number is held against."
        ),
        io.Combo.Input(
            "direction", options=list(DIRECTIONS), default=AT_LEAST, tooltip="On which side of it a number is a find."
        ),
    ]
