"""The seam between the method and a host: what ESD needs to know of a diffusion model, and no more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

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
    constants: Mapping[str, Any] = field(default_factory=dict)
    """What is no tensor (a number of tokens): only prompts that agree in it go through the network together."""
    sampling: Mapping[str, Tensor] = field(default_factory=dict)
    """What is told otherwise on a trajectory: the guidance of networks that have it as an input, and need no CFG."""
    repeatable: bool = True
    """Whether tokens may be repeated to the length of a longer prompt: cross-attention does not notice."""

    @property
    def on_trajectory(self) -> Condition:
        """What the network is told while a trajectory is sampled."""
        return replace(self, tensors={**self.tensors, **self.sampling}) if self.sampling else self


def stack(conditions: Sequence[Condition]) -> Condition:
    """Batch conditions in order: each tensor becomes "b ...".

    Token sequences ("1 n d") of different lengths are repeated to their least common multiple: attention over a
    repeated sequence equals attention over the sequence itself.
    """
    first = conditions[0]
    tensors = {n: torch.cat(same_length([c.tensors[n] for c in conditions])) for n in first.tensors}
    return replace(first, tensors=tensors, sampling={})


@dataclass(frozen=True)
class Batch:
    """Conditions ready for the network: for each call the rows that it answers for, and what it is told."""

    calls: tuple[tuple[list[int], Condition], ...]


def batched(conditions: Sequence[Condition]) -> Batch:
    """Put conditions into as few calls as their kind allows, in order.

    Joint attention would see repeated tokens more often, so prompts of other lengths are calls of their own there.
    """
    rows: dict[Any, list[int]] = {}
    for row, each in enumerate(conditions):
        rows.setdefault(_shared(each), []).append(row)
    return Batch(tuple((own, stack([conditions[row] for row in own])) for own in rows.values()))


def _shared(condition: Condition) -> Any:
    """Return what conditions of one call have in common."""
    shapes = () if condition.repeatable else tuple((n, t.shape) for n, t in sorted(condition.tensors.items()))
    return shapes, repr(sorted(condition.constants.items()))


def predict(denoiser: Denoiser, x: Tensor, sigma: Tensor, batch: Batch) -> Tensor:
    """Return the network's raw outputs for x ("b ...") and sigma ("b"), whatever the calls, in the order of x."""
    if len(batch.calls) == 1:
        return denoiser.predict(x, sigma, batch.calls[0][1])
    answers = torch.cat([denoiser.predict(x[rows], sigma[rows], told) for rows, told in batch.calls])
    return answers[torch.tensor([row for rows, _ in batch.calls for row in rows], device=x.device).argsort()]


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

    x is the host's sigma-parametrised sample, "b c h w" (or "b c t h w"): x0 + sigma * noise for epsilon- and
    v-prediction, (1 - sigma) * x0 + sigma * noise for rectified flow.  sigma is "b", float32.
    """

    @property
    def trainable(self) -> Mapping[str, torch.nn.Parameter]:
        """The student's float32 weights by name; the base's own stay untouched."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of one sample, "c h w", or "c t h w" for networks of videos."""

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
