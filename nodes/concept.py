"""Concept and Keep: what goes, and what must stay."""

from __future__ import annotations

from comfy_api.latest import io

from ..esd.concepts import Concept, make_concept
from ..esd.contexts import ContextRules, with_contexts
from .schema import ALIASES, finding
from .sockets import CATEGORY, Concepts, Contexts


class ESDConcept(io.ComfyNode):
    """One concept, appended to those before it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDConcept",
            display_name="ESD Concept",
            category=CATEGORY,
            **finding(*ALIASES),
            description="Names a concept to erase. Chain several to erase them in one run.",
            inputs=[
                io.String.Input(
                    "concept",
                    default="",
                    tooltip='The words that make the model draw what should go, such as "cat" or "ink style".',
                ),
                io.String.Input(
                    "erase_from",
                    default="",
                    tooltip="Optional: erase the concept only from this one (an attribute). Concept "
                    '"sunglasses" with erase from "face wearing sunglasses" leaves a bare face.',
                ),
                io.String.Input(
                    "replace_with",
                    default="",
                    tooltip='Optional: what the model should draw instead, such as "dog". Empty means nothing '
                    "in particular, which is ESD as published.",
                ),
                io.Float.Input(
                    "weight",
                    default=1.0,
                    min=0.01,
                    max=100.0,
                    step=0.1,
                    tooltip="Among several concepts: this one's share of the training examples. "
                    "Twice the weight is twice as many.",
                ),
                Concepts.Input("previous", optional=True, tooltip="Concepts to erase in the same run."),
                Contexts.Input(
                    "contexts", optional=True, tooltip="ESD Contexts, where those by kind are not the right ones."
                ),
            ],
            outputs=[Concepts.Output("concepts", display_name="concepts", tooltip="For Erase, or one more Concept.")],
        )

    @classmethod
    def execute(
        cls,
        concept: str,
        erase_from: str,
        replace_with: str,
        weight: float,
        previous: tuple[Concept, ...] = (),
        contexts: ContextRules | None = None,
    ) -> io.NodeOutput:
        """Append one concept."""
        made = make_concept(concept, erase_from, replace_with, weight)
        return io.NodeOutput((*previous, with_contexts(made, contexts) if contexts else made))
