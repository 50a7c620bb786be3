"""Unified Concept Editing: a second eraser of the same weights, in one solve and without training."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..esd.concepts import Concept, Keep
from ..esd.unified_concept_editing import RIDGE
from .host.model.apply import apply
from .host.model.unified_concept_editing import unified_concept_editing
from .schema import advanced, finding
from .sockets import CATEGORY, Concepts, Keeps, Weights


class ESDUnifiedConceptEditing(io.ComfyNode):
    """Concepts and keeps to an edited MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDUnifiedConceptEditing",
            display_name="ESD Unified Concept Editing",
            category=CATEGORY,
            **finding("UCE", "closed form", "unlearn", "ESD baseline"),
            description="Erases by one closed-form edit of text attention (UCE, WACV 2024), in seconds: a baseline to "
            "compare an erasure with.",
            inputs=[
                io.Model.Input("model", tooltip="Any SD1.x, SD2.x or SDXL MODEL; it stays as it is."),
                io.Clip.Input("clip", tooltip="The text encoder that belongs to the model."),
                Concepts.Input("concepts", tooltip="What to erase; replace_with says what its words mean then."),
                Keeps.Input("keep", optional=True, tooltip="Prompts whose words must mean what they did."),
                advanced(
                    io.Float.Input,
                    "ridge",
                    default=RIDGE,
                    min=0.001,
                    max=1000000.0,
                    step=0.1,
                    tooltip="How strongly everything else is held: more keeps neighbours and erases less.",
                ),
            ],
            outputs=[
                io.Model.Output("edited_model", display_name="MODEL", tooltip="A clone with the edit in it."),
                Weights.Output("weights", display_name="weights", tooltip="The edit, for Save and Apply Erasure."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, concepts: tuple[Concept, ...], ridge: float, keep: tuple[Keep, ...] = ()
    ) -> io.NodeOutput:
        """Solve, and patch a clone."""
        with torch.inference_mode(False), torch.no_grad():
            weights = unified_concept_editing(model, clip, concepts, keep, ridge)
        return io.NodeOutput(apply(model, weights, 1.0), weights)
