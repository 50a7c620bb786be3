"""How long until the judge finds the concept gone and everything else in its place."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from _models import Subject
from torch import Tensor

CONCEPT = "cat"
JUDGE_EVERY = 20
"""Training points from one verdict to the next."""

LIMIT = 400
"""Training points after which a run is given up."""


class Stopwatch:
    """Seconds of training, with the judge's time left out."""

    def __init__(self, on: Subject, change: Callable[[], dict[str, Tensor]]) -> None:
        """`change` gives the differences learnt so far under the host's names."""
        assert on.world is not None
        self.on, self.change, self.points, self.seconds, self.erased = on, change, 0, 0.0, False
        self._start = time.perf_counter()

    def point(self) -> bool:
        """Count a training point; True when this was the last one needed."""
        self.points += 1
        if self.points % JUDGE_EVERY:
            return False
        self.seconds += time.perf_counter() - self._start
        self.erased = self._erased()
        self._start = time.perf_counter()
        return self.erased

    @property
    def figures(self) -> dict[str, float | None]:
        """Seconds and points until erased, or None where LIMIT points have not been enough."""
        if not self.erased:
            return {"seconds_to_erased": None, "points_to_erased": None}
        return {"seconds_to_erased": self.seconds, "points_to_erased": self.points}

    def _erased(self) -> bool:
        """A cat in at most 10 % of 16 pictures, and each other object in 95 % of those that showed it before."""
        from esd_pack.commands.playground.world import OBJECTS, Judged
        from esd_pack.esd.erasure import Erasure
        from esd_pack.nodes.host.model.apply import apply

        weights = Erasure({f"diffusion_model.{n}": t.clone() for n, t in self.change().items()})
        with torch.inference_mode():
            model = apply(self.on.model, weights, 1.0)
            gone = self._rate(model, [Judged(CONCEPT, "object", CONCEPT)] * 16)
            if gone.after > 0.1:
                return False
            kept = self._rate(model, [Judged(o, "object", o) for o in OBJECTS if o != CONCEPT])
        return kept.after >= 0.95 * kept.before

    def _rate(self, model: Any, group: list[Any]) -> Any:
        return self.on.world.rates(model, {"group": group})["group"]
