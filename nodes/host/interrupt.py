"""Progress, words on a node, and cancel, through the host's own means."""

from __future__ import annotations

import time
from typing import Any

import comfy.model_management
import comfy.utils
from server import PromptServer

from ...esd.train import Step


class Progress:
    """Counts network passes (one pass = one sample through the network) towards a planned total."""

    def __init__(self, total: int, node_id: str | None = None) -> None:
        self.total, self.done, self.calls = max(total, 1), 0, 0
        self.bar: Any = comfy.utils.ProgressBar(self.total, node_id=node_id)

    def passed(self, samples: int) -> None:
        """Report a network call; raises the host's interrupt when the user has pressed cancel."""
        self.done += samples
        self.calls += 1
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.bar.update_absolute(min(self.done, self.total), self.total)


def say(node_id: str | None, text: str) -> None:
    """Show a line of text on a node, where there is a page to show it on."""
    instance = getattr(PromptServer, "instance", None)
    if instance is not None and node_id is not None and hasattr(instance, "send_progress_text"):
        instance.send_progress_text(text, node_id)


class Ticker:
    """Tells a node of the training as it goes, at most twice a second."""

    def __init__(self, node_id: str | None) -> None:
        self.node_id, self.last = node_id, 0.0

    def __call__(self, step: Step) -> bool:
        """The report of esd.train: says step and loss, and never asks to stop."""
        done = step.index + 1 == step.total
        if done or time.monotonic() - self.last > 0.5:
            self.last = time.monotonic()
            say(self.node_id, f"step {step.index + 1} of {step.total}, loss {step.loss:.2e}")
        return False
