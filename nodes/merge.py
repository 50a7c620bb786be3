"""Merge Erasures: several into one."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..esd.concepts import Keep, kept_prompts
from ..esd.erasure import Erasure
from ..esd.merge import DEFAULT, MODES, merge
from .host.model.text_tokens import tokens_of
from .schema import finding, growing
from .sockets import CATEGORY, Erasures, Keeps, Weights

NAMED = range(2, 5)
"""The numbers of the sockets that every host shows, beside the first."""

GROWN = range(5, 17)
"""The numbers of those that newer pages add as the ones before are connected."""


class ESDMergeErasures(io.ComfyNode):
    """Up to four erasures (sixteen where the host has inputs that grow), and those of the Merge nodes before it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDMergeErasures",
            display_name="ESD Merge Erasures",
            category=CATEGORY,
            **finding("combine erasures", "add erasures", "merge LoRA", "ESD"),
            description="Makes one erasure of several that were trained from the same model, without training.",
            inputs=[
                Weights.Input("weights", tooltip="The weights output of Erase or Load Erasure."),
                *(
                    Weights.Input(f"weights_{number}", optional=True, tooltip="One more erasure of the same model.")
                    for number in NAMED
                ),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default=DEFAULT,
                    optional=True,
                    tooltip="by prompts: each erasure acts on its own concept's prompts, and other prompts stay as "
                    "they are; needs clip, for SD1.x, SD2.x and SDXL. sum: all changes added. sum projected: what "
                    "several erasures have in common counts once.",
                ),
                Erasures.Input("previous", optional=True, tooltip="More erasures, from another Merge Erasures."),
                io.Clip.Input("clip", optional=True, tooltip="The text encoder of the model; by prompts needs it."),
                Keeps.Input(
                    "keep",
                    optional=True,
                    tooltip="By prompts: prompts that stay as they are, beside those that the erasures kept.",
                ),
                *growing(
                    "more",
                    Weights.Input("weights_5", optional=True, tooltip="One more erasure of the same model."),
                    [f"weights_{number}" for number in GROWN],
                ),
            ],
            outputs=[
                Weights.Output("merged", display_name="weights", tooltip="All of them as one, for Apply and Save."),
                Erasures.Output("erasures", display_name="erasures", tooltip="For one more Merge Erasures."),
            ],
        )

    @classmethod
    def execute(
        cls,
        weights: Erasure,
        weights_2: Erasure | None = None,
        weights_3: Erasure | None = None,
        weights_4: Erasure | None = None,
        mode: str = DEFAULT,
        previous: tuple[Erasure, ...] = (),
        clip: Any = None,
        keep: tuple[Keep, ...] = (),
        more: dict[str, Erasure | None] | None = None,
    ) -> io.NodeOutput:
        """Merge all that are connected."""
        others = (weights_2, weights_3, weights_4, *(more or {}).values())
        erasures = (*previous, weights, *(each for each in others if each is not None))
        tokens = tokens_of(clip) if clip is not None else None
        with torch.inference_mode(False):
            return io.NodeOutput(merge(erasures, mode, tokens, kept_prompts(keep)), erasures)
