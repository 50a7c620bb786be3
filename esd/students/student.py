"""What a student is, and the plan that it is made from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..erasure import Erasure


@dataclass(frozen=True)
class StudentPlan:
    """Which weights are trained, of some only the rows from a first to a last (not included), and how.

    `rank` 0 trains them themselves; above, a change of that rank beside each, whose first values come from `seed`.
    Those that are `fixed` stay as the student begins.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[str, tuple[int, int]], ...] = ()
    rank: int = 0
    seed: int = 0
    fixed: tuple[str, ...] = ()

    @property
    def learning(self) -> StudentPlan:
        """The same without the weights that stay as a start has made them."""
        return replace(self, names=tuple(name for name in self.names if name not in self.fixed))

    def rows_of(self, name: str, height: int) -> tuple[int, int]:
        """Return the trained rows of a weight that has `height`."""
        return dict(self.rows).get(name, (0, height))


class Student(Protocol):
    """What is trained over one frozen network."""

    @property
    def trainable(self) -> Mapping[str, torch.nn.Parameter]:
        """The float32 parameters by name, on the network's device; those of fixed weights ask for no gradient."""

    def begin(self, edits: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        """Begin at W (I + B) instead of W, with B ("i i") by weight, or begin anew; layers compute in `dtype`."""

    def attached(self, dtype: torch.dtype) -> AbstractContextManager[None]:
        """While it is open the network answers as the student; its layers compute in `dtype`."""

    def erasure(self, prefix: str) -> Erasure:
        """Return student minus base, float32 on the CPU, each weight's name after the prefix."""


Shape = tuple[int, ...]


def parameter_shapes(plan: StudentPlan, shapes: Mapping[str, Shape]) -> list[Shape]:
    """Return the shapes of the parameters of a student over weights of these shapes."""
    found: list[Shape] = []
    for name in plan.names:
        height, *others = shapes[name]
        first, last = plan.rows_of(name, height)
        whole = (last - first, *others)
        found += [(plan.rank, whole[1]), (whole[0], plan.rank)] if plan.rank else [whole]
    return found
