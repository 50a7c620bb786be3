"""The learning rate that a run finds for itself.

Adam moves each weight by about the learning rate in each step, so how far a concept falls in a few steps follows from
the rate, the network, the method and the rank.  A run begins at a rate at which little moves; as long as hardly
anything has moved, a measurement sets it to the one at which a concept falls by `FALL` in a step of its own, unless
what has to stay (the empty prompt, and the carriers of contexts) would drift by more than `DRIFT`.
Afterwards it stays, and is halved where more is left than at the measurement before, or what has to stay runs away.
A start in closed form that has left less than `PARTLY` leaves too little to tell a rate from: such a run takes `USUAL`.
What a low-rank student does grows with the square of the rate, since both factors of its change move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from .settings import Settings
from .until_gone import Left

FALL = 0.04
"""How much of a concept goes in a step of its own."""

BEGIN, BEGIN_LOW_RANK = 1e-5, 1e-4
"""The rates of the first steps."""

DRIFT = 0.015
"""How far what stays may drift in such a step, as a share of what the concept does."""

EARLY, NEAR = 0.2, 0.1
"""The rate grows while less than `EARLY` of what was left at the beginning has gone, and less than `NEAR` drifted."""

FASTER = 32.0
"""By how much a rate grows at most from one measurement to the next."""

PARTLY, USUAL = 0.5, 4e-4
"""What a start in closed form leaves at least for a rate to be found, and the rate where it leaves less."""

MOST = 1e-2
"""No rate is above this."""

RISE, FAR = 0.1, 1.0
"""By how much more may be left at a measurement than at the one before, and how far what stays may drift."""


def needed(left: Sequence[Left]) -> float:
    """Return how much of the way is still to go, the mean over concepts and their prompts: 1 in the untouched model."""
    return sum(each.need(list(each.residuals)) for each in left) / len(left)


def drifted(left: Sequence[Left]) -> float:
    """Return how far what has to stay has drifted, the mean over concepts of their worst prompts."""
    return sum(each.drift for each in left) / len(left)


def first_rate(settings: Settings) -> float:
    """Return the rate of the first steps: the one that is set, or the one from which a run finds its own."""
    return settings.learning_rate or (BEGIN_LOW_RANK if settings.rank else BEGIN)


@dataclass(frozen=True)
class Pace:
    """A rate, and when it was set: after so many steps, with so much left (`need`) and so far drifted (`drift`).

    `first_` is what these were at the beginning of the run, `last_` when last measured.
    """

    rate: float
    step: int = 0
    need: float = 1.0
    drift: float = 0.0
    first_need: float = 1.0
    first_drift: float = 0.0
    last_need: float = 1.0
    last_drift: float = 0.0


class StepSize:
    """The rate of a run whose optimiser was made with `first_rate`."""

    def __init__(self, optimizer: torch.optim.Optimizer, settings: Settings) -> None:
        """Begin at the first rate, and stay there until `measured` sets another."""
        self.optimizer, self.begun = optimizer, [group["lr"] for group in optimizer.param_groups]
        self.first, self.power = first_rate(settings), 0.5 if settings.rank else 1.0
        self.pace = Pace(self.first)

    def measured(self, left: Sequence[Left], step: int) -> None:
        """Set the rate by how much was left after so many steps."""
        need, drift, before = needed(left), drifted(left), self.pace
        if not step:
            self.set(Pace(USUAL if need < PARTLY else before.rate, 0, *(need, drift) * 3))
            return
        self.pace = replace(before, last_need=need, last_drift=drift)
        if need > before.last_need + RISE or drift > max(before.first_drift + FAR, before.last_drift):
            self.set(replace(self.pace, rate=before.rate / 2, step=step, need=need, drift=drift))
        elif (
            before.first_need >= PARTLY and need > (1 - EARLY) * before.first_need and drift < before.first_drift + NEAR
        ):
            steps = (step - before.step) / len(left)
            factor = missing((before.need - need) / before.need / steps, (drift - before.drift) / steps)
            if factor > 2:
                rate = min(MOST, before.rate * factor**self.power)
                self.set(replace(self.pace, rate=rate, step=step, need=need, drift=drift))

    def set(self, pace: Pace) -> None:
        """Go on at a pace, as it was found."""
        self.pace = pace
        for group, lr in zip(self.optimizer.param_groups, self.begun, strict=True):
            group["lr"] = lr * (pace.rate / self.first)


def missing(fall: float, drift: float) -> float:
    """Return by how much faster a concept is to go that falls so far in a step of its own while so much drifts."""
    return min([FASTER, *(aim / by for aim, by in ((FALL, fall), (DRIFT, drift)) if by > 0)])
