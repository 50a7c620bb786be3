"""Which weights each method trains: rules over parameter names and layer kinds, as data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .errors import EsdError


@dataclass(frozen=True)
class ParameterInfo:
    """One parameter of the network: its name without the network's prefix, and the kind of layer that holds it."""

    name: str
    kind: str  # "linear", "conv" or "other" (norms, embeddings)
    width: int = 0
    """How many features go into a Linear layer."""


@dataclass(frozen=True)
class Rows:
    """Layers of which only some rows are meant, counted in the widths of what goes into them.

    A fused projection is [q; k; v], each as high as the layer is wide: its keys and values are the rows 1 to 3.
    """

    name: str
    first: int
    last: int


Entry = str | Rows


@dataclass(frozen=True)
class LayerNames:
    """How a model family calls the parts that the rules speak of; each entry is a substring of a name."""

    text_attention: tuple[Entry, ...] = ("attn2.",)
    text_key_value: tuple[Entry, ...] = ("attn2.to_k.", "attn2.to_v.")
    plain_text: tuple[str, str] | None = None
    """How the weights of keys and of values end that a prompt's tokens enter as the text encoder gives them."""
    text_inputs: tuple[str, str] | None = None
    """The weights that all tokens of a prompt enter as the text encoder gives them, and its pooled embedding."""
    self_attention: tuple[Entry, ...] = ("attn1.",)
    text_stream: tuple[Entry, ...] = ()
    """The layers that only text tokens go through, where text and picture share their attention."""
    outside_blocks: tuple[str, ...] = ()
    """What esd-u and esd-all leave alone in this family (SDXL: embeddings, first and last layer)."""
    methods: tuple[str, ...] | None = None
    """The methods that make sense for this family; None means all."""

    def inputs_of(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the `text_inputs` for a selection with text attention; methods without it have no use of them."""
        reading = (*self.text_attention, *self.text_stream)
        return (self.text_inputs or ()) if any(_has(name, reading) for name in names) else ()

    def begun_too(self, names: Sequence[str], weights: Iterable[ParameterInfo]) -> list[str]:
        """Return what a start in closed form changes beside the selected names."""
        there = {weight.name for weight in weights if weight.kind == "linear"}
        return [name for name in self.inputs_of(names) if name in there and name not in names]


UNET_METHODS = (
    *("esd-x", "esd-x-strict", "esd-u", "esd-all", "selfattn"),
    *("xattn", "noxattn", "full", "notime", "xlayer", "selflayer"),
)
PLAIN_TEXT = ("attn2.to_k.weight", "attn2.to_v.weight")
"""How the weights of text keys and values end in SD1.x, SD2.x and SDXL."""

UNET = LayerNames(plain_text=PLAIN_TEXT, methods=UNET_METHODS)
SDXL_UNET = LayerNames(plain_text=PLAIN_TEXT, outside_blocks=("emb", "input_blocks.0.0.", "out."), methods=UNET_METHODS)


@dataclass(frozen=True)
class Method:
    """A rule: which names, and whether only Linear and Conv layers count (official code since 2024)."""

    selects: Callable[[str, LayerNames], bool]
    linear_and_conv_only: bool
    source: str
    entries: Callable[[LayerNames], tuple[Entry, ...]] = lambda layer_names: ()
    """The entries of the layer names that may ask for some rows alone."""


def _has(name: str, parts: Iterable[Entry]) -> bool:
    return any(_is_in(part, name) for part in parts)


def _is_in(entry: Entry, name: str) -> bool:
    """Whether an entry is part of a name; "*" stands for anything, and then the name begins with the entry."""
    text = entry if isinstance(entry, str) else entry.name
    return fnmatchcase(name, f"{text}*") if "*" in text else text in name


def _outside(name: str, layer_names: LayerNames) -> bool:
    return any(name.startswith(part) if part == "out." else part in name for part in layer_names.outside_blocks)


METHODS: dict[str, Method] = {
    "esd-x": Method(lambda n, f: _has(n, f.text_attention), True, "official 2025, 2026", lambda f: f.text_attention),
    "esd-x-strict": Method(
        lambda n, f: _has(n, f.text_key_value), True, "official 2025, 2026", lambda f: f.text_key_value
    ),
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
    "text-stream": Method(
        lambda n, f: _has(n, f.text_stream), True, "tomguluson92/Erasing_Flux 2024: textattn", lambda f: f.text_stream
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


def row_slices(method: str, weights: Iterable[ParameterInfo], layer_names: LayerNames) -> dict[str, tuple[int, int]]:
    """Return the first and the last row (not included) of each selected weight of which only some are trained."""
    entries = [entry for entry in METHODS[method].entries(layer_names) if isinstance(entry, Rows)]
    infos = list(weights)
    chosen = set(select(method, infos, layer_names))
    return {
        info.name: (entry.first * info.width, entry.last * info.width)
        for info in infos
        for entry in entries
        if info.name in chosen and _is_in(entry, info.name)
    }
