"""One job on one host: queue its graph, wait, gather its files, read its figures, and put all of it in place."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import time
import urllib.error
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import talk
from commands.places import metadata_of
from esd_pack.esd.errors import EsdError

from .jobs import Job, part_name
from .ledger import GRAPH, Ledger, Outcome

Json = dict[str, Any]

GONE = (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException)
"""What asking a host raises once it has ended."""

FORGETTING = 2.0
"""Seconds that a host takes at most to forget what it has in its cache."""

UNET_FILES = ("config.json", "diffusion_pytorch_model.safetensors")
Progress = Callable[[Job, str], None]


@dataclass(frozen=True)
class Host:
    """A ComfyUI that answers, and its output folder where this machine sees it."""

    name: str
    address: talk.Address
    output: Path | None
    check: Callable[[], None] = lambda: None
    """Raise where it has ended, with what it said last."""

    stop: Callable[[], None] = lambda: None
    """End it, where it is the batch's own."""


def do(job: Job, host: Host, ledger: Ledger, parts: Mapping[str, Job], progress: Progress) -> Outcome:
    """Do a job that is not done; its outcome says what failed. Nothing is raised but what ends the batch."""
    start = time.monotonic()
    try:
        if kept := ledger.found(job):
            return kept
        with ledger.staging(job) as staging, _parts_at(job, host, ledger, parts):
            outputs = _run(job, host, progress)
            if _was_gathered_before(job, host, outputs):
                host.address.post("/free", {"free_memory": True})
                time.sleep(FORGETTING)
                outputs = _run(job, host, progress)
            files, figures = _gathered(job, host, outputs, staging)
            outcome = Outcome(job.key, "done", round(time.monotonic() - start, 1), host.name, "", files, figures)
            return ledger.commit(job, staging, outcome)
    except (*GONE, talk.ServerError) as error:
        state, reason = _state_of(host, error), str(error)
    except EsdError as error:
        state, reason = "failed", str(error)
    except OSError as error:
        cure = "make room or allow writing, and run the same command again"
        state, reason = "failed", f"its files could not be written ({error.strerror or error}): {cure}"
    except Exception as error:  # noqa: BLE001 - a fault in one job must not keep the others from being done
        state, reason = "failed", f"{type(error).__name__}: {error}"
    return Outcome(job.key, state, round(time.monotonic() - start, 1), host.name, reason)


def _state_of(host: Host, error: Exception) -> str:
    """Whether the job failed, or its host went away beneath it or is stuck."""
    if isinstance(error, TimeoutError):
        return "lost"
    try:
        host.check()
        host.address.get("/queue")
    except (*GONE, talk.ServerError):
        return "lost"
    return "failed"


@contextlib.contextmanager
def _parts_at(job: Job, host: Host, ledger: Ledger, parts: Mapping[str, Job]) -> Iterator[None]:
    """Put the erasures that are to be merged where the host opens them; those that no other job needs go afterwards."""
    if not job.needs:
        yield
        return
    if host.output is None:
        raise talk.ServerError(
            f"The output folder of {host.name} was not found, where the parts must lie: name it with --output."
        )
    folder = host.output / "esd"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for key in job.needs:
            target = folder / part_name(key)
            unfinished = target.with_suffix(f".{job.key}")
            ledger.fetch(parts[key], "difference.safetensors", unfinished)
            unfinished.replace(target)
        yield
    finally:
        for key in job.needs:
            if not any(key in other.needs for other in parts.values() if other.key != job.key):
                (folder / part_name(key)).unlink(missing_ok=True)


def _run(job: Job, host: Host, progress: Progress) -> Json:
    prompt_id = talk.queue(host.address, job.graph, job.key)

    def tick() -> None:
        progress(job, stage_of(host.address, job.key))

    return talk.follow(host.address, prompt_id, tick)


def stage_of(address: talk.Address, workflow: str) -> str:
    """Return how far a job is, by the pack's own route."""
    found = [run for run in address.get("/esd/runs")["runs"] if run["workflow"] == workflow]
    if not found:
        return "loading"
    return f"step {found[0]['step']} of {found[0]['total']}" if found[0]["state"] == "running" else "drawing, saving"


def _listed(job: Job, outputs: Json) -> list[tuple[str, Json]]:
    """Return the files of a job, each with what it is."""
    found = ((kind, outputs.get(number, {})) for kind, number in job.files.items())
    return [(kind, file) for kind, each in found for file in (*each.get("esd_files", ()), *each.get("images", ()))]


def _was_gathered_before(job: Job, host: Host, outputs: Json) -> bool:
    """Whether the host remembers this job from another batch, which has taken its files."""
    output = host.output
    return output is not None and any(not (output / _place(file)).exists() for _, file in _listed(job, outputs))


def _place(file: Json) -> Path:
    return Path(file.get("subfolder", ""), file["filename"])


def _gathered(job: Job, host: Host, outputs: Json, staging: Path) -> tuple[tuple[str, ...], Json]:
    """Move the job's files into the staging folder under their plain names, with the graph; and read the figures."""
    for kind, file in _listed(job, outputs):
        _gather(host, file, staging / _plain_name(kind, file["filename"]))
    (staging / GRAPH).write_text(json.dumps(job.graph, indent=1) + "\n", encoding="utf-8")
    files = tuple(sorted(path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file()))
    return files, figures_of(staging)


def _plain_name(kind: str, filename: str) -> str:
    """Return what a file is, with all that follows the host's counter: `evaluation_00001_.blind.html`."""
    return kind.replace(" ", "_") + filename.rpartition("_")[2]


def _gather(host: Host, file: Json, target: Path) -> None:
    """Move it where this machine sees it, so that no disk holds it twice; else load it."""
    place = _place(file)
    if host.output is not None and (host.output / place).exists():
        shutil.move(host.output / place, target)
    elif target.suffix:
        host.address.download(file, target)
    else:
        target.mkdir()
        for name in UNET_FILES:
            inside = {**file, "subfolder": place.as_posix(), "filename": name}
            host.address.download(inside, target / name)


def figures_of(folder: Path) -> Json:
    """Return what a job's files say: shares and worst neighbours of the evaluation, what the erasure left."""
    figures: Json = {}
    report = folder / "evaluation.json"
    if report.is_file():
        figures |= evaluation_figures(json.loads(report.read_text("utf-8")))
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            metadata = metadata_of(file)
        figures |= {"base_sha256": metadata.get("esd.base_sha256", ""), "steps": metadata.get("esd.steps", "")}
        figures["left"] = json.loads(metadata.get("esd.left", "{}"))
    return figures


def evaluation_figures(report: Json) -> Json:
    """Return the shares by role and the kept labels that lost most pictures."""
    shares = {
        change["role"]: {when: [change[when]["found"], change[when]["n"]] for when in ("before", "after")}
        for change in report["changes"]
    }
    return {"found": shares, "worst": worst_of(report["scores"])}


def worst_of(scores: Sequence[Json], most: int = 5) -> list[list[Any]]:
    """Return [label, found before, found after] of kept rows, those that lost most first."""
    kept = [score for score in scores if score["role"] == "kept"]
    counts: dict[str, dict[str, int]] = {}
    models = list(dict.fromkeys(score["model"] for score in kept))
    for score in kept:
        of_label = counts.setdefault(score["label"], dict.fromkeys(models, 0))
        of_label[score["model"]] += bool(score["found"])
    rows: list[list[Any]] = [[label, *(found[model] for model in models)] for label, found in counts.items()]
    return sorted((row for row in rows if row[-1] < row[1]), key=lambda row: row[-1] - row[1])[:most]
