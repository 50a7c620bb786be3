"""Wan 2.1 text-to-video (and one expert of 2.2 14B), which draws pictures as videos of one frame.

No erasure of it is published; its text comes in by cross-attention alone, as in the paper's models.
"""

from __future__ import annotations

from typing import Any

from ....esd.errors import EsdError
from ....esd.selection import LayerNames
from .family import Backward, Family

LAYER_NAMES = LayerNames(
    text_attention=(".cross_attn.q.", ".cross_attn.k.", ".cross_attn.v.", ".cross_attn.o."),
    text_key_value=(".cross_attn.k.", ".cross_attn.v."),
    self_attention=(".self_attn.q.", ".self_attn.k.", ".self_attn.v.", ".self_attn.o."),
    methods=("esd-x", "esd-x-strict", "selfattn"),
)


def _matches(kind: str, config: dict[str, Any]) -> bool:
    if kind != "WAN21":
        return False
    model_type = config.get("model_type", "t2v")
    if model_type != "t2v":
        raise EsdError(
            f"This is a Wan model of the type {model_type}, and ESD draws its examples from text alone: load a Wan 2.1 "
            "text-to-video (t2v) model."
        )
    return True


FAMILIES = (
    Family(
        "Wan t2v",
        LAYER_NAMES,
        832,
        6.0,
        _matches,
        Backward(("WanAttentionBlock",)),
        cells_per_token=2,
        experimental=True,
    ),
)
