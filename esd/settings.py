"""The settings of a run, and the published ones as presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .errors import EsdError

SOURCES = ("base", "student")
OPTIMIZERS = ("adamw", "adamw8bit", "adafactor")
CHECKPOINTING = ("auto", "on", "off")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Settings:
    """How a run is made.  A guidance or size of 0 means the model family's own."""

    method: str = "esd-x"
    steps: int = 200
    learning_rate: float = 1e-4
    eta: float = 1.0
    seed: int = 0
    batch_size: int = 1
    accumulate: int = 1
    source: str = "base"
    walk_steps: int = 50
    walk_guidance: float = 0.0
    points_per_walk: int = 10
    coarse_walks: bool = True
    walk_batch: int = 4
    pool: int = 0
    refresh: int = 0
    width: int = 0
    height: int = 0
    optimizer: str = "adamw"
    checkpointing: str = "auto"
    precision: str = "auto"
    preset: str = "custom"
    deterministic: bool = True
    eta_erase_from: float | None = None
    """eta for concepts with "erase from", where a published default differs there; None means eta."""

    @property
    def pool_size(self) -> int:
        """How many training points are made at a time: few with the student as source, since they age."""
        return self.pool or (10 if self.source == "student" else 200)

    @property
    def points(self) -> int:
        """How many training points the run draws."""
        return self.steps * self.batch_size * self.accumulate


_PUBLISHED: dict[str, Any] = {
    "walk_steps": 50,
    "points_per_walk": 1,
    "coarse_walks": False,
    "walk_batch": 1,
    "pool": 1,
    "refresh": 0,
    "batch_size": 1,
    "accumulate": 1,
    "optimizer": "adamw",
    "eta_erase_from": None,
}
"""What all published runs have in common: one fresh walk of 50 steps for each training point."""

_DEFAULT: dict[str, Any] = {
    name: getattr(Settings(), name)
    for name in (*_PUBLISHED, "steps", "learning_rate", "eta", "source", "walk_guidance")
}

PRESETS: dict[str, dict[str, Any]] = {
    "default": _DEFAULT,
    "paper-2023": {
        **_PUBLISHED,
        "steps": 1000,
        "learning_rate": 1e-5,
        "eta": 1.0,
        "source": "student",
        "walk_guidance": 3.0,
    },
    "official-2024-sd": {
        **_PUBLISHED,
        "steps": 200,
        "learning_rate": 2e-5,
        "eta": 2.0,
        "source": "student",
        "walk_guidance": 3.0,
    },
    "official-2025-sdxl": {
        **_PUBLISHED,
        "steps": 200,
        "learning_rate": 2e-4,
        "eta": 0.0,
        "source": "base",
        "walk_guidance": 2.0,
        "eta_erase_from": 1.0,
    },
    "official-2026": {
        **_PUBLISHED,
        "steps": 200,
        "learning_rate": 5e-5,
        "eta": 1.0,
        "source": "base",
        "walk_guidance": 3.0,
        "eta_erase_from": 2.0,
    },
}
"""What each published run used, by source; `default` is ours.  eta is the paper's (see objective.ETA_OFFSET)."""


def with_preset(settings: Settings, name: str) -> Settings:
    """The settings with everything that the preset names replaced; `custom` replaces nothing."""
    if name == "custom":
        return settings
    if name not in PRESETS:
        raise EsdError(f'There is no preset "{name}": choose one of {", ".join(PRESETS)}.')
    return replace(settings, **PRESETS[name], preset=name)


_RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, 1_000_000),
    "learning_rate": (0.0, 1.0),
    "eta": (-100.0, 100.0),
    "eta_erase_from": (-100.0, 100.0),
    "batch_size": (1, 1024),
    "accumulate": (1, 1024),
    "walk_steps": (1, 1000),
    "walk_guidance": (0.0, 100.0),
    "points_per_walk": (1, 1000),
    "walk_batch": (1, 256),
    "pool": (0, 1_000_000),
    "refresh": (0, 1_000_000),
    "width": (0, 16384),
    "height": (0, 16384),
    "seed": (0, 2**64 - 1),
}
_CHOICES = {"source": SOURCES, "optimizer": OPTIMIZERS, "checkpointing": CHECKPOINTING, "precision": PRECISIONS}


def check(settings: Settings) -> Settings:
    """The settings themselves, or an EsdError that names the first one that cannot be used."""
    for name, (low, high) in _RANGES.items():
        value, whole = getattr(settings, name), isinstance(getattr(Settings, name), int)
        if value is None and name == "eta_erase_from":
            continue
        if not (isinstance(value, int if whole else int | float) and low <= value <= high):
            kind = "a whole number" if whole else "a number"
            raise EsdError(f"{name} is {value!r:.30}: it must be {kind} from {low} to {high}.")
    for name, choices in _CHOICES.items():
        if getattr(settings, name) not in choices:
            raise EsdError(f'{name} is "{getattr(settings, name)}": choose one of {", ".join(choices)}.')
    if not settings.learning_rate:
        raise EsdError("learning_rate is 0, so nothing would change: the paper used 1e-5.")
    return settings
