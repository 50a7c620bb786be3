"""What an evaluation draws: one shot a picture, each with a seed of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, TypeVar

from ....esd.errors import EsdError
from ....esd.evaluate.prompt_set import PromptRow, PromptSet
from ..families import spatial_ratio
from .sampling import SEEDS, SamplerChoice


@dataclass(frozen=True)
class Shot:
    """One picture of a row: its seed, and how it is drawn."""

    row: PromptRow
    seed: int
    choice: SamplerChoice

    @property
    def drawing(self) -> tuple[SamplerChoice, str]:
        """What shots that go into one batch have in common."""
        return self.choice, self.row.negative


def shots_of(prompts: PromptSet, samples: int, choice: SamplerChoice) -> list[Shot]:
    """Return every picture of a set: a row's own seed, guidance and size count before the node's.

    Seeds of a row count on from its own; rows without one count on from the node's, so that no two share their noise.
    """
    shots: list[Shot] = []
    free = 0
    for row in prompts.drawn:
        count = row.samples * samples
        first = row.seed if row.seed is not None else choice.seed + free
        free += count if row.seed is None else 0
        own = replace(
            choice,
            cfg=choice.cfg if row.guidance is None else row.guidance,
            width=row.width or choice.width,
            height=row.height or choice.height,
        )
        shots += [Shot(row, (first + i) % SEEDS, own) for i in range(count)]
    return shots


def shard(shots: Sequence[Shot], number: int, count: int) -> list[Shot]:
    """Return every `count`-th shot from the `number`-th (from 1); raise EsdError where there is none."""
    if not 1 <= number <= count:
        raise EsdError(f"There is no shard {number} of {count}: choose one from 1 to {count}.")
    chosen = list(shots[number - 1 :: count])
    if not chosen:
        raise EsdError(f"Shard {number} of {count} is empty, as there are {len(shots)} pictures: choose fewer shards.")
    return chosen


def require_sizes(model: Any, shots: Sequence[Shot]) -> None:
    """Raise EsdError for a row whose size the MODEL cannot draw."""
    ratio = spatial_ratio(model)
    for shot in shots:
        if shot.choice.width % ratio or shot.choice.height % ratio:
            raise EsdError(
                f"The size {shot.choice.width} x {shot.choice.height} of row {shot.row.case:.40} does not fit this "
                f"MODEL: both must be multiples of {ratio}."
            )


def in_order(shots: Sequence[Shot]) -> list[Shot]:
    """Return shots with those that are drawn alike next to each other."""
    return sorted(shots, key=lambda s: (s.choice.cfg, s.choice.width, s.choice.height, s.row.negative))


Item = TypeVar("Item")


def runs(items: Sequence[Item], key: Callable[[Item], object], most: int) -> Iterator[list[Item]]:
    """Yield items that follow each other with one key, at most so many of them."""
    for _, alike in groupby(items, key):
        run = list(alike)
        yield from (run[first : first + most] for first in range(0, len(run), most))
