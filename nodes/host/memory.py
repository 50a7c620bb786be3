"""How much memory a run needs, said before it starts, and refused where it is not there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch

from ...esd.errors import EsdError
from ...esd.settings import Settings
from .denoiser import samples_together
from .families import NETWORK_PREFIX

OPTIMIZER_BYTES: dict[str, Callable[[tuple[int, ...]], float]] = {
    "adamw": lambda shape: 8 * math.prod(shape),
    "adamw8bit": lambda shape: 2 * math.prod(shape),
    # a row and a column for the last two dimensions
    "adafactor": lambda shape: 4 * math.prod(shape) * (1 / shape[-1] + 1 / shape[-2] if len(shape) > 1 else 1),
}
"""Bytes of optimiser state for a trained tensor of a shape."""

TRAINING_ACTIVATIONS = 3.0
"""Activations kept for backward, as a multiple of the host's own estimate for one sampling pass."""

CHECKPOINTED_ACTIVATIONS = 1.2
"""The same with gradient checkpointing."""


LESS = (
    "choose a smaller method (esd-x-strict), the optimiser adafactor, checkpointing on, or a smaller width and height"
)
"""The cure."""


@dataclass(frozen=True)
class Need:
    """Bytes beyond the loaded MODEL: copies of weights, the student with gradient and optimiser, activations."""

    copies: int
    student: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.copies + self.student + self.activations

    def __str__(self) -> str:
        """For the log."""
        return (
            f"{_gb(self.total)} beyond the model: student, gradients and optimiser {_gb(self.student)}, "
            f"activations {_gb(self.activations)}, copied weights {_gb(self.copies)}"
        )


def estimate(
    model: Any,
    names: Sequence[str],
    latent: tuple[int, ...],
    settings: Settings,
    device: torch.device,
    dtype: torch.dtype,
    checkpointing: bool,
    streams: int = 1,
) -> Need:
    """What a run with these settings will take on the device; keeps are a second stream of examples."""
    weights = model.model_state_dict(NETWORK_PREFIX)
    shapes = [tuple(weights[NETWORK_PREFIX + name].shape) for name in names]
    trained = sum(math.prod(shape) for shape in shapes)
    moved = sum(t.numel() for k, t in weights.items() if t.device != device or t.dtype != dtype or k in model.patches)
    activation = model.model.memory_required([streams * settings.batch_size, *latent])
    factor = CHECKPOINTED_ACTIVATIONS if checkpointing else TRAINING_ACTIVATIONS
    asked = (3 if settings.source == "student" else 2) * settings.walk_batch  # prompts of a walk, or of its targets
    walking = model.model.memory_required([min(asked, samples_together(latent, device)), *latent])
    casts = 0 if dtype is torch.float32 else trained
    return Need(
        copies=(moved + casts) * torch.empty(0, dtype=dtype).element_size(),
        student=8 * trained + int(sum(map(OPTIMIZER_BYTES[settings.optimizer], shapes))),
        activations=int(max(activation * factor, walking)),
    )


def require(need: Need, device: torch.device) -> None:
    """Make room through the host's memory manager, and raise EsdError with the cure where it is not enough."""
    comfy.model_management.free_memory(need.total, device)
    free = comfy.model_management.get_free_memory(device)
    if need.total > free:
        raise EsdError(f"This run needs about {_gb(need.total)} on {device} and {_gb(int(free))} are free: {LESS}.")


def clear(device: torch.device) -> None:
    """Send the host's models, the text encoder among them, off a GPU while training; they return when next used."""
    if not comfy.model_management.is_device_cpu(device):
        comfy.model_management.free_memory(1e30, device)


def take_back_layers(model: Any) -> None:
    """Let the host unload the MODELs of this network whose layers are now in place of its own.

    Layers that another plugin lends to a MODEL stay in the network until another MODEL is sampled, and all MODELs of
    a checkpoint share one network.
    """
    loaded = comfy.model_management.current_loaded_models
    lent = [each for each in loaded if each.model is not None and model.is_clone(each.model) and _lends(each.model)]
    if lent:
        keep = [each for each in loaded if each not in lent]
        comfy.model_management.free_memory(1e30, lent[0].device, keep_loaded=keep)


def _lends(model: Any) -> bool:
    return model.is_injected or any(name.startswith("diffusion_model") for name in model.object_patches_backup)


def free_for(need: Need, device: torch.device) -> bool:
    """Whether the run fits into what is free when the host has made what room it can."""
    comfy.model_management.free_memory(need.total, device)
    return need.total <= int(comfy.model_management.get_free_memory(device))


def _gb(size: int) -> str:
    return f"{size / 2**30:.2f} GB"


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out: each device and system has its own type or its own words for it."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _SHORTAGE)


_SHORTAGE = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


@contextmanager
def shortage_said(doing: str, cure: str) -> Iterator[None]:
    """Where memory runs out inside, raise EsdError with what was done and the cure, and let the host unload models."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        comfy.model_management.unload_all_models()  # the host does so for the errors that it knows
        raise EsdError(f"Memory ran out while {doing}: {cure}.") from error
