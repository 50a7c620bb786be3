"""Contexts: the prompts in which a concept is trained beside its own words."""

from __future__ import annotations

from comfy_api.latest import io

from ..esd.contexts import KINDS, make_rules
from .schema import finding
from .sockets import CATEGORY, Contexts


class ESDContexts(io.ComfyNode):
    """How contexts are made, for a Concept."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDContexts",
            display_name="ESD Contexts",
            category=CATEGORY,
            **finding("carriers", "templates", "synonyms", "paraphrases"),
            description="Prompts in which a concept is trained beside its own words, so that it also goes there. "
            "Without this node the kind of the concept is guessed from its words.",
            inputs=[
                io.Combo.Input(
                    "kind",
                    options=["auto", *KINDS],
                    default="auto",
                    tooltip="What the concept is, where templates are empty. object: phrases around it. style: things "
                    "that carry it. attribute: phrases around the whole prompt. auto guesses from the words.",
                ),
                io.String.Input(
                    "templates",
                    default="",
                    multiline=True,
                    tooltip="Prompts with [concept] where the concept goes, one a line; [carrier] stands for each "
                    'carrier in turn, as in "[carrier] in [concept]". Empty takes those of the kind.',
                ),
                io.String.Input(
                    "carriers",
                    default="",
                    multiline=True,
                    tooltip="Things that the model draws well and that should stay, one a line, for [carrier]. "
                    "Empty takes eight plain ones.",
                ),
            ],
            outputs=[Contexts.Output("contexts", display_name="contexts", tooltip="For the Concept node.")],
        )

    @classmethod
    def execute(cls, kind: str, templates: str, carriers: str) -> io.NodeOutput:
        """Check the lines."""
        return io.NodeOutput(make_rules(kind, templates, carriers))
