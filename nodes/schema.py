"""Fields of schemas and inputs that only newer hosts know: left out where the host has no place for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ..esd.settings import FIELDS

ALIASES = ["unlearn", "forget", "remove concept", "concept erasure", "ESD", "LECO"]
"""What people type who look for the pack's main nodes."""


def known(maker: Callable[..., Any], **fields: Any) -> dict[str, Any]:
    """Those of the fields that `maker` takes."""
    taken = inspect.signature(maker).parameters
    return {name: value for name, value in fields.items() if name in taken}


def finding(*aliases: str) -> dict[str, Any]:
    """Further words under which the search finds a node."""
    return known(io.Schema, search_aliases=list(aliases))


def saying() -> dict[str, Any]:
    """For a node whose result comes with a text: the page is told it again when the result is a cached one."""
    return known(io.Schema, has_intermediate_output=True)


def advanced(maker: Callable[..., io.Input], name: str, **fields: Any) -> io.Input:
    """Return an input that most people never touch, which newer pages fold away."""
    return maker(name, **fields, **known(maker, advanced=True))


def growing(name: str, each: io.Input, names: list[str]) -> list[io.Input]:
    """Return sockets that the page shows one by one as they are connected; none where the host has no such inputs."""
    autogrow: Any = getattr(io, "Autogrow", None)
    return [autogrow.Input(name, autogrow.TemplateNames(each, names, min=0), optional=True)] if autogrow else []


FINEST = 1e-3
"""Steps of a widget below this are shown without rounding."""


def setting_input(name: str, optional: bool = False) -> io.Input:
    """Make the widget of a setting from its row in the table."""
    field = FIELDS[name]
    given: dict[str, Any] = {"default": field.default, "tooltip": field.tooltip}
    if optional:
        given["optional"] = True
    if field.choices:
        maker: Any = io.Combo.Input
        given["options"] = list(field.choices)
    elif isinstance(field.default, bool):
        maker = io.Boolean.Input
    else:
        maker = io.Int.Input if isinstance(field.default, int) else io.Float.Input
        given |= {"min": field.low, "max": field.high, **({} if field.step is None else {"step": field.step})}
        if field.step is not None and field.step < FINEST:
            given["round"] = False
    return advanced(maker, name, **given) if field.rare else maker(name, **given)


def family_size() -> list[io.Input]:
    """Make the widgets of a size that is the family's own where it is 0."""
    return [
        advanced(
            io.Int.Input,
            name,
            default=0,
            min=0,
            max=16384,
            step=8,
            tooltip=f"{name.capitalize()} in pixels; 0 is the family's own.",
        )
        for name in ("width", "height")
    ]
