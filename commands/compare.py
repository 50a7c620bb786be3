"""The change that a device learnt beside the change that the CPU learnt."""

from __future__ import annotations

import hashlib
import math
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def compared(learnt: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> dict[str, Any]:
    """Cosine of all differences as one vector, and how long it is beside the exact one; None for what is no number.

    Raises ValueError where the two hold different weights.
    """
    import torch

    if {name: t.shape for name, t in learnt.items()} != {name: t.shape for name, t in exact.items()}:
        raise ValueError(f"the device trained {len(learnt)} tensors, the CPU {len(exact)}, and they are not the same")
    one, other = (torch.cat([t.flatten().double() for _, t in sorted(each.items())]) for each in (learnt, exact))
    lengths = float(one.norm()), float(other.norm())
    product = lengths[0] * lengths[1]
    cosine = float(one @ other) / product if product else math.nan
    return {"cosine": _finite(cosine), "length": _finite(lengths[0] / lengths[1] if lengths[1] else math.nan)}


def _finite(value: float) -> float | None:
    return round(value, 7) if math.isfinite(value) else None


def sha256(path: Path) -> str:
    """Return the hash of a small file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def traceback_of(error: Exception) -> list[str]:
    """Where an error came from: in the server, where it says so, else here."""
    told = getattr(error, "traceback", ())
    return list(told) or traceback.format_exception(error)[1:]
