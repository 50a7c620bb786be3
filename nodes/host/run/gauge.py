"""How much memory of a device a run really takes, where PyTorch counts it."""

from __future__ import annotations

from typing import Any

import torch


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
