"""Counting and timing what goes through a network, and the peak memory of this process."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch


class Meter:
    """Network passes (samples forward, and twice that again for each backward) and the seconds inside them."""

    def __init__(self) -> None:
        self.passes = 0
        self.inside = 0.0
        self._start = 0.0

    def attach(self, network: torch.nn.Module) -> None:
        """Watch a network's forward calls."""
        network.register_forward_pre_hook(self._enter)
        network.register_forward_hook(self._leave)

    def _enter(self, network: Any, inputs: Any) -> None:
        self._start = time.perf_counter()

    def _leave(self, network: Any, inputs: Any, output: Any) -> None:
        sample = output if isinstance(output, torch.Tensor) else output.sample
        self.inside += time.perf_counter() - self._start
        self.passes += sample.shape[0] * (3 if sample.requires_grad else 1)

    @contextmanager
    def backwards(self) -> Iterator[None]:
        """Count the time of every backward as inside the network."""
        original = torch.Tensor.backward

        def timed(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> None:
            start = time.perf_counter()
            original(tensor, *args, **kwargs)
            self.inside += time.perf_counter() - start

        torch.Tensor.backward = timed  # type: ignore[method-assign]
        try:
            yield
        finally:
            torch.Tensor.backward = original  # type: ignore[method-assign]


class PeakMemory:
    """The most resident memory that this process held above a starting point; the benches run on the CPU."""

    def __enter__(self) -> PeakMemory:
        self.bytes, self._stop = 0, threading.Event()
        _give_back()
        self._start = resident()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.bytes = max(self.bytes, resident() - self._start)

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self.bytes = max(self.bytes, resident() - self._start)


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(psutil.Process().memory_info().rss)


def highest() -> int:
    """The most resident memory that this process ever held, in bytes, its model and everything else included."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _give_back() -> None:
    """Return freed memory to the system, so that what a run takes is not hidden by what building the model left."""
    gc.collect()
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
