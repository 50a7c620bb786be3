"""What the check erases and draws, on the device and on the CPU (standard library only)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from commands.playground import world

CONCEPT = "cat"
SEED = 20230313
"""The day of the paper: the check knows its own runs in output/esd/runs by it."""

DISTANCE = 0.018
"""Steps times learning rate: how far Adam can take a weight. The usual 200 steps at 1e-4 have 0.02."""

SIZE = {"width": 64, "height": 64}
DRAWING = {"steps": 10, "cfg": 3.0, "sampler_name": "ddim", "scheduler": "ddim_uniform", **SIZE}


@dataclass(frozen=True)
class Recipe:
    """A run that erases in seconds: few steps, at a learning rate that makes up for it."""

    steps: int = 60
    pictures: int = 16
    others: int = 24

    @property
    def settings(self) -> dict[str, Any]:
        """The Erase node's fields that count."""
        training = {"steps": self.steps, "learning_rate": DISTANCE / self.steps}
        return {"method": "esd-x", "eta": 1.0, "seed": SEED, "stop": "after all steps", **training}

    def judged(self) -> list[world.Judged]:
        """Return what is drawn for the judge: the erased concept, then others, its neighbours first."""
        return world.prompts_for(world.find_subject(CONCEPT), self.pictures) + [
            world.Judged(name, "object", name) for name in others(self.others)
        ]


def others(count: int) -> Sequence[str]:
    """So many other objects: the nearest, and a walk through the rest."""
    near = world.NEAR_NEIGHBOURS[CONCEPT][:count]
    rest = [name for name in world.OBJECTS if name != CONCEPT and name not in near]
    wanted = count - len(near)
    return [*near, *rest[:: max(1, len(rest) // max(1, wanted))][:wanted]]
