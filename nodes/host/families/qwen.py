"""Qwen-Image: joint attention with weights of their own for text and picture.

No erasure of it is published; esd-x is the text's side of the attention, as in SD3.
"""

from __future__ import annotations

from ....esd.selection import LayerNames
from .family import Backward, Family

LAYER_NAMES = LayerNames(
    text_attention=(".attn.add_q_proj.", ".attn.add_k_proj.", ".attn.add_v_proj.", ".attn.to_add_out."),
    text_key_value=(".attn.add_k_proj.", ".attn.add_v_proj."),
    self_attention=(".attn.to_q.", ".attn.to_k.", ".attn.to_v.", ".attn.to_out."),
    methods=("esd-x", "esd-x-strict", "selfattn"),
)

FAMILIES = (
    Family(
        "Qwen-Image",
        LAYER_NAMES,
        1024,
        4.0,
        lambda kind, config: kind == "QwenImage",
        Backward(("QwenImageTransformerBlock",)),
        joint_attention=True,
        cells_per_token=2,
        experimental=True,
    ),
)
