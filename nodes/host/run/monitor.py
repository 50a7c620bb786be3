"""What goes on beside the training: chart and previews for the page, snapshots for the disk, and finish now."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch

from ....esd.drift import Drift, KeepGauge, percents
from ....esd.erasure import Erasure
from ....esd.errors import EsdError
from ....esd.settings import WHEN_GONE
from ....esd.train import Step, Training
from ....esd.until_gone import GoneGauge, Left
from ..files.metadata import origin_of
from ..model.memory import LOWER_MEMORY_HINT
from ..model.oom import translate_oom
from . import preview
from .key import run_key
from .plan import Job
from .status import RunRegistry, RunStatus, registry
from .store import RunFolder

log = logging.getLogger("esd")

REUSE, RESUME, START_OVER = STARTS = ("reuse or resume", "resume", "start over")


@dataclass(frozen=True)
class MonitorOptions:
    """How a run is watched; nothing here changes the weights that come out.  A step count of 0 means never."""

    preview_every: int = 0
    snapshot_every: int = 0
    start: str = REUSE
    vae: Any = None
    node: str = ""
    workflow: str = ""


Result = tuple[Erasure, list[float]]


def train_or_reuse(job: Job, monitor: MonitorOptions) -> Result:
    """Train, or take what the disk has of this very run; every ending is told to the page."""
    live = _live(job, monitor)
    shown = registry()
    shown.begin(live)
    try:
        with translate_oom("training", LOWER_MEMORY_HINT):
            folder = RunFolder(
                run_key(job.plan, job.denoiser.network, job.denoiser.sampling, job.conditions, job.concepts, job.keeps)
            )
            return (
                _cached_result(job, monitor, shown, live, folder)
                or MonitoredRun(job, monitor, shown, live, folder).train()
            )
    except comfy.model_management.InterruptProcessingException:
        shown.end(live, "stopped")
        raise
    except Exception as error:
        shown.end(live, "failed", str(error) if isinstance(error, EsdError) else type(error).__name__)
        raise
    except BaseException:  # the process is told to end
        shown.end(live, "stopped")
        raise


def _live(job: Job, monitor: MonitorOptions) -> RunStatus:
    """Return a run at its beginning, as the page is told of it."""
    return RunStatus(
        monitor.node,
        monitor.workflow,
        job.plan.settings.steps,
        message=str(job.plan),
        device=str(job.plan.device),
        stored=_name(job.plan.host.dtype),
        precision=_precision(job.plan.dtype, job.denoiser.dtype),
        memory_foretold=job.plan.need.total,
    )


def _precision(stored: torch.dtype, computed: torch.dtype) -> str:
    """Return what the run's weights are in, and what its layers compute in where that is something else."""
    return _name(stored) if stored is computed else f"{_name(stored)}, computed in {_name(computed)}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _cached_result(
    job: Job, monitor: MonitorOptions, shown: RunRegistry, live: RunStatus, folder: RunFolder
) -> Result | None:
    """Return the result of an earlier run with the same inputs, where it is wanted and there."""
    found = folder.finished(job.denoiser) if monitor.start != START_OVER else None
    if found is None or (not found.complete and (monitor.start == RESUME or folder.has_newer_snapshot())):
        return None
    live.losses = found.losses
    live.left = json.loads(found.weights.metadata.get("esd.left", "{}"))
    live.moved = json.loads(found.weights.metadata.get("esd.moved", "{}"))
    message = f"taken from output/esd/runs/{folder.path.name}: trained before with the same inputs"
    if not found.complete:
        message += f', and finished early after {len(found.losses)} steps (start: "resume" continues)'
    log.info("ESD: %s", message)
    shown.end(live, "finished", message)
    return found.weights, found.losses


class MonitoredRun:
    """A training beside which the page is told, previews are drawn and snapshots are kept."""

    def __init__(
        self, job: Job, monitor: MonitorOptions, shown: RunRegistry, live: RunStatus, folder: RunFolder
    ) -> None:
        self.job, self.monitor, self.shown, self.live, self.folder = job, monitor, shown, live, folder
        self.prompts = preview.preview_prompts(job.concepts, job.keeps)
        self.origin = origin_of(job.base)
        self.failures: dict[str, str] = {}
        self.training: Training | None = None
        self.gauge: GoneGauge | None = None
        self.keeps: KeepGauge | None = None

    def train(self) -> Result:
        """Resume from a snapshot or begin; what has been learnt is kept however it ends."""
        try:
            training = self.job.train(self._begin, self._after)
        except EsdError:
            raise
        except BaseException:
            self._keep_snapshot()
            raise
        if not training.losses:
            self._show_start(training)
        return self._result(training)

    def _show_start(self, training: Training) -> None:
        """Show what needed no step."""
        self._show_left(training.left, training.drifts)
        if self.monitor.preview_every:
            self._best_effort("preview", self._preview)

    def _begin(self, training: Training) -> None:
        self.training, total = training, self.job.plan.settings.steps
        if self.monitor.start != START_OVER and self.folder.resume(training):
            self._resumed(training.losses, total)
        self.job.progress.total += self._preview_passes(total - len(training.losses))
        self.live.begin_counting()

    def _resumed(self, losses: list[float], total: int) -> None:
        done = len(losses)
        log.info("ESD: resumed after step %d of %d", done, total)
        self.live.losses = list(losses)
        self.job.progress.skip(done / total)
        self.shown.show_text(self.live, f"resumed after step {done}")

    def _preview_passes(self, steps: int) -> int:
        every = self.monitor.preview_every
        return (steps // every + 1) * 2 * preview.STEPS * len(self.prompts) if every else 0

    def _after(self, step: Step) -> bool:
        progress = self.job.progress
        self.live.memory_peak = self.job.gauge.peak
        self.live.passes, self.live.passes_left = progress.done - progress.skipped, progress.total - progress.done
        if step.left:
            self._show_left(step.left, step.drifts)
        self.shown.step(self.live, step)
        done, last = step.index + 1, step.index + 1 == step.total
        if self.monitor.preview_every and (done % self.monitor.preview_every == 0 or done == 1 or last):
            if self.job.plan.settings.stop != WHEN_GONE:  # else the training measures
                self._best_effort("measure", self._measure)
            self._best_effort("preview", self._preview)
        if self.monitor.snapshot_every and done % self.monitor.snapshot_every == 0 and not last:
            self._keep_snapshot()
        return self.live.finish

    def _measure(self) -> None:
        job = self.job
        self.gauge = self.gauge or GoneGauge(job.denoiser, job.conditions, job.concepts, job.plan.settings)
        self.keeps = self.keeps or KeepGauge(job.denoiser, job.conditions, job.keeps, job.plan.settings)
        self._show_left(self.gauge.measure(), self.keeps.measure())

    def _show_left(self, left: Sequence[Left], drifts: Sequence[Drift]) -> None:
        self.live.left = {each.prompt: each.percent for each in left}
        self.live.moved = percents(drifts)

    def _preview(self) -> None:
        start = time.monotonic()
        pictures = preview.draw_previews(
            self.job.denoiser,
            self.job.conditions,
            self.prompts,
            self.job.plan.host.latent_format,
            self.monitor.vae,
        )
        seconds = time.monotonic() - start
        usual = f"a preview takes {seconds:.1f} s, every {self.monitor.preview_every} steps"
        self.live.message = self._failure_text() or usual
        self.shown.show(self.live, pictures)

    def _keep_snapshot(self) -> None:
        training = self.training
        if training is not None:
            self._best_effort("snapshot", lambda: self.folder.keep_snapshot(training))

    def _result(self, training: Training) -> Result:
        losses, complete = training.losses, training.is_complete
        weights = self.job.weights(self.origin, training, self.live.left, self.live.moved)
        if not complete:
            self._keep_snapshot()
        self._best_effort("result", lambda: self.folder.keep_result(weights, losses, complete))
        ending = _ending(training) if complete else f"finished early, after step {len(losses)}"
        message = "; ".join(filter(None, (ending, self._failure_text()))) or self.live.message
        self.shown.end(self.live, "finished", message)
        return weights, losses

    def _best_effort(self, what: str, work: Callable[[], None]) -> None:
        """Do what is worth less than the training: where it fails that is told until it succeeds, and ends nothing."""
        before = self.failures.pop(what, None)
        cost, cure = SIDE_TASKS[what]
        try:
            with translate_oom(f"the {what} was made", cure):
                work()
        except comfy.model_management.InterruptProcessingException:
            raise
        except Exception as error:  # noqa: BLE001 - a VAE or an optimiser may raise anything
            reason = str(error) if isinstance(error, EsdError | OSError) else f"{type(error).__name__}: {error}"
            self.failures[what] = f"{cost}: {reason:.300}"
            log.warning("ESD: %s", self.failures[what])  # words alone: the error holds the whole run
        if before or self.failures:
            self.live.message = self._failure_text() or self.live.message.replace(before or "", "")

    def _failure_text(self) -> str:
        return " ".join(self.failures.values())


def _ending(training: Training) -> str:
    """Return why a complete run ended, and what to change where something is left; empty for all steps as wanted."""
    if training.settings.stop != WHEN_GONE:
        return ""
    if training.is_gone and not training.losses:
        return "gone in closed form, without a step"
    rate = f", learning rate {training.step_size.pace.rate:.1e}" if training.step_size else ""
    if training.is_gone:
        return f"gone after {len(training.losses)} steps{rate}"
    if not training.left:
        return "the steps ended before what is left was measured: raise steps"
    left = ", ".join(f"{each.prompt:.40} {each.percent} %" for each in training.left if not each.is_gone)
    if not left:
        return f"the steps ended before a second measurement found all of it gone{rate}: raise steps"
    return f"the steps ended before all was gone ({left} left{rate}): raise steps, learning_rate or eta"


SIDE_TASKS = {
    "measure": ("what is left was not measured", "set preview_every to 0"),
    "preview": ("preview failed", "set preview_every to 0, or connect no VAE"),
    "snapshot": ("snapshot failed", "close other programs, or set snapshot_every to 0"),
    "result": ("the result is not cached", "save it with Save Erasure"),
}
"""What goes on beside a training: what it costs when it fails, and the cure where memory ran out."""
