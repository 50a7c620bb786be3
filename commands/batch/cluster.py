"""A batch on a Ray cluster: the driver hires workers, gives them jobs, and replaces those that are lost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from commands.places import ROOT
from esd_pack.esd.errors import EsdError

from . import host
from .jobs import Job
from .ledger import Ledger, Outcome
from .queue import Queue
from .schema import STORE
from .spec import Resources
from .worker import EraseWorker

MISSING = (
    "Ray is not installed in this Python: run pip install ray (ray[default] with its dashboard), or leave --ray out "
    "for this machine alone."
)
SECONDS = 0.5
MOST_REFUSALS = 3
"""So many workers in a row may fail to start their ComfyUI, where no other one runs, before the batch gives up."""

MOST_DOUBLINGS = 10
"""Of the time from one worker that could not start to the next try: from a second to some nine minutes."""

UNSEEN_SECONDS = 60.0
"""How long a result is looked for that a worker says it has written: NFS clients may not see it for half a minute."""

PASSED_ON = ("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass
class Hired:
    """A worker with what it is at: a job, its preparation (None), or nothing."""

    actor: Any
    name: str
    loaded: str = ""
    is_ready: bool = False
    job: Job | None = None


@dataclass
class Cluster:
    """The driver: hires as many workers as the cluster has room for, and gives each job to one of them."""

    queue: Queue
    ledger: Ledger
    place: host.Place
    resources: Resources
    find_model: Callable[[str], Path]
    most: int | None = None
    workers: dict[Any, Hired] = field(default_factory=dict)
    """By the reference of the task that each is at."""
    idle: list[Hired] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    stored: dict[str, list[Any]] = field(default_factory=dict)
    hired: int = 0
    hire_after: float = 0.0
    """When workers are hired again; later each time that one could not start, so that a broken node costs little."""

    unseen: list[tuple[float, Job, Outcome]] = field(default_factory=list)
    """Jobs that were done, with the time until which their results are looked for."""

    def run(self, tick: Callable[[], None]) -> None:
        """Do all jobs; `tick` is called on the way."""
        import ray

        try:
            while not self.queue.is_over:
                self._hire()
                self._give()
                self._look_again()
                for task in self._ended():
                    self._end(task, self.workers.pop(task))
                if len(self.refusals) >= MOST_REFUSALS and not any(each.is_ready for each in self._all()):
                    self.queue.fail_the_rest(self.refusals[-1])
                tick()
        finally:
            for worker in self._all():
                ray.kill(worker.actor)

    def _all(self) -> list[Hired]:
        return [*self.workers.values(), *self.idle]

    def _ended(self) -> list[Any]:
        """Return the tasks that have ended; wait for a moment where none has."""
        import ray

        if not self.workers:
            time.sleep(SECONDS)
            return []
        tasks = list(self.workers)
        ray.wait(tasks, num_returns=1, timeout=SECONDS)
        return list(ray.wait(tasks, num_returns=len(tasks), timeout=0)[0])

    def _hire(self) -> None:
        """Fill the room that the cluster has now, which grows and shrinks."""
        import ray

        if time.monotonic() < self.hire_after:
            return
        room = room_for(self.resources, nodes())
        open_jobs = len(self.queue.waiting) + len(self.queue.running)
        wanted = min(open_jobs, room, self.most or room)
        for _ in range(wanted - len(self.workers) - len(self.idle)):
            self.hired += 1
            asked = {"num_cpus": self.resources.cpus, "num_gpus": self.resources.gpus}
            memory = {"memory": self.resources.memory_gb * 2**30} if self.resources.memory_gb else {}
            actor = ray.remote(EraseWorker).options(**asked, **memory).remote(self.place, self.ledger.place)
            worker = Hired(actor, f"worker {self.hired}")
            self.workers[actor.prepare.options(name=f"start ComfyUI ({worker.name})").remote()] = worker

    def _give(self) -> None:
        """Give every worker that has nothing to do a job that can begin; let them go where none will come."""
        for worker in list(self.idle):
            job = self.queue.take(worker.name, worker.loaded)
            if job is None:
                if not self.queue.waiting:
                    self._dismiss()
                return
            self.idle.remove(worker)
            try:
                base = self._base_of(job.model)
            except Exception as error:  # noqa: BLE001 - the object store may be full in several ways
                self.queue.end(Outcome(job.key, "failed", reason=_sentence_of(error)))
                self.idle.append(worker)
                continue
            worker.job = job
            parts = {key: self.queue.jobs[key] for key in job.needs}
            self.workers[worker.actor.do.options(name=job.title).remote(job, parts, base)] = worker

    def _dismiss(self) -> None:
        """Free what idle workers hold, for others in the cluster."""
        import ray

        while self.idle:
            ray.kill(self.idle.pop().actor)

    def _base_of(self, model: str) -> list[Any]:
        """Return a base file in the object store, in a list so that only workers which lack it fetch it."""
        if self.resources.base_files != STORE:
            return []
        if model not in self.stored:
            import numpy
            import ray

            path = self.find_model(model)
            require_fitting(path, self.resources.largest_gb)
            seconds = int(path.stat().st_mtime)
            self.stored[model] = [ray.put(numpy.fromfile(path, numpy.uint8)), seconds]
        return self.stored[model]

    def _end(self, task: Any, worker: Hired) -> None:
        """Take up what a worker's task gave, and let the worker go where it is lost or cannot begin."""
        import ray

        job, worker.job = worker.job, None
        try:
            told = ray.get(task)
        except ray.exceptions.RayTaskError as error:  # the worker is well; its code met what nobody foresaw
            told = _sentence_of(error.cause)
            if job:
                told = Outcome(job.key, "failed", host=worker.name, reason=told)
        except ray.exceptions.RayError as error:
            told = _sentence_of(error)
        if job is None and told:
            self.refusals.append(told)
            self.hire_after = time.monotonic() + SECONDS * 2 ** min(len(self.refusals), MOST_DOUBLINGS)
            self.queue.note(f"a worker could not start: {told}")
        elif job:
            told = told if isinstance(told, Outcome) else Outcome(job.key, "lost", host=worker.name, reason=told)
            self._end_job(job, told)
            worker.loaded = job.model
        if told and (job is None or told.state == "lost"):
            ray.kill(worker.actor)
            return
        if not worker.is_ready:
            worker.is_ready = True
            self.refusals.clear()
        self.idle.append(worker)

    def _end_job(self, job: Job, outcome: Outcome, until: float | None = None) -> None:
        """Believe what is in the results, not what was said: a worker may be lost after its job was done."""
        until, kept, why = until or time.monotonic() + UNSEEN_SECONDS, None, "name a folder that all nodes share"
        try:
            kept = self.ledger.found(job)
        except Exception as error:  # noqa: BLE001 - a URL's network may raise anything
            why = _sentence_of(error)
        if kept or not outcome.is_done:
            self._close(job, kept or outcome)
        elif time.monotonic() < until:
            self.unseen.append((until, job, outcome))
        else:
            reason = f"its result is not in {self.ledger.place} as seen from here: {why}"
            self._close(job, replace(outcome, state="failed", reason=reason))

    def _look_again(self) -> None:
        """Take up results that were not seen at once."""
        waited, self.unseen = self.unseen, []
        for until, job, outcome in waited:
            self._end_job(job, outcome, until)

    def _close(self, job: Job, outcome: Outcome) -> None:
        self.queue.end(outcome)
        if not self.queue.has_open(job.model):
            self.stored.pop(job.model, None)


def _sentence_of(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def nodes() -> list[Mapping[str, float]]:
    """Return what each node of the cluster has."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def room_for(resources: Resources, cluster: Sequence[Mapping[str, float]]) -> int:
    """Return how many workers the nodes of a cluster have room for; none is on two."""
    asked = {"CPU": resources.cpus, "GPU": resources.gpus, "memory": resources.memory_gb * 2**30}
    return sum(
        min(
            (int(node.get(name, 0) // amount) for name, amount in asked.items() if amount),
            default=int(node.get("CPU", 0)),
        )
        for node in cluster
    )


def require_fitting(path: Path, largest_gb: float) -> None:
    """Raise EsdError for a base file that is too large for the object store."""
    size = path.stat().st_size
    if size > largest_gb * 2**30:
        raise EsdError(
            f"{path.name} has {size / 2**30:.1f} GB, more than the {largest_gb:g} GB for the object store: put it on "
            "storage that all nodes share (base_files: path), or raise largest_gb."
        )


def connect(address: str) -> None:
    """Join a cluster; raise EsdError with the cure where Ray or the cluster is missing."""
    try:
        import ray
    except ImportError as error:
        raise EsdError(MISSING) from error
    variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    try:
        ray.init(address=address, log_to_driver=False, runtime_env={"env_vars": variables}, logging_level="warning")
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise EsdError(
            f"No Ray cluster answers at {address} ({reason}): start one with ray start --head, or correct the address."
        ) from error


def require_room(resources: Resources) -> None:
    """Raise EsdError where no node of the cluster could ever take a worker."""
    if resources.gpus > 1 and resources.gpus % 1:
        raise EsdError(f"A worker cannot take {resources.gpus:g} GPUs: under ray, gpus is a part of one, or whole.")
    if not room_for(resources, nodes()):
        asked = f"{resources.gpus:g} GPUs, {resources.cpus:g} CPUs and {resources.memory_gb:g} GB"
        raise EsdError(
            f"No node of the cluster has room for a worker of {asked}: ask for less under ray in the file "
            "(gpus: 0 for CPUs)."
        )
