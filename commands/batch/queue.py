"""Which job is next: those of the model that a host has loaded, parts before what merges them, each to one host."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from .jobs import Job
from .ledger import Outcome

MOST_LOSSES = 3
"""So many hosts may be lost under a job before it counts as failed."""


@dataclass
class Running:
    """A job on a host, since when, and how far it is."""

    job: Job
    host: str
    since: float = field(default_factory=time.monotonic)
    stage: str = ""


class Queue:
    """The jobs of a batch, shared by the threads that watch its hosts."""

    def __init__(self, jobs: Sequence[Job], done: Mapping[str, Outcome]) -> None:
        """Begin with what is done already."""
        self.jobs = {job.key: job for job in jobs}
        self.outcomes = dict(done)
        self.earlier = frozenset(done)
        self.waiting = [job for job in jobs if job.key not in done]
        self.running: dict[str, Running] = {}
        self.losses: dict[str, int] = {}
        self.notes: list[str] = []
        """What is to be told beside the jobs' ends."""
        self.changed = threading.Condition()
        self.start = time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether every job has an outcome."""
        with self.changed:
            return not self.waiting and not self.running

    def has_open(self, model: str) -> bool:
        """Whether a job of a model waits or runs."""
        with self.changed:
            return any(job.model == model for job in [*self.waiting, *(each.job for each in self.running.values())])

    def take(self, host: str, loaded: str = "") -> Job | None:
        """Give a host its next job, of the model that it has loaded where there is one; None where none can begin."""
        with self.changed:
            self._fail_without_parts()
            ready = [job for job in self.waiting if all(key in self.outcomes for key in job.needs)]
            if not ready:
                return None
            job = next((job for job in ready if job.model == loaded), None) or self._first_of_least_taken(ready)
            self.waiting.remove(job)
            self.running[job.key] = Running(job, host)
            return job

    def _first_of_least_taken(self, ready: Sequence[Job]) -> Job:
        """Return the first job of the model that the fewest hosts are at, so that each loads as few as can be."""
        at = [running.job.model for running in self.running.values()]
        return min(ready, key=lambda job: at.count(job.model))

    def _fail_without_parts(self) -> None:
        for job in list(self.waiting):
            missing = [key for key in job.needs if key in self.outcomes and not self.outcomes[key].is_done]
            if missing:
                self.waiting.remove(job)
                reason = f"{self.jobs[missing[0]].title} failed, which is a part of it"
                self.outcomes[job.key] = Outcome(job.key, "failed", reason=reason)

    def note(self, words: str) -> None:
        """Have something told once."""
        if words not in self.notes:
            self.notes.append(words)

    def tell(self, job: Job, stage: str) -> None:
        """Note how far a job is."""
        if running := self.running.get(job.key):
            running.stage = stage

    def end(self, outcome: Outcome) -> None:
        """Note how a job ended; one whose host was lost waits again, at the front."""
        with self.changed:
            job = self.running.pop(outcome.key).job
            if outcome.state == "lost":
                self.losses[job.key] = self.losses.get(job.key, 0) + 1
                if self.losses[job.key] < MOST_LOSSES:
                    self.waiting.insert(0, job)
                else:
                    reason = f"{MOST_LOSSES} hosts were lost under it; the last: {outcome.reason}"
                    self.outcomes[job.key] = replace(outcome, state="failed", reason=reason)
            else:
                self.outcomes[job.key] = outcome
            self.changed.notify_all()

    def fail_the_rest(self, reason: str) -> None:
        """No host is left: what still waits has failed."""
        with self.changed:
            for job in self.waiting:
                self.outcomes[job.key] = Outcome(job.key, "failed", reason=reason)
            self.waiting.clear()
            self.changed.notify_all()

    def seconds_left(self) -> float | None:
        """Return the time that the rest will take by the passes done here; None before the first job is done."""
        with self.changed:
            fresh = [o for key, o in self.outcomes.items() if o.is_done and key not in self.earlier]
            passes = sum(self.jobs[outcome.key].passes for outcome in fresh)
            rest = sum(job.passes for job in self.waiting) + sum(each.job.passes for each in self.running.values()) / 2
        return (time.monotonic() - self.start) / passes * rest if passes else None
