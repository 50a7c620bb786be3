"""How much a run of the tests tries: quick (before every commit), full (CI), nightly (everything, many times)."""

from __future__ import annotations

import os
from typing import TypeVar

TIERS = ("quick", "full", "nightly")
VARIABLE = "ESD_TIER"
T = TypeVar("T")


def present() -> str:
    """Return the tier of this run."""
    return os.environ.get(VARIABLE, "full")


def by_tier(quick: T, full: T, nightly: T) -> T:
    """Choose an amount by the tier."""
    return (quick, full, nightly)[TIERS.index(present())]
