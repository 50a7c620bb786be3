"""What Ray costs: `python run.py bench batch` does the same jobs on this machine's host and on a cluster of one node.

Of each job the driver's time, from giving it to hearing of its end, is held against the time that its host took.
Needs Ray: pip install ray.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from commands.batch import cluster, command, host, jobs, ledger, lines, machine, options, spec  # noqa: E402
from commands.batch.queue import Queue  # noqa: E402
from commands.playground import world  # noqa: E402
from lab.launch import batch as launch  # noqa: E402
from lab.launch.base import CHECKPOINT  # noqa: E402

DRAWING = "{judge: playground, kept: [tiger], samples: 4, steps: 10, cfg: 3, sampler_name: ddim, width: 64, height: 64}"


class Timed(Queue):
    """A queue that notes how long each job was away."""

    def __init__(self, listed: list[jobs.Job]) -> None:
        super().__init__(listed, {})
        self.away: dict[str, float] = {}

    def end(self, outcome: ledger.Outcome) -> None:
        self.away[outcome.key] = time.monotonic() - self.running[outcome.key].since
        super().end(outcome)


def batch_of(count: int, steps: int) -> spec.Batch:
    """So many jobs of one length."""
    names = [name for name in world.OBJECTS if name != "tiger"][:count]
    text = f"models: [{CHECKPOINT}]\nconcepts: {json.dumps(names)}\nevaluate: {DRAWING}\nray: {{gpus: 0}}\n"
    text += f"settings: {{steps: {steps}, width: 64, height: 64, stop: after all steps}}\n"
    return spec.from_document(lines.parse(text, "bench.yaml"))


def timed(name: str, batch: spec.Batch, run: Callable[[Queue, ledger.Ledger], None]) -> dict[str, Any]:
    """One row: seconds in the host, and seconds away, summed over all jobs but the first, which loads the model."""
    with tempfile.TemporaryDirectory() as folder:
        queue = Timed(jobs.jobs_of(batch))
        run(queue, ledger.ledger_at(folder))
    ended = list(queue.outcomes.values())
    if not all(outcome.is_done for outcome in ended):
        raise SystemExit(next(outcome.reason for outcome in ended if not outcome.is_done))
    counted = ended[1:] or ended
    inside, away = (
        round(sum(each), 2) for each in zip(*((o.seconds, queue.away[o.key]) for o in counted), strict=True)
    )
    return {"how": name, "jobs": len(counted), "in the host": inside, "driver": away, "overhead": away / inside - 1}


class Idle:
    """A worker whose jobs take no time, to see how many of them the driver gives out."""

    def __init__(self, place: host.Place, results: str) -> None:
        self.results = results

    def prepare(self) -> str:
        return ""

    def do(self, job: jobs.Job, parts: dict[str, jobs.Job], base: list[Any]) -> ledger.Outcome:
        to = ledger.ledger_at(self.results)
        with to.staging(job) as staging:
            return to.commit(job, staging, ledger.Outcome(job.key, "done"))


def driver_rate(count: int, workers: int) -> dict[str, Any]:
    """How many jobs of no length the driver and idle workers put through in a second."""
    cluster.EraseWorker = Idle  # type: ignore[misc, assignment]
    text = f"models: [{CHECKPOINT}]\nconcepts: {json.dumps([f'thing {n}' for n in range(count)])}\n"
    batch = spec.from_document(lines.parse(text + "ray: {gpus: 0, cpus: 0.01}\n", "bench.yaml"))
    with tempfile.TemporaryDirectory() as folder:
        queue, to = Queue(jobs.jobs_of(batch), {}), ledger.ledger_at(folder)
        start = time.monotonic()
        cluster.Cluster(queue, to, host.Place(ROOT, None, ROOT), batch.resources, Path, workers).run(_quiet)
        seconds = time.monotonic() - start
    return {"how": "driver", "jobs": count, "workers": workers, "jobs a second": round(count / seconds, 1)}


def main() -> None:
    """Print two rows and the driver's rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=4, help="how many, the first not counted (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="of each job (default: %(default)s)")
    parser.add_argument("--empty", type=int, default=1000, help="jobs of no length (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    chosen = parser.parse_args()
    batch = batch_of(chosen.jobs, chosen.steps)
    own = options.own_parser().parse_args([])
    own.comfyui = ["--cpu"]
    rows = [timed("one machine", batch, lambda queue, to: machine.Machine(queue, to, launch.starts(own)).run(_quiet))]
    cluster.connect("local")
    where = command.cluster_place(launch.place(own), batch.resources, own)
    rows.append(
        timed("Ray", batch, lambda queue, to: cluster.Cluster(queue, to, where, batch.resources, Path, 1).run(_quiet))
    )
    for row in rows:  # of jobs that take their time
        each = row["in the host"] / row["jobs"]
        print(f"{row['how']}: {row['jobs']} jobs of {each:.1f} s, {100 * row['overhead']:.2f} % around them")
    rows.append(driver_rate(chosen.empty, 4))
    print(f"driver: {rows[-1]['jobs a second']} empty jobs a second")
    if chosen.json:
        about = {"machine": f"{os.cpu_count()} cores", "steps": chosen.steps, "ray": _version(), "rows": rows}
        chosen.json.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _quiet() -> None:
    """Nobody looks on."""


def _version() -> str:
    import ray

    return str(ray.__version__)


if __name__ == "__main__":
    main()
