"""What judges pictures: anything that says, for each label of a prompt set, whether it sees it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Size = tuple[int, int]
"""Width and height in pixels."""

Draw = Callable[[Sequence[str], int], Tensor]
"""Pictures "b h w 3" of the untouched model: so many of each prompt, prompt by prompt, from seeds that no row has."""


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

    @property
    def identity(self) -> str:
        """What changes when its verdicts would: scores that were kept under another are not used."""

    def check(self, labels: Sequence[str], sizes: Collection[Size] = ()) -> None:
        """Raise EsdError for labels or sizes of pictures that it can say nothing of, before anything is drawn."""

    def judge(self, pictures: Tensor, labels: Sequence[str]) -> Verdicts:
        """Judge pictures "b h w 3" in 0 ... 1."""

    def ready(self, labels: Sequence[str], draw: Draw) -> Judge:
        """Return the judge of these labels: itself, or one that has learnt them from pictures of the base."""


def best_of(labels: Sequence[str], logits: Tensor) -> Verdicts:
    """Answer with the one label of the largest logit, "b n"; the score is the label's softmax."""
    best = logits.argmax(dim=1)
    answers = tuple((labels[place],) * len(labels) for place in best.tolist())
    found = best[:, None].cpu() == torch.arange(len(labels))
    return Verdicts(tuple(labels), logits.softmax(dim=1).cpu(), found, answers)
