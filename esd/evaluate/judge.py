"""What judges pictures: anything that says, for each label of a prompt set, whether it sees it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class Verdicts:
    """Of "b" pictures and "n" labels: the judge's figures "b n", what counts as found "b n", and its answers.

    Answers are a row a picture and one a label: a judge that sees several kinds of things gives one of each kind.
    """

    labels: tuple[str, ...]
    scores: Tensor
    found: Tensor
    answers: tuple[tuple[str, ...], ...]


class Judge(Protocol):
    """A judge of pictures."""

    @property
    def card(self) -> str:
        """One line for the report: what it is, and what its figures mean."""

    def check(self, labels: Sequence[str], sizes: Collection[Size] = ()) -> None:
        """Raise EsdError for labels or sizes of pictures that it can say nothing of, before anything is drawn."""

    def judge(self, pictures: Tensor, labels: Sequence[str]) -> Verdicts:
        """Judge pictures "b h w 3" in 0 ... 1."""
