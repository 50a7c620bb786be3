"""Progress and cancel, through the host's own means."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils


class Progress:
    """Counts network passes (one pass = one sample through the network) towards a planned total."""

    def __init__(self, total: int, node_id: str | None = None) -> None:
        self.total, self.done, self.calls, self.skipped = max(total, 1), 0, 0, 0
        self.bar: Any = comfy.utils.ProgressBar(self.total, node_id=node_id)

    def advance(self, samples: int) -> None:
        """Report a network call; raises the host's interrupt when the user has pressed cancel."""
        self.done += samples
        self.calls += 1
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.bar.update_absolute(min(self.done, self.total), self.total)

    def expect(self, samples: int) -> None:
        """Add passes to the total that were not known of before."""
        self.total += samples

    def skip(self, share: float) -> None:
        """Count a share of the total as done before."""
        self.skipped = round(self.total * share)
        self.done += self.skipped
