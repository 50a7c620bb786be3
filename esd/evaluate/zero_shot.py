"""CLIP as a judge: the label whose words lie nearest to the picture, where both towers of one CLIP are really there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..errors import EsdError
from .metrics import Rate, plain_rate, rate_words

TEMPLATES = ("{}", "a picture of {}", "a photo of a {}")
"""A label's text feature is the mean over these."""

SCALE = 100.0
"""What CLIP was trained to: the softmax's sharpness."""

LEAST_SPREAD = 1e-3
"""Standard deviation of a projection's values: one that no file has filled holds leftovers of memory or zeros."""

LEAST_RIGHT = 0.8
"""Of the base's own pictures, below which the judge is refused."""


def require_projection(weight: Tensor | None, tower: str) -> None:
    """Raise EsdError where a projection into the common space is not there or was never filled."""
    values = None if weight is None else weight.detach().float()
    if values is None or not bool(torch.isfinite(values).all()) or float(values.std()) < LEAST_SPREAD:
        raise EsdError(
            f"The {tower} has no projection into CLIP's common space, as the text encoder of SD1.x checkpoints has "
            "none: load text encoder and CLIP vision from one whole CLIP file, or use the judge Prototypes."
        )


def logits(pictures: Tensor, words: Tensor) -> Tensor:
    """Return "b n" for the projected features of pictures "b d" and of labels "n d"."""
    return SCALE * normalize(pictures.double(), dim=1) @ normalize(words.double(), dim=1).T


def self_test(found: Tensor, labels: Sequence[str], each: int) -> Rate:
    """Return how often the base's own pictures, "n * each n", were given their label; raise EsdError below 80 %."""
    truth = torch.arange(len(labels)).repeat_interleave(each)
    right = plain_rate(int((found.argmax(dim=1) == truth).sum()), len(truth))
    if right.share < LEAST_RIGHT:
        raise EsdError(
            f"CLIP names {rate_words(right)} of the base's own pictures rightly, and {LEAST_RIGHT:.0%} are needed: "
            "connect the two towers of one CLIP, or use the judge Prototypes."
        )
    return right
