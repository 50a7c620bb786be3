"""What a Ray cluster runs on a node: an actor whose process is a ComfyUI."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from commands.talk import ServerError

from . import host
from .jobs import Job
from .ledger import Outcome, held, ledger_at
from .work import Host, do

SECONDS = 0.5


class EraseWorker:
    """What runs on a node: a ComfyUI in this process, and one job at a time."""

    def __init__(self, place: host.Place, results: str) -> None:
        """Start nothing yet, so that what goes wrong can be told."""
        self.place, self.results = place.on_this_node(), results
        self.host: Host | None = None
        self.held: object = None

    def prepare(self) -> str:
        """Start the host; returns why that cannot be, or nothing."""
        import ray

        try:
            slot, self.held = host.free_slot(self.place.scratch)
            address = host.start(self.place, slot)
        except (ServerError, OSError) as error:
            return str(error)
        node = ray.get_runtime_context().get_node_id()[:8]
        self.host = Host(f"node {node}, process {os.getpid()}", address, slot / "output")
        return ""

    def do(self, job: Job, parts: Mapping[str, Job], base: list[Any]) -> Outcome:
        """Do a job, once its base file is here."""
        if self.host is None:
            raise RuntimeError("prepare comes first")
        try:
            if base and self.place.models:
                bring_model(job.model, base, self.place.models)
        except OSError as error:
            return Outcome(job.key, "failed", host=self.host.name, reason=f"{job.model} could not be written ({error})")
        return do(job, self.host, ledger_at(self.results), parts, lambda job, stage: None)


def bring_model(name: str, base: list[Any], folder: Path) -> None:
    """Write a base file, [what it holds, when it was written], out of the object store, once a node.

    A worker waits for one that is at it; a file of another time is replaced.
    """
    import ray

    target, (stored, seconds) = folder / name, base
    target.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / ".models.lock").open("a+b") as lock:
        while not held(lock):
            time.sleep(SECONDS)
        if target.exists() and int(target.stat().st_mtime) == seconds:
            return
        unfinished = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            ray.get(stored).tofile(unfinished)
            os.utime(unfinished, (seconds, seconds))
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
