"""Text metadata of files, which in other people's files is free text: what is not as expected counts as not there."""

from __future__ import annotations

import json
import math
from typing import Any


def as_dict(text: str | None) -> dict[str, Any]:
    """Return a JSON table; empty for anything else."""
    found = _json(text)
    return found if isinstance(found, dict) else {}


def as_dicts(text: str | None) -> list[dict[str, Any]]:
    """Return a JSON list of tables; other things in the list are left out."""
    found = _json(text)
    return [f for f in found if isinstance(f, dict)] if isinstance(found, list) else []


def as_str(value: Any) -> str:
    """Return the value where it is text; empty for anything else."""
    return value if isinstance(value, str) else ""


def as_float(text: Any) -> float | None:
    """Return a finite number, also one that stands there as text; None for anything else."""
    try:
        found = float(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _json(text: str | None) -> Any:
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        return None
