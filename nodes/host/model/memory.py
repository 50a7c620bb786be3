"""How much memory a run needs, said before it starts and refused where it is not there, and how much it took."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from ....esd.errors import EsdError
from ....esd.optimizers import OPTIMIZERS
from ....esd.settings import Settings
from ....esd.students import parameter_shapes
from .backward import block_paths
from .denoiser import max_samples
from .host_model import HostModel
from .loaded import offload_others
from .rehearsal import Stage, sampling_bytes, training_bytes
from .weights import is_within

LOWER_MEMORY_HINT = (
    "choose rank 16, a smaller method (esd-x-strict), the optimiser adafactor, checkpointing on, or a smaller width "
    "and height"
)
"""The cure."""

MARGIN = 1.1
"""How much more room than the estimate is asked of the host: what an allocator loses, and what kernels take."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes beyond what is on the device: copied weights, the student and its optimiser, the largest call.

    A preview comes between two steps, when a call's memory is free again; a run that has no room for it goes on
    without.
    """

    copies: int = 0
    student: int = 0
    activations: int = 0
    preview: int = 0

    @property
    def total(self) -> int:
        """What a run cannot do without."""
        return self.copies + self.student + self.activations

    @property
    def wanted(self) -> int:
        """The same with previews, and a margin."""
        return int(MARGIN * (self.copies + self.student + max(self.activations, self.preview)))

    def __str__(self) -> str:
        """For the log."""
        return (
            f"{gb(self.total)} beyond the model: student and optimiser {gb(self.student)}, "
            f"activations and gradients {gb(self.activations)}, copied weights {gb(self.copies)}"
        )


def estimate(
    on: Stage, settings: Settings, device: torch.device, gradient_checkpointing: bool, streams: int = 1
) -> MemoryEstimate:
    """Return what a run with these settings takes on the device beside copied weights; keeps are a second stream."""
    every, learning = (parameter_shapes(each, dict(on.weights)) for each in (on.student, on.student.learning))
    prompts = 3 if settings.sampler_model == "student" else 2  # of a trajectory, or of its targets
    together = min(prompts * settings.trajectory_batch, max_samples(on.latent, device))
    called = (training_bytes(on, streams * settings.batch_size, gradient_checkpointing), sampling_bytes(on, together))
    student = 4 * sum(map(math.prod, every)) + int(sum(map(OPTIMIZERS[settings.optimizer].state_bytes, learning)))
    if settings.gradient_accumulation_steps > 1:  # gradients outlive a call only where they are added up
        student += 4 * sum(map(math.prod, learning))
    return MemoryEstimate(student=student, activations=max(called))


def copied_bytes(host: HostModel, device: torch.device, dtype: torch.dtype) -> dict[str, int]:
    """Return the bytes of each weight that a run copies to the device; those that it shares with the MODEL have 0.

    Copied are the weights that are elsewhere, in another dtype, or patched.
    """
    if host.is_quantised:
        kept = host.network.state_dict().items()
        return {name: 0 if t.device == device else t.numel() * t.element_size() for name, t in kept}
    weights = host.weights().items()
    return {name: 0 if w.shares(device, dtype) else math.prod(w.shape) * dtype.itemsize for name, w in weights}


def cast_bytes(host: HostModel, dtype: torch.dtype) -> int:
    """Return what the weights of the largest block take as its layers compute with them, where they are quantised.

    Backward keeps those of the block that it has recomputed.
    """
    if not host.is_quantised:
        return 0
    sizes = {name: t.numel() * dtype.itemsize for name, t in host.network.named_parameters()}
    paths = block_paths(host.network, host.family.backward.blocks)
    return max(sum(size for name, size in sizes.items() if is_within(name, (path,))) for path in paths)


def with_room(
    need: MemoryEstimate, host: HostModel, device: torch.device, dtype: torch.dtype
) -> tuple[MemoryEstimate, int]:
    """Make room for a run through the host's memory manager; returns the need with its copies, and what is free.

    What a run does not copy it shares with the MODEL, which then stays; a quantised one only as a whole.
    """
    copied = copied_bytes(host, device, dtype).values()
    need = replace(need, copies=sum(copied))
    stays = not any(copied) if host.is_quantised else not all(copied)
    return need, offload_others(need.wanted, device, shared=host.patcher if stays else None)


def ensure_free(need: MemoryEstimate, free: int, device: torch.device) -> None:
    """Raise EsdError with the cure where a run does not fit."""
    if need.total > free:
        raise EsdError(
            f"This run needs about {gb(need.total)} on {device} and {gb(free)} are free: {LOWER_MEMORY_HINT}."
        )


def gb(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.2f} GB"


class Gauge:
    """Bytes allocated on a device above what was there at the beginning."""

    def __init__(self, device: torch.device) -> None:
        """Begin to count; on devices that PyTorch does not count for (the CPU, MPS) `peak` stays None."""
        module: Any = getattr(torch, device.type, None)
        self.device, self.counter = device, module if hasattr(module, "reset_peak_memory_stats") else None
        if self.counter is not None:
            self.counter.reset_peak_memory_stats(device)
            self.begun = int(self.counter.memory_allocated(device))

    @property
    def peak(self) -> int | None:
        """The most since the beginning."""
        return None if self.counter is None else int(self.counter.max_memory_allocated(self.device)) - self.begun
