"""Z-Image and Lumina 2: text and picture each refined alone, then together through layers with shared weights.

No erasure of them is published; esd-x is the attention of the joint layers, as it is officially in FLUX.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....esd.selection import LayerNames, Rows
from .family import Backward, Family

JOINT = ("layers.*.attention.qkv.", "layers.*.attention.out.")
TEXT = ("context_refiner.", "cap_embedder.1.")
BACKWARD = Backward(("JointTransformerBlock",))

Z_IMAGE = LayerNames(
    text_attention=JOINT,
    text_key_value=(Rows("layers.*.attention.qkv.", 1, 3),),
    self_attention=(),
    text_stream=TEXT,
    methods=("esd-x", "esd-x-strict", "text-stream"),
)
LUMINA = LayerNames(
    text_attention=JOINT, text_key_value=(), self_attention=(), text_stream=TEXT, methods=("esd-x", "text-stream")
)
"""Its keys and values have fewer heads than the queries, so they are no thirds of the fused projection."""


def _modulated(as_z_image: bool) -> Callable[[str, dict[str, Any]], bool]:
    return lambda kind, config: kind == "Lumina2" and bool(config.get("z_image_modulation")) is as_z_image


FAMILIES = tuple(
    Family(
        name,
        layer_names,
        1024,
        4.0,
        _modulated(as_z_image),
        BACKWARD,
        joint_attention=True,
        cells_per_token=2,
        experimental=True,
    )
    for name, layer_names, as_z_image in (("Z-Image", Z_IMAGE, True), ("Lumina 2", LUMINA, False))
)
