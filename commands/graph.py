"""Nodes of a prompt by the server's own description of them (/object_info); standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

WIDGET_TYPES = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"})


def input_specs(description: Json) -> Iterator[tuple[str, list[Any]]]:
    """Name and specification of each input of a node in /object_info, the required ones first."""
    for group in ("required", "optional"):
        inputs = description["input"].get(group) or {}
        for name in description.get("input_order", {}).get(group, inputs):
            yield name, inputs[name]


def is_widget(spec: list[Any]) -> bool:
    """Whether the page shows a field for this input, rather than a socket alone."""
    kind = spec[0]
    return (isinstance(kind, list) or kind in WIDGET_TYPES) and not options_of(spec).get("forceInput")


def options_of(spec: list[Any]) -> Json:
    """Return the second half of a specification: default, range and so on."""
    return spec[1] if len(spec) > 1 else {}


def default_of(spec: list[Any]) -> Any:
    """Return the value that the page shows in the field of an input until someone changes it."""
    kind, options = spec[0], options_of(spec)
    if "default" in options:
        return options["default"]
    if isinstance(kind, list) or kind == "COMBO":
        choices = kind if isinstance(kind, list) else options.get("options", [])
        return choices[0] if choices else None
    return {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False}.get(kind, "")


def new_node(object_info: Json, class_type: str, **inputs: Any) -> Json:
    """Return a node of a prompt; fields that are left out have the value that the page would show."""
    fields = {name: default_of(spec) for name, spec in input_specs(object_info[class_type]) if is_widget(spec)}
    return {"class_type": class_type, "inputs": {**fields, **inputs}}
