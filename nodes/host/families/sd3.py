"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from ....esd.selection import LayerNames
from .family import Backward, Family

LAYER_NAMES = LayerNames(
    text_attention=(".context_block.attn.",),
    text_inputs=("context_embedder.weight", "y_embedder.mlp.0.weight"),
    self_attention=(".x_block.attn.", ".x_block.attn2."),
    methods=("esd-x", "esd-u", "esd-all", "selfattn"),
)

FAMILIES = (
    Family(
        "SD3",
        LAYER_NAMES,
        1024,
        3.5,
        lambda kind, config: kind == "SD3",
        Backward(("JointBlock",)),
        joint_attention=True,
        cells_per_token=2,
        experimental=True,
    ),
)
