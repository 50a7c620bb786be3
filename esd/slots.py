"""Free slots of a condition: tokens beside a prompt's own that an attack moves to bring a concept back.

The tokens are those that the network reads, behind the text encoder: no gradient of the encoder is needed, and any
network that is told a sequence of tokens can be attacked.  Receler (Huang et al., ECCV 2024) puts 16 such tokens
behind a prompt and moves them by Adam.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .denoiser import Condition, Denoiser, batched, predict
from .errors import EsdError

SLOTS = 16
"""Tokens that are free, as in Receler; of short sequences at most half."""

RATE = 0.1
"""Adam's step, as in Receler, as a share of the size of a prompt's tokens."""

BETAS, EPSILON = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Slots:
    """The last tokens of a condition in the place of its own: "k d", in units of `unit`, and Adam's state.

    `told` is the prompt's own condition, and `longest` how long a free token may be: no longer than one of its own.
    """

    told: Condition
    name: str
    unit: float
    longest: float
    values: Tensor
    first: Tensor
    second: Tensor
    moved: int = 0

    @property
    def condition(self) -> Condition:
        """What the network is told with the slots filled."""
        return _filled(self, self.values)


def token_name(condition: Condition) -> str:
    """Return the name of the one sequence of tokens "1 n d" that a condition has.

    Raises EsdError for networks that read prompts otherwise.
    """
    names = [name for name, tensor in condition.tensors.items() if tensor.ndim == 3]
    if len(names) != 1 or condition.constants or not condition.repeatable:
        raise EsdError(
            "This MODEL is not told a prompt as one plain sequence of tokens, so none of them can be set free: "
            "leave robustness off, and judge attempts to bring a concept back by pictures, with Evaluate."
        )
    return names[0]


def open_slots(condition: Condition, generator: torch.Generator | None = None, apart: float = 1.0) -> Slots:
    """Free the last tokens of a condition, at their own values or, with a generator, at random ones of their size.

    Random values are mixed with their own: `apart` 1 has nothing of these.
    """
    name = token_name(condition)
    tokens = condition.tensors[name][0].detach().float()
    unit = float(tokens.square().mean().sqrt().clamp(min=1e-8))
    values = tokens[-min(SLOTS, max(1, len(tokens) // 2)) :] / unit
    if generator is not None:
        values = (1 - apart) * values + apart * torch.randn(values.shape, generator=generator).to(values)
    longest = float(tokens.norm(dim=1).max()) / unit
    bounded = _bounded(values, longest)
    return Slots(condition, name, unit, longest, bounded, torch.zeros_like(bounded), torch.zeros_like(bounded))


def move(slots: Slots, denoiser: Denoiser, x: Tensor, sigma: Tensor, wanted: Tensor) -> Slots:
    """Take one step of Adam towards |eps_student(x, slots) - wanted|^2 = 0; a pass forward and back for each x.

    x and wanted are "b c h w", sigma "b".  A gradient that is not finite moves nothing.
    """
    values = slots.values.detach().clone().requires_grad_()
    with torch.enable_grad(), denoiser.student():
        answered = predict(denoiser, x, sigma, batched([_filled(slots, values)] * len(x)))
        (gradient,) = torch.autograd.grad((answered - wanted).square().mean() * denoiser.loss_scale, values)
    gradient = gradient.float() / denoiser.loss_scale
    if not bool(torch.isfinite(gradient).all()):
        return slots
    moved = slots.moved + 1
    first = BETAS[0] * slots.first + (1 - BETAS[0]) * gradient
    second = BETAS[1] * slots.second + (1 - BETAS[1]) * gradient.square()
    size = (second / (1 - BETAS[1] ** moved)).sqrt() + EPSILON
    there = slots.values - RATE * first / (1 - BETAS[0] ** moved) / size
    return replace(slots, values=_bounded(there, slots.longest), first=first, second=second, moved=moved)


def _bounded(values: Tensor, longest: float) -> Tensor:
    """Shorten tokens that are longer than any of the prompt's own."""
    bounded: Tensor = values * (longest / values.norm(dim=1, keepdim=True).clamp(min=longest))
    return bounded


def _filled(slots: Slots, values: Tensor) -> Condition:
    own = slots.told.tensors[slots.name]
    free = (values * slots.unit).to(own.dtype)[None]
    tokens = torch.cat([own[:, : own.shape[1] - free.shape[1]], free], dim=1)
    return replace(slots.told, tensors={**slots.told.tensors, slots.name: tokens})
