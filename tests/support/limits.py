"""Bounds on what a call may take: seconds, and memory beyond what the process has already."""

from __future__ import annotations

import signal
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


class TooLong(BaseException):
    """A call took longer than it may; no Exception, so that nothing under test can swallow it."""


@contextmanager
def seconds(most: float) -> Iterator[None]:
    """Stop what runs longer, where the system can, and fail it in any case."""
    can_stop = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    started = time.monotonic()
    if can_stop:
        before = signal.signal(signal.SIGALRM, lambda *_: _too_long(most))
        signal.setitimer(signal.ITIMER_REAL, most)
    try:
        yield
    finally:
        if can_stop:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    if time.monotonic() - started > most:
        _too_long(most)


def _too_long(most: float) -> None:
    raise TooLong(f"it took longer than {most} s")


def _status(field: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))


@contextmanager
def address_space(more: int) -> Iterator[None]:
    """While it is open the process may map that many more bytes and no more; without such a limit, nothing."""
    if resource is None or not hasattr(resource, "RLIMIT_AS"):
        yield
        return
    try:
        now = _status("VmSize")
    except OSError:  # no Linux
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def peak_rss() -> int:
    """The most memory that the process has had so far, in bytes; 0 where the system does not tell."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if resource else 0


@contextmanager
def python_memory(most: int) -> Iterator[None]:
    """Fail when Python's own objects take more bytes than that at once."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= most, f"{peak:,} bytes of Python objects at once"
