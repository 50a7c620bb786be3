"""What goes on beside the training: chart and previews for the page, snapshots for the disk, and finish now."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch

from ....esd.erasure import ErasedWeights
from ....esd.errors import EsdError
from ....esd.train import Step
from ..files.metadata import origin_of
from ..model.memory import LESS
from ..model.oom import shortage_said
from . import preview
from .key import key_of
from .plan import Job
from .status import Board, Live, board
from .store import RunFolder

log = logging.getLogger("esd")

REUSE, RESUME, START_OVER = STARTS = ("reuse or resume", "resume", "start over")


@dataclass(frozen=True)
class Watch:
    """How a run is watched; nothing here changes the weights that come out.  A step count of 0 means never."""

    preview_every: int = 0
    snapshot_every: int = 0
    start: str = REUSE
    vae: Any = None
    node: str = ""
    workflow: str = ""


Result = tuple[ErasedWeights, list[float]]


def watched(job: Job, watch: Watch) -> Result:
    """Train, or take what the disk has of this very run; every ending is told to the page."""
    live = _live(job, watch)
    shown = board()
    shown.begin(live)
    try:
        with shortage_said("training", LESS):
            folder = RunFolder(
                key_of(job.plan, job.denoiser.network, job.denoiser.sampling, job.conditions, job.concepts, job.keeps)
            )
            return _kept(job, watch, shown, live, folder) or Watcher(job, watch, shown, live, folder).train()
    except comfy.model_management.InterruptProcessingException:
        shown.end(live, "stopped")
        raise
    except Exception as error:
        shown.end(live, "failed", str(error) if isinstance(error, EsdError) else type(error).__name__)
        raise


def _live(job: Job, watch: Watch) -> Live:
    """A run at its beginning, as the page is told of it."""
    return Live(
        watch.node,
        watch.workflow,
        job.plan.settings.steps,
        words=str(job.plan),
        device=str(job.plan.device),
        stored=_name(job.model.model.diffusion_model.dtype),
        precision=_precision(job.plan.dtype, job.denoiser.dtype),
        memory_foretold=job.plan.need.total,
    )


def _precision(stored: torch.dtype, computed: torch.dtype) -> str:
    """What the run's weights are in, and what its layers compute in where that is something else."""
    return _name(stored) if stored is computed else f"{_name(stored)}, computed in {_name(computed)}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _kept(job: Job, watch: Watch, shown: Board, live: Live, folder: RunFolder) -> Result | None:
    """The result of an earlier run with the same inputs, where it is wanted and there."""
    found = folder.finished(job.denoiser) if watch.start != START_OVER else None
    if found is None or (not found.complete and (watch.start == RESUME or folder.went_on())):
        return None
    live.losses = found.losses
    words = f"taken from output/esd/runs/{folder.path.name}: trained before with the same inputs"
    if not found.complete:
        words += f', and finished early after {len(found.losses)} steps (start: "resume" goes on)'
    log.info("ESD: %s", words)
    shown.end(live, "finished", words)
    return found.weights, found.losses


class Watcher:
    """A training beside which the page is told, previews are drawn and snapshots are kept."""

    def __init__(self, job: Job, watch: Watch, shown: Board, live: Live, folder: RunFolder) -> None:
        self.job, self.watch, self.shown, self.live, self.folder = job, watch, shown, live, folder
        self.prompts = preview.preview_prompts(job.concepts, job.keeps)
        self.origin = origin_of(job.base)
        self.troubles: dict[str, str] = {}

    def train(self) -> Result:
        """Go on from a snapshot or begin; what has been learnt is kept however it ends."""
        training, total = self.job.training, self.job.plan.settings.steps
        if self.watch.start != START_OVER and self.folder.resume(training):
            self._resumed(len(training.losses), total)
        self.job.progress.total += self._preview_passes(total - len(training.losses))
        self.live.begin_counting()
        try:
            for step in training:
                self._after(step)
                if self.live.finish:
                    break
        except EsdError:
            raise
        except BaseException:
            self._keep_snapshot()
            raise
        return self._result(complete=len(training.losses) == total)

    def _resumed(self, done: int, total: int) -> None:
        log.info("ESD: going on after step %d of %d", done, total)
        self.live.losses = list(self.job.training.losses)
        self.job.progress.skip(done / total)
        self.shown.say(self.live, f"going on after step {done}")

    def _preview_passes(self, steps: int) -> int:
        every = self.watch.preview_every
        return (steps // every + 1) * preview.STEPS * 2 * len(self.prompts) if every else 0

    def _after(self, step: Step) -> None:
        progress = self.job.progress
        self.live.memory_peak = self.job.gauge.peak
        self.live.passes, self.live.passes_left = progress.done - progress.skipped, progress.total - progress.done
        self.shown.step(self.live, step)
        done, last = step.index + 1, step.index + 1 == step.total
        if self.watch.preview_every and (done % self.watch.preview_every == 0 or done == 1 or last):
            self._beside("preview", self._preview)
        if self.watch.snapshot_every and done % self.watch.snapshot_every == 0 and not last:
            self._keep_snapshot()

    def _preview(self) -> None:
        start = time.monotonic()
        pictures = preview.draw_previews(
            self.job.denoiser,
            self.job.conditions,
            self.prompts,
            self.job.model.model.latent_format,
            self.watch.vae,
        )
        seconds = time.monotonic() - start
        usual = f"a preview takes {seconds:.1f} s, every {self.watch.preview_every} steps"
        self.live.words = self._told() or usual
        self.shown.show(self.live, pictures)

    def _keep_snapshot(self) -> None:
        self._beside("snapshot", lambda: self.folder.keep_snapshot(self.job.training))

    def _result(self, complete: bool) -> Result:
        weights, losses = self.job.weights(self.origin), self.job.training.losses
        if not complete:
            self._keep_snapshot()
        self._beside("result", lambda: self.folder.keep_result(weights, losses, complete))
        early = "" if complete else f"finished early, after step {len(losses)}"
        words = "; ".join(filter(None, (early, self._told()))) or self.live.words
        self.shown.end(self.live, "finished", words)
        return weights, losses

    def _beside(self, what: str, work: Callable[[], None]) -> None:
        """Do what is worth less than the training: where it fails that is told until it succeeds, and ends nothing."""
        before = self.troubles.pop(what, None)
        cost, cure = _BESIDE[what]
        try:
            with shortage_said(f"the {what} was made", cure):
                work()
        except comfy.model_management.InterruptProcessingException:
            raise
        except Exception as error:  # noqa: BLE001 - a VAE or an optimiser may raise anything
            reason = str(error) if isinstance(error, EsdError | OSError) else f"{type(error).__name__}: {error}"
            self.troubles[what] = f"{cost}: {reason:.300}"
            log.warning("ESD: %s", self.troubles[what])  # words alone: the error holds the whole run
        if before or self.troubles:
            self.live.words = self._told() or self.live.words.replace(before or "", "")

    def _told(self) -> str:
        return " ".join(self.troubles.values())


_BESIDE = {
    "preview": ("there is no preview", "set preview_every to 0, or connect no VAE"),
    "snapshot": ("nothing new is kept to go on from", "close other programs, or set snapshot_every to 0"),
    "result": ("the result is not kept for another time", "save it with Save Erasure"),
}
"""What goes on beside a training: what it costs when it fails, and the cure where memory ran out."""
