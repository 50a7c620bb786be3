"""Safe Latent Diffusion: the baseline that is compared with, as a patch of the MODEL."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..esd.safe_latent_diffusion import AUTHORS_CONCEPT, STRENGTHS
from .host.model.safety_guidance import with_safety_guidance
from .schema import finding
from .sockets import CATEGORY


class ESDSafeLatentDiffusion(io.ComfyNode):
    """Guidance away from a concept, without training."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Define inputs and outputs."""
        return io.Schema(
            node_id="ESDSafeLatentDiffusion",
            display_name="ESD Safe Latent Diffusion",
            category=CATEGORY,
            **finding("SLD", "safety guidance", "negative prompt", "ESD baseline"),
            description="Guides a MODEL away from a concept while it samples (SLD, CVPR 2023), without training: a "
            "baseline to compare an erasure with.",
            inputs=[
                io.Model.Input("model", tooltip="Any MODEL; it stays as it is."),
                io.Clip.Input("clip", tooltip="The text encoder that belongs to the model."),
                io.String.Input(
                    "concept",
                    multiline=True,
                    default=AUTHORS_CONCEPT,
                    tooltip="The words to stay away from. The default is the authors' own list of unsafe content.",
                ),
                io.Combo.Input(
                    "strength",
                    options=list(STRENGTHS),
                    default="medium",
                    tooltip="The authors' four sets of hyper-parameters.",
                ),
            ],
            outputs=[
                io.Model.Output("guided_model", display_name="MODEL", tooltip="A clone with the guidance in it."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, concept: str, strength: str) -> io.NodeOutput:
        """Patch a clone."""
        return io.NodeOutput(with_safety_guidance(model, clip, concept, strength))
