"""A text encoder of words: what closed forms need, where random tokens for each prompt leave nothing to solve."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from support.family_models import RandomText

WIDTH, POOLED, LENGTH = 512, 768, 16


class WordText(RandomText):
    """A text encoder with one vector a word, whatever stands beside it; the pooled one is their sum."""

    def encode_from_tokens_scheduled(self, text: str) -> list[Any]:
        """Return the words' vectors, filled up with that of the end."""
        told = torch.zeros((1, LENGTH, self.width))
        words = [*text.split(), *["</s>"] * LENGTH][:LENGTH]
        found = torch.stack([self._vector(word, WIDTH + POOLED) for word in words])
        told[0, :, :WIDTH] = found[:, :WIDTH]
        pooled = torch.zeros((1, self.pooled))
        pooled[0, :POOLED] = found[: 1 + len(text.split()), WIDTH:].sum(0)
        return [[told, {"pooled_output": pooled}]]

    @staticmethod
    def _vector(word: str, width: int) -> Tensor:
        seed = int.from_bytes(word.encode()[-7:].rjust(7, b"\0"), "big")
        return torch.randn(width, generator=torch.Generator().manual_seed(seed))
