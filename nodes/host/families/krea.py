"""Krea 2: a tower of text, then one stream of text and picture through shared blocks.

No erasure of it is published; esd-x is the attention of the shared blocks, as it is officially in FLUX.  Its
distilled model is sampled without classifier-free guidance, which is the default here.
"""

from __future__ import annotations

from ....esd.selection import LayerNames
from .family import Backward, Family

LAYER_NAMES = LayerNames(
    text_attention=("blocks.*.attn.wq.", "blocks.*.attn.wk.", "blocks.*.attn.wv.", "blocks.*.attn.wo."),
    text_key_value=("blocks.*.attn.wk.", "blocks.*.attn.wv."),
    self_attention=(),
    text_stream=("txtfusion.", "txtmlp."),
    methods=("esd-x", "esd-x-strict", "text-stream"),
)

FAMILIES = (
    Family(
        "Krea 2",
        LAYER_NAMES,
        1024,
        1.0,
        lambda kind, config: kind == "Krea2",
        Backward(("SingleStreamBlock",)),
        joint_attention=True,
        cells_per_token=2,
        experimental=True,
    ),
)
