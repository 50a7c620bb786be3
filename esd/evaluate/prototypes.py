"""A judge that learns its labels from the untouched model's own pictures, by their features in a vision encoder.

Each label has the mean of its pictures' features, and a picture shows the label whose mean is nearest (cosine).  Every
picture that taught it is then judged by the means of the others (leave-one-out): how often that is right says how far
the judge can be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

from ..errors import EsdError
from .metrics import Rate, plain_rate

SHARPNESS = tuple(2.0 ** (power / 2) for power in range(21))
"""By what cosines are multiplied before the softmax, 1 ... 1024: what makes leave-one-out likeliest is taken."""

FEWEST = 2
"""Pictures a label: the mean of the others needs one."""


@dataclass(frozen=True)
class Prototypes:
    """The means of "n" labels, "n d" of length 1, the softmax's sharpness, and what leave-one-out found."""

    labels: tuple[str, ...]
    means: Tensor
    sharpness: float
    right: Rate

    def logits(self, features: Tensor) -> Tensor:
        """Return "b n" for features "b d"."""
        return self.sharpness * normalize(features.double(), dim=1) @ self.means.T


def learn(labels: Sequence[str], features: Tensor) -> Prototypes:
    """Learn labels from features "n m d", m pictures of each; raise EsdError where there is nothing to tell apart."""
    if len(labels) < 2 or features.shape[1] < FEWEST:
        raise EsdError(
            f"Prototypes tell labels apart by pictures of each, and there are {len(labels)} labels with "
            f"{features.shape[1]} pictures: write kept prompts or alternatives, and take at least {FEWEST} pictures."
        )
    units = normalize(features.double(), dim=2)
    cosines, truth = _leave_one_out(units), torch.arange(len(labels)).repeat_interleave(units.shape[1])
    fits = [float(log_softmax(s * cosines, dim=1)[torch.arange(len(truth)), truth].mean()) for s in SHARPNESS]
    right = (cosines.argmax(dim=1) == truth).tolist()
    means = normalize(units.mean(dim=1), dim=1)
    return Prototypes(tuple(labels), means, SHARPNESS[fits.index(max(fits))], plain_rate(sum(right), len(right)))


def _leave_one_out(units: Tensor) -> Tensor:
    """Return the cosine of each picture with each mean, "(n m) n", its own label's mean being that of the others."""
    sums = units.sum(dim=1)
    cosines = torch.einsum("nmd,kd->nmk", units, normalize(sums, dim=1))
    others = normalize(sums[:, None] - units, dim=2)
    own = (units * others).sum(dim=2)
    for label in range(len(units)):
        cosines[label, :, label] = own[label]
    return rearrange(cosines, "n m k -> (n m) k")
