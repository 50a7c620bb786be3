"""What erased weights are, in words and in figures a layer."""

from __future__ import annotations

import math
import re
from typing import Any

from torch import Tensor

from .erasure import PREFIX, Erasure
from .metadata import as_dict, as_dicts, as_float, as_str

PLAIN = (
    ("method", "esd.method"),
    ("eta", "esd.eta"),
    ("steps", "esd.steps"),
    ("learning rate", "esd.learning_rate"),
    ("learning rate found", "esd.learning_rate_found"),
    ("seed", "esd.seed"),
    ("family", "esd.family"),
    ("base file", "esd.base_file"),
    ("base sha256", "esd.base_sha256"),
    ("merged", "esd.merged"),
    ("read from", "esd.source_file"),
    ("form", "esd.source_form"),
    ("made with version", "esd.version"),
)
"""Lines of the report and the metadata that fills them; those without any are left out."""


def describe(weights: Erasure) -> str:
    """Concepts, keeps, settings, base and sizes, a line each; what the metadata does not tell is left out."""
    metadata = weights.metadata
    lines = [f"concept: {_concept(c)}" for c in as_dicts(metadata.get("esd.concepts"))]
    lines += [f"keep: {_keep(k)}" for k in as_dicts(metadata.get("esd.keeps"))]
    lines += [f"{title}: {metadata[key]}" for title, key in PLAIN if metadata.get(key)]
    left = as_dict(metadata.get("esd.left"))
    lines += [f"left of {prompt}: {share} %" for prompt, share in left.items() if as_float(share) is not None]
    moved = as_dict(metadata.get("esd.moved"))
    lines += [f"{prompt} moved by {share} %" for prompt, share in moved.items() if as_float(share) is not None]
    values = sum(t.numel() for t in weights.tensors)
    norm = math.sqrt(sum(_squares(weights.change(name)) for name in weights.names))
    lines.append(f"changes {len(weights.names)} tensors, {values:,} values, {weights.get_ram_usage() / 2**20:.1f} MB")
    lines.append(f"size of the change (Frobenius norm): {norm:.4g}")
    return "\n".join(lines)


def _squares(tensor: Tensor) -> float:
    """Return the sum of squares, in float64: those of large values do not fit into float32."""
    return float(tensor.double().square().sum())


def _keep(keep: dict[str, Any]) -> str:
    prompts = keep.get("prompts")
    weight = as_float(keep.get("weight", 1))
    listed = ", ".join(filter(None, map(as_str, prompts))) if isinstance(prompts, list) else ""
    return listed + ("" if weight is None else f" (weight {weight:g})")


def _concept(concept: dict[str, Any]) -> str:
    told = f'"{as_str(concept.get("erase"))}"'
    erase_from, replace_with = as_str(concept.get("erase_from")), as_str(concept.get("replace_with"))
    told += f' from "{erase_from}"' if erase_from else ""
    told += f', drawn as "{replace_with}"' if replace_with else ""
    weight = as_float(concept.get("weight", 1))
    return told + (f" (weight {weight:g})" if weight not in (None, 1) else "")


_LAYER = re.compile(
    r"((?:input|output|joint|double|single)_blocks\.\d+|middle_block)(?:.*\.(attn\d|ff|img_attn|txt_attn|linear1))?"
)


def layer_norms(weights: Erasure) -> dict[str, float]:
    """Return the root mean square of the change by layer (attention, feed-forward, rest), in the network's order."""
    squares: dict[str, float] = {}
    counts: dict[str, int] = {}
    for name in weights.names:
        change = weights.change(name)
        layer = _layer(name.removeprefix(PREFIX))
        squares[layer] = squares.get(layer, 0.0) + _squares(change)
        counts[layer] = counts.get(layer, 0) + change.numel()
    return {layer: math.sqrt(squares[layer] / max(counts[layer], 1)) for layer in sorted(squares, key=_order)}


def _layer(name: str) -> str:
    found = _LAYER.match(name)
    if found is None:
        return name.split(".")[0]
    return f"{found[1]} {found[2]}" if found[2] else found[1]


def _order(layer: str) -> tuple[int, list[int], str]:
    places = (
        *("time_embed", "label_emb", "input_blocks", "joint_blocks", "double_blocks", "single_blocks"),
        *("middle_block", "output_blocks", "out"),
    )
    start = re.split(r"[. ]", layer)[0]
    return (places.index(start) if start in places else len(places), [int(n) for n in re.findall(r"\d+", layer)], layer)
