"""The text tower of the transformer world: that of the first world, and a summary of each prompt.

Stable Diffusion 3 reads CLIP-L before its last layer, without a norm, and its summary behind the last layer, where the
prompt's end stands. The last layer here adds the mean of the words to it, so that the summary tells what a prompt says,
as a trained one would.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .captions import CONTEXT, LENGTH, WORDS, TextTower, text_tower
from .transformer import Prompts

NAMED_PLACES = 12
"""Tokens that know their place; the others are told no places, so that what fills a prompt up is one token."""

GAIN = 4.0
"""How much the mean of the words counts in the summary; a prompt of nine tokens has one of deviation 1/3."""

END = WORDS - 1


@dataclass(frozen=True)
class SummaryTower:
    """Tokens to what the transformer is told."""

    tower: TextTower

    def __call__(self, tokens: Tensor) -> Prompts:
        """What the host makes of tokens "b 77", token by token."""
        own = self._embedded(tokens)
        return Prompts(own, self._summary(own, tokens))

    def shortened(self, tokens: Tensor) -> Prompts:
        """The same, with the tokens that all prompts are filled up with as one that counts for all of them."""
        named = int((tokens != END).sum(1).max()) + 1
        own = min(max(named, NAMED_PLACES), LENGTH - 1)
        made = self._embedded(tokens[:, : own + 1])
        return Prompts(made, self._summary(made, tokens[:, : own + 1]), LENGTH - own)

    def _embedded(self, tokens: Tensor) -> Tensor:
        return self.tower.table[tokens].float() + self.tower.positions[: tokens.shape[1]].float()

    @staticmethod
    def _summary(own: Tensor, tokens: Tensor) -> Tensor:
        rows, end = torch.arange(len(tokens)), (tokens == END).int().argmax(1)
        sums = functional.layer_norm(own, (CONTEXT,)).cumsum(1)[rows, end]
        return functional.layer_norm(own[rows, end] + GAIN * sums / (end + 1)[:, None], (CONTEXT,))


def summary_tower() -> SummaryTower:
    """The tower, the same every time."""
    first = text_tower()
    positions = first.positions.clone()
    positions[NAMED_PLACES:] = 0
    return SummaryTower(TextTower(first.line, positions))
