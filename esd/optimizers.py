"""The optimisers: how each is made, and what its state takes."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import EsdError

Parameters = list[torch.nn.Parameter]


@dataclass(frozen=True)
class Optimizer:
    """A row of the table: the maker from parameters and learning rate, and bytes of state for a tensor of a shape."""

    make: Callable[[Parameters, float], torch.optim.Optimizer]
    state_bytes: Callable[[tuple[int, ...]], float]


def make_optimizer(name: str, parameters: Parameters, lr: float) -> torch.optim.Optimizer:
    """Make an optimiser with torch's default betas and no weight decay (then AdamW is the paper's Adam)."""
    return OPTIMIZERS[name].make(parameters, lr)


def _adamw(parameters: Parameters, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0, foreach=False)


SMALLEST_SCALE = 1e-3
"""The least root mean square that Adafactor takes a tensor to have."""


def _adafactor(parameters: Parameters, lr: float) -> torch.optim.Optimizer:
    """Make an Adafactor whose rate means the same as Adam's: torch's multiplies it with each tensor's magnitude."""
    groups = [{"params": [each], "lr": lr / max(SMALLEST_SCALE, _root_mean_square(each))} for each in parameters]
    return torch.optim.Adafactor(groups, lr=lr, eps=(None, SMALLEST_SCALE), weight_decay=0.0, foreach=False)


def _root_mean_square(tensor: Tensor) -> float:
    return float(tensor.detach().square().mean().sqrt())


def _adamw8bit(parameters: Parameters, lr: float) -> torch.optim.Optimizer:
    try:
        bitsandbytes = importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise EsdError(
            "The optimiser adamw8bit needs the bitsandbytes package, which is not installed: "
            "install it into ComfyUI's Python, or choose adamw or adafactor."
        ) from error
    optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(parameters, lr=lr, weight_decay=0.0)
    return optimizer


def _adafactor_bytes(shape: tuple[int, ...]) -> float:
    """Count a row and a column for the last two dimensions."""
    return 4 * math.prod(shape) * (1 / shape[-1] + 1 / shape[-2] if len(shape) > 1 else 1)


OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": Optimizer(_adamw, lambda shape: 8 * math.prod(shape)),
    "adamw8bit": Optimizer(_adamw8bit, lambda shape: 2 * math.prod(shape)),
    "adafactor": Optimizer(_adafactor, _adafactor_bytes),
}
