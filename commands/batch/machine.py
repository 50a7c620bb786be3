"""A batch on ComfyUIs that this process reaches: a thread watches each, and one that ends is started again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from commands.talk import ServerError

from .jobs import Job
from .ledger import Ledger
from .queue import Queue
from .work import Host, do

Start = Callable[[], Host]
"""Starts a host or finds one; raises ServerError where there is none."""

SECONDS = 0.5


class Stopped(KeyboardInterrupt):
    """The batch was stopped; `commands.talk` then takes the prompt from the queue, as for Ctrl-C."""


class Machine:
    """Hosts, each in a thread, over one queue of jobs."""

    def __init__(self, queue: Queue, ledger: Ledger, starts: Sequence[Start]) -> None:
        """Nothing begins yet."""
        self.queue, self.ledger, self.stop = queue, ledger, threading.Event()
        self.threads = [threading.Thread(target=self._serve, args=(start,), daemon=True) for start in starts]
        self.errors: list[str] = []

    def run(self, tick: Callable[[], None]) -> None:
        """Do all jobs; `tick` is called on the way. Ctrl-C takes the running jobs back and is raised again."""
        for thread in self.threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in self.threads):
                tick()
                with self.queue.changed:
                    self.queue.changed.wait(SECONDS)
        finally:
            self.stop.set()
            for thread in self.threads:
                thread.join(30)
        if self.queue.waiting:
            self.queue.fail_the_rest(self.errors[-1] if self.errors else "no host was left")

    def _serve(self, start: Start) -> None:
        """Give one host job after job until none is left, or it cannot be started."""
        loaded, host = "", None
        try:
            while not self.stop.is_set() and not self.queue.is_over:
                host = host or start()
                job = self.queue.take(host.name, loaded)
                if job is None:
                    self.stop.wait(SECONDS)
                    continue
                outcome = do(job, host, self.ledger, self.queue.jobs, self._progress)
                loaded = job.model
                if outcome.state == "lost":
                    host.stop()
                    host, loaded = None, ""
                self.queue.end(outcome)
        except Stopped:
            pass
        except ServerError as error:
            self.errors.append(str(error))
        finally:
            if host:
                host.stop()

    def _progress(self, job: Job, stage: str) -> None:
        if self.stop.is_set():
            raise Stopped
        self.queue.tell(job, stage)
