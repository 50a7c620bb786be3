"""YAML with the line of every value, so that a mistake can be named where it stands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from esd_pack.esd.errors import EsdError

Where = tuple[str | int, ...]
"""The keys and places that lead to a value."""

MOST_BYTES, MOST_VALUES = 2**20, 100_000


@dataclass(frozen=True)
class Document:
    """What a file says, and the line of each value."""

    name: str
    data: Any
    lines: Mapping[Where, int]

    def error(self, where: Where, words: str) -> EsdError:
        """Return the error for a value, with its line."""
        while where not in self.lines and where:
            where = where[:-1]
        return EsdError(f"{self.name}, line {self.lines.get(where, 1)}: {words}")


def read(path: Path) -> Document:
    """Read a file; raise EsdError with the line of what is no YAML."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise EsdError(f"{path.name} is larger than {MOST_BYTES >> 20} MB: split the list into several files.")
        return parse(path.read_text("utf-8"), path.name)
    except OSError as error:
        raise EsdError(f"{path} cannot be read ({error.strerror or error}): name the file of jobs.") from error
    except UnicodeDecodeError as error:
        raise EsdError(f"{path.name} is no UTF-8 text (byte {error.start}): save it as UTF-8.") from error


def parse(text: str, name: str) -> Document:
    """Parse a text; plain values only, as YAML's safe loader makes them."""
    import yaml

    lines: dict[Where, int] = {}
    try:
        root = yaml.compose(text, _loader())
        data = _value(root, (), lines, name) if root is not None else None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise EsdError(f"{name}, line {line}: {error.problem or 'no YAML'}: correct the line.") from error
    except yaml.YAMLError as error:
        raise EsdError(f"{name} is no YAML ({error}): save it as plain text.") from error
    except RecursionError as error:
        raise EsdError(f"{name} holds lists in lists too deep to read: write it flat.") from error
    return Document(name, data, lines)


def _value(node: Any, where: Where, lines: dict[Where, int], name: str) -> Any:
    import yaml

    line = node.start_mark.line + 1
    lines[where] = line
    if len(lines) > MOST_VALUES:
        raise EsdError(f"{name} holds more than {MOST_VALUES} values: split the list into several files.")
    if isinstance(node, yaml.SequenceNode):
        return [_value(each, (*where, place), lines, name) for place, each in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, where, lines, name)
    try:
        return _loader()("").construct_object(node)
    except ValueError as error:  # a date that there is not
        raise EsdError(f"{name}, line {line}: {error}: put it in quotes, or correct it.") from error


@cache
def _loader() -> Any:
    """Return YAML's safe loader, for which 1e-5 is a number, as in YAML 1.2, and not a text."""
    import yaml

    made: Any = type("Loader", (yaml.SafeLoader,), {})
    pattern = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    made.add_implicit_resolver("tag:yaml.org,2002:float", pattern, list("-+.0123456789"))
    return made


def _mapping(node: Any, where: Where, lines: dict[Where, int], name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in found:
            raise EsdError(f'{name}, line {line}: "{key:.40}" stands there twice: keep one of them.')
        found[key] = _value(value, (*where, key), lines, name)
        lines[(*where, key)] = line
    return found
