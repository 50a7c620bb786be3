"""One line of progress in the terminal, rewritten in place; plain lines where the output is no terminal."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any, TextIO

STAGES = {
    "ESDLoadModel": "Loading the model",
    "CheckpointLoaderSimple": "Loading the model",
    "ESDErase": "Erasing",
    "ESDBeforeAfter": "Drawing before and after",
    "ESDSaveCheckpoint": "Saving the checkpoint",
    "ESDSaveErasure": "Saving the weights",
    "SaveImage": "Saving the pictures",
}
PLAIN_SECONDS = 10.0


def clock(seconds: float) -> str:
    """Minutes and seconds, "1:05"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class ProgressLine:
    """Shows what runs, how far it is, the time gone and the time left, also while nothing is heard of it."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self.stream = stream
        self.live = stream.isatty()
        self.stage, self.width = "", 0
        self.done = self.total = 0.0
        self.start = self.shown = time.monotonic()
        self.lock = threading.RLock()
        threading.Thread(target=self._tick, daemon=True).start()

    def begin(self, stage: str) -> None:
        """A new stage: the clock starts again."""
        with self.lock:
            if stage != self.stage:
                self.end()
                self.stage, self.start = stage, time.monotonic()
                self.done = self.total = 0.0
                self._show(f"{stage} ...")

    def update(self, done: float, total: float) -> None:
        """How far the stage is; a plain line at most every ten seconds."""
        with self.lock:
            self.done, self.total = done, total
            if total > 0 and self._due(0):
                self._show_state()

    def end(self) -> None:
        """The stage is over: leave a line that says how long it took."""
        with self.lock:
            if self.stage:
                seconds = time.monotonic() - self.start
                self._show(f"{self.stage}: done in {seconds:.0f} s" if seconds >= 1 else f"{self.stage}: done")
            self.abandon()

    def abandon(self) -> None:
        """The stage failed: leave its line as it stands."""
        with self.lock:
            if self.stage and self.live:
                self._write("\n")
            self.stage, self.width = "", 0

    def _tick(self) -> None:
        while True:
            time.sleep(0.5)
            with self.lock:
                if self.stage and self._due(1.5):
                    self._show_state()

    def _show_state(self) -> None:
        gone, done, total = time.monotonic() - self.start, self.done, self.total
        share = f"{100 * done / total:3.0f} %   " if total > 0 else ""
        left = f", about {clock(gone * (total - done) / done)} left" if done > 0 and gone > 1 else ""
        self._show(f"{self.stage}: {share}{clock(gone)} gone{left}")

    def _due(self, live_seconds: float) -> bool:
        return time.monotonic() - self.shown >= (live_seconds if self.live else PLAIN_SECONDS)

    def _show(self, text: str) -> None:
        self.shown = time.monotonic()
        self._write(f"\r{text:<{self.width}}" if self.live else f"{text}\n")
        self.width = len(text)

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


class PromptProgress:
    """Feeds a server's events about one prompt to a progress line."""

    def __init__(self, line: ProgressLine, prompt: dict[str, Any]) -> None:
        self.line = line
        self.classes = {node_id: node["class_type"] for node_id, node in prompt.items()}

    def __call__(self, event: dict[str, Any]) -> None:
        data = event["data"]
        if event["type"] == "executing" and data.get("node"):
            self._begin(data["node"])
        if event["type"] == "progress":
            self._begin(data.get("node"))
            self.line.update(data["value"], data["max"])

    def _begin(self, node_id: str | None) -> None:
        stage = STAGES.get(self.classes.get(str(node_id), ""))
        if stage:
            self.line.begin(stage)
