"""The seam between the method and a host: what ESD needs to know of a diffusion model, and no more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from einops import repeat
from torch import Tensor

from .errors import EsdError

MOST_TOKENS = 2**16
"""The longest sequence that prompts of different lengths may be repeated to."""


@dataclass(frozen=True)
class Condition:
    """Everything the network is told beside x_t and sigma for one prompt; each tensor is "1 ..."."""

    tensors: Mapping[str, Tensor]


def stack(conditions: Sequence[Condition]) -> Condition:
    """Batch conditions in order: each tensor becomes "b ...".

    Token sequences ("1 n d") of different lengths are repeated to their least common multiple: attention over a
    repeated sequence equals attention over the sequence itself.
    """
    names = conditions[0].tensors.keys()
    return Condition({name: torch.cat(same_length([c.tensors[name] for c in conditions])) for name in names})


def same_length(tensors: list[Tensor]) -> list[Tensor]:
    """Token sequences ("b n d") repeated to one length; anything else as it is.

    Raises EsdError for prompts whose common length would fill the memory.
    """
    if tensors[0].ndim != 3 or len({t.shape[1] for t in tensors}) == 1:
        return tensors
    length = math.lcm(*(t.shape[1] for t in tensors))
    if length > MOST_TOKENS:
        longest = max(t.shape[1] for t in tensors)
        raise EsdError(
            f"The prompts are too different in length to go together (the longest has {longest} tokens, all together "
            f"would take {length}): shorten the long ones."
        )
    return [repeat(t, "b n d -> b (r n) d", r=length // t.shape[1]) for t in tensors]


class Denoiser(Protocol):
    """A frozen network (the base) and its trainable double (the student) over the same weights.

    x is the host's sigma-parametrised sample, "b c h w": x0 + sigma * noise for epsilon- and v-prediction,
    (1 - sigma) * x0 + sigma * noise for rectified flow.  sigma is "b", float32.
    """

    @property
    def trainable(self) -> Mapping[str, torch.nn.Parameter]:
        """The student's float32 weights by name; the base's own stay untouched."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of one sample, "c h w"."""

    @property
    def device(self) -> torch.device:
        """Where x, sigma and conditions are expected."""

    @property
    def loss_scale(self) -> float:
        """By what the loss is multiplied for backward, a power of two: above 1 where small gradients would vanish."""

    def student(self) -> AbstractContextManager[None]:
        """While it is open, `predict` answers as the student (keep it open over backward), else as the base."""

    def predict(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Return the network's raw output in its own space (epsilon, v or velocity), "b c h w", float32."""

    def denoised(self, raw: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the estimate of x0 that a raw output stands for, "b c h w"."""

    def sigmas(self, steps: int) -> Tensor:
        """Return the noise levels of a trajectory of that many steps, high to low, and a last 0: "steps + 1"."""

    def pure_noise(self, noise: Tensor, sigma: Tensor) -> Tensor:
        """Return the x at the first level ("b") of trajectories from standard normal noise, "b c h w"."""

    def difference(self) -> dict[str, Tensor]:
        """Student minus base by name, float32, on the CPU."""
