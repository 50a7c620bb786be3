"""Which weights each method trains: rules over parameter names and layer kinds, as data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .errors import EsdError


@dataclass(frozen=True)
class ParameterInfo:
    """One parameter of the network: its name without the network's prefix, and the kind of layer that holds it."""

    name: str
    kind: str  # "linear", "conv" or "other" (norms, embeddings)


@dataclass(frozen=True)
class LayerNames:
    """How a model family calls the parts that the rules speak of; each entry is a substring of a name."""

    text_attention: tuple[str, ...] = ("attn2.",)
    text_key_value: tuple[str, ...] = ("attn2.to_k.", "attn2.to_v.")
    self_attention: tuple[str, ...] = ("attn1.",)
    outside_blocks: tuple[str, ...] = ()
    """What esd-u and esd-all leave alone in this family (SDXL: embeddings, first and last layer)."""
    methods: tuple[str, ...] | None = None
    """The methods that make sense for this family; None means all."""


UNET = LayerNames()
SDXL_UNET = LayerNames(outside_blocks=("emb", "input_blocks.0.0.", "out."))


@dataclass(frozen=True)
class Method:
    """A rule: which names, and whether only Linear and Conv layers count (official code since 2024)."""

    selects: Callable[[str, LayerNames], bool]
    linear_and_conv_only: bool
    source: str


def _has(name: str, parts: Iterable[str]) -> bool:
    return any(part in name for part in parts)


def _outside(name: str, layer_names: LayerNames) -> bool:
    return any(name.startswith(part) if part == "out." else part in name for part in layer_names.outside_blocks)


METHODS: dict[str, Method] = {
    "esd-x": Method(lambda n, f: _has(n, f.text_attention), True, "official 2025, 2026"),
    "esd-x-strict": Method(lambda n, f: _has(n, f.text_key_value), True, "official 2025, 2026"),
    "esd-u": Method(lambda n, f: not _has(n, f.text_attention) and not _outside(n, f), True, "official 2025, 2026"),
    "esd-all": Method(lambda n, f: not _outside(n, f), True, "official 2025, 2026"),
    "selfattn": Method(lambda n, f: _has(n, f.self_attention), True, "official 2023, 2026"),
    "xattn": Method(lambda n, f: _has(n, f.text_attention), False, "official 2023"),
    "noxattn": Method(
        lambda n, f: not (n.startswith("out.") or _has(n, f.text_attention) or "time_embed" in n),
        False,
        "official 2023",
    ),
    "full": Method(lambda n, f: True, False, "official 2023"),
    "notime": Method(lambda n, f: not (n.startswith("out.") or "time_embed" in n), False, "official 2023"),
    "xlayer": Method(
        lambda n, f: _has(n, f.text_attention) and _has(n, ("output_blocks.6.", "output_blocks.8.")),
        False,
        "official 2023",
    ),
    "selflayer": Method(
        lambda n, f: _has(n, f.self_attention) and _has(n, ("input_blocks.4.", "input_blocks.7.")),
        False,
        "official 2023",
    ),
}


def select(method: str, weights: Iterable[ParameterInfo], layer_names: LayerNames = UNET) -> list[str]:
    """Return the names that a method trains, in the network's order; raise EsdError when there are none."""
    if method not in METHODS:
        raise EsdError(f'There is no method "{method}": choose one of {", ".join(METHODS)}.')
    if layer_names.methods is not None and method not in layer_names.methods:
        raise EsdError(f'"{method}" is not defined for this kind of model: choose {" or ".join(layer_names.methods)}.')
    rule = METHODS[method]
    wanted_kinds = ("linear", "conv") if rule.linear_and_conv_only else ("linear", "conv", "other")
    names = [w.name for w in weights if w.kind in wanted_kinds and rule.selects(w.name, layer_names)]
    if not names:
        raise EsdError(f'The method "{method}" selects no weight of this model: choose another, such as esd-u.')
    return names
