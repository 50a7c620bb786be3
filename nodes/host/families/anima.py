"""Anima: a network of pictures as videos of one frame, with cross-attention to what an adapter makes of two texts.

No erasure of it is published; its text comes in by cross-attention alone, as in the paper's models.
"""

from __future__ import annotations

from ....esd.selection import LayerNames
from .family import Backward, Family

LAYER_NAMES = LayerNames(
    text_attention=tuple(f"blocks.*.cross_attn.{part}_proj." for part in ("q", "k", "v", "output")),
    text_key_value=("blocks.*.cross_attn.k_proj.", "blocks.*.cross_attn.v_proj."),
    self_attention=("blocks.*.self_attn.*",),
    text_stream=("llm_adapter.",),
    methods=("esd-x", "esd-x-strict", "selfattn", "text-stream"),
)

FAMILIES = (
    Family(
        "Anima",
        LAYER_NAMES,
        1024,
        4.0,
        lambda kind, config: kind == "Anima",
        Backward(("Block",)),
        joint_attention=True,
        cells_per_token=2,
        adapter_in_network=True,
        experimental=True,
    ),
)
"""Tokens are not repeated, although it has cross-attention: its adapter counts their positions."""
