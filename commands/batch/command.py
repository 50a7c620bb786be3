"""A batch from the file to the report: plan, do, show, and say how it ended."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from commands import places
from commands.playground.world import CHECKPOINT
from commands.talk import Address
from esd_pack.esd.errors import EsdError

from . import host, plan, report, show, spec
from .jobs import Job, jobs_of
from .ledger import FolderLedger, Ledger, Outcome, alone, ledger_at
from .machine import Machine, Start
from .options import URL
from .queue import Queue
from .schema import STORE, jobs_schema
from .work import Host

Runner = Callable[[Queue, Ledger, Callable[[], None]], None]


def run(options: argparse.Namespace, starts: Callable[[], Sequence[Start]], place: Callable[[], host.Place]) -> int:
    """Do what the command line says; `starts` are the hosts of this machine, `place` is where Ray's workers find one.

    Returns the exit code; raises EsdError or ServerError where nothing can begin.
    """
    if options.schema:
        print(json.dumps(jobs_schema(), indent=1))
        return 0
    if options.jobs is None:
        raise EsdError("Name the file of jobs: batch jobs.yaml (docs/batch.md shows one).")
    batch = spec.load(options.jobs)
    results = options.results or batch.results or f"{batch.name}-results"
    jobs = jobs_of(batch)
    ledger = ledger_at(results)
    done = {job.key: outcome for job in jobs if (outcome := ledger.found(job))}
    here = [] if options.ray else starts()
    _print_plan(batch, jobs, done, options, max(1, options.workers or len(here)))
    print(f"Results: {ledger.place}")
    if options.dry_run:
        return _write_graphs(ledger, jobs)
    chosen = _chosen(jobs, done, options.first)
    if all(job.key in done for job in chosen):
        return _end(batch.name, ledger, jobs, done)
    with alone(results), _runner(options, batch, here, place) as runner:
        ledger.sweep()
        queue = Queue(chosen, {job.key: done[job.key] for job in chosen if job.key in done})
        try:
            with show.Screen(queue, partial(print, flush=True)) as screen:
                runner(queue, ledger, screen)
        finally:
            code = _end(batch.name, ledger, jobs, {**done, **queue.outcomes})
    return code


def _chosen(jobs: Sequence[Job], done: Mapping[str, Outcome], first: int | None) -> list[Job]:
    """Return the first jobs that are not done, with their parts; all where no number is given."""
    if first is None:
        return list(jobs)
    keys = [job.key for job in jobs if job.key not in done][:first]
    needed = {key for job in jobs if job.key in keys for key in (job.key, *job.needs)}
    return [job for job in jobs if job.key in needed]


def _print_plan(
    batch: spec.Batch, jobs: Sequence[Job], done: Mapping[str, Outcome], options: argparse.Namespace, hosts: int
) -> None:
    files = {model: path for model in batch.models if (path := _model_file(model, options)) is not None}
    plans = plan.plan_of(batch, jobs, done, files, hosts)
    print(show.table(plan.HEAD, plan.lines_of(plans)))


def _model_file(model: str, options: argparse.Namespace) -> Path | None:
    """Return a base file by its listed name, where this machine has it in a usual place."""
    if ".." in Path(model).parts or Path(model).is_absolute():
        raise EsdError(f'The model "{model:.100}" leaves the models folder: write its name as Load Model lists it.')
    named: list[Path] = [options.models] if options.models else []
    folders = [*named, *places.models_folders(None, [], Path(os.environ.get("COMFYUI_PATH", places.ROOT.parents[1])))]
    for folder in [*folders, *(each / "checkpoints" for each in folders), CHECKPOINT.parent]:
        if (folder / model).is_file():
            return folder / model
    return None


def _write_graphs(ledger: Ledger, jobs: Sequence[Job]) -> int:
    """Write every graph, which the page opens as it is."""
    for job in jobs:
        ledger.write(f"graphs/{job.name}.json", json.dumps(job.graph, indent=1) + "\n")
    print(f"{len(jobs)} graphs are written to graphs; ComfyUI's page opens them. Nothing was run.")
    return 0


def _end(name: str, ledger: Ledger, jobs: Sequence[Job], outcomes: Mapping[str, Outcome]) -> int:
    """Write the report and say where it is; 0 where nothing failed and nothing is left."""
    told = {"report.json": report.as_json, "index.html": report.as_html}
    try:
        for file, make in told.items():
            ledger.write(file, make(name, jobs, outcomes))
    except EsdError as error:  # a full disk must not hide how the jobs ended
        print(error)
    failed = [job for job in jobs if job.key in outcomes and not outcomes[job.key].is_done]
    left = len(jobs) - len(outcomes)
    for job in failed:
        print(f"failed: {job.title}: {outcomes[job.key].reason}")
    rest = f", {left} not done yet: the same command goes on" if left else ""
    print(f"{len(outcomes) - len(failed)} of {len(jobs)} done, {len(failed)} failed{rest}.")
    print(f"Report: {ledger.place}/index.html")
    return 1 if failed else 0


@contextlib.contextmanager
def _runner(
    options: argparse.Namespace,
    batch: spec.Batch,
    here: Sequence[Start],
    place: Callable[[], host.Place],
) -> Iterator[Runner]:
    """Return what does the jobs: the hosts of this machine, or a cluster."""
    if not options.ray:
        yield lambda queue, ledger, tick: Machine(queue, ledger, here).run(tick)
        return
    from . import cluster

    cluster.connect(options.ray)
    cluster.require_room(batch.resources)
    found = partial(_required_file, options=options)
    where = cluster_place(place(), batch.resources, options)
    yield lambda queue, ledger, tick: cluster.Cluster(
        queue, absolute(ledger), where, batch.resources, found, options.workers
    ).run(tick)


def absolute(ledger: Ledger) -> Ledger:
    """Return the ledger under a place that means the same in every process."""
    if isinstance(ledger, FolderLedger):
        ledger.place = str(ledger.root)
    return ledger


def cluster_place(found: host.Place, resources: spec.Resources, options: argparse.Namespace) -> host.Place:
    """Return where a worker's ComfyUI is, and where it may write on its node (`Place.on_this_node`)."""
    scratch = options.scratch.absolute() if options.scratch else Path()
    models = Path("models") if resources.base_files == STORE else options.models and options.models.absolute()
    device = () if resources.gpus or "--cpu" in found.arguments else ("--cpu",)
    return replace(found, scratch=scratch, models=models, arguments=(*found.arguments, *device))


def _required_file(model: str, options: argparse.Namespace) -> Path:
    path = _model_file(model, options)
    if path is None:
        raise EsdError(f'The base file "{model:.100}" was not found on this machine: name its folder with --models.')
    return path


def at_url(url: str, output: Path | None) -> Host:
    """Return a ComfyUI that runs already; raise ServerError where none answers."""
    from commands.check import greeted

    address = Address(url)
    argv = greeted(address)["system"]["argv"]
    usual = [folder for folder in places.output_folders(argv, places.ROOT.parents[1]) if folder.is_dir()]
    is_local = any(host in address.url for host in ("127.0.0.1", "localhost"))
    return Host(url, address, output or (usual[0] if usual and is_local else None))


def starts_at(options: argparse.Namespace) -> list[Start]:
    """Return what finds each ComfyUI that the command line names, or the usual one."""
    return [partial(at_url, url, options.output) for url in options.url or [URL]]


def own_place(options: argparse.Namespace) -> host.Place:
    """Return the ComfyUI in which this pack is installed, and the base folder where that is another one."""
    comfy, above = places.host_folder(options.comfyui, []), places.ROOT.parents[1]
    is_apart = places.ROOT.parent.name == "custom_nodes" and above.resolve() != comfy
    return host.Place(comfy, above if is_apart else None, Path())
