"""The batch on the terminal: a live table by rich where that is installed, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from .queue import Queue

PLAIN_SECONDS = 30.0


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in plain text."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def summary(queue: Queue) -> str:
    """Return how far the batch is, in one line."""
    done = sum(outcome.is_done for outcome in list(queue.outcomes.values()))
    failed = len(queue.outcomes) - done
    left = queue.seconds_left()
    words = f"{done} of {len(queue.jobs)} done, {failed} failed, {len(queue.running)} running"
    return words + (f", about {clock(left)} left" if left is not None and not queue.is_over else "")


def clock(seconds: float) -> str:
    """Return hours and minutes, "1 h 05 min", or minutes and seconds."""
    whole = int(seconds)
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min" if whole >= 3600 else f"{whole // 60}:{whole % 60:02d}"


def running_rows(queue: Queue) -> list[tuple[str, ...]]:
    """Return a line for each job that runs."""
    now = time.monotonic()
    return [(each.job.title, each.host, each.stage, clock(now - each.since)) for each in list(queue.running.values())]


class Screen:
    """Shows a queue while it is open."""

    def __init__(self, queue: Queue, say: Callable[[str], None]) -> None:
        """Choose how to show it; `say` writes a plain line where there is no live table."""
        self.queue, self.say, self.told, self.shown = queue, say, set(queue.earlier), 0.0
        self.noted = 0
        self.live = self._live() if sys.stdout.isatty() else None

    def __enter__(self) -> Screen:
        """Begin."""
        if self.live:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End, with a last look."""
        self()
        if self.live:
            self.live.stop()

    def _live(self) -> Any:
        try:
            from rich.live import Live
        except ImportError:
            return None
        return Live(get_renderable=self._picture, refresh_per_second=2)

    def _picture(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        made = Table()
        for name in ("job", "on", "at", "for"):
            made.add_column(name)
        for row in running_rows(self.queue):
            made.add_row(*map(Text, row))
        return Group(Text(summary(self.queue)), made)

    def __call__(self) -> None:
        """Tell what has ended since, and on plain output now and then how far all is."""
        for key, outcome in list(self.queue.outcomes.items()):
            if key not in self.told:
                self.told.add(key)
                self._say(
                    f"{outcome.state:<6} {self.queue.jobs[key].title}  {outcome.reason or clock(outcome.seconds)}"
                )
        for words in self.queue.notes[self.noted :]:
            self.noted += 1
            self._say(words)
        if not self.live and time.monotonic() - self.shown > PLAIN_SECONDS:
            self.shown = time.monotonic()
            self._say(summary(self.queue))

    def _say(self, words: str) -> None:
        if self.live:
            self.live.console.print(words, markup=False, highlight=False)
        else:
            self.say(words)
