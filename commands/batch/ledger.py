"""What is done: a folder of results or an fsspec URL, where a job's name never stands for half a result."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from esd_pack.esd.errors import EsdError

from .jobs import Job

Json = dict[str, Any]

RECORD = "job.json"
"""Written last: a job with this file is done."""

GRAPH = "graph.json"
FORMAT = "esd-batch-job-1"


@dataclass(frozen=True)
class Outcome:
    """How a job ended; `figures` are what its evaluation found and its erasure says of itself."""

    key: str
    state: str
    """done, failed or lost (its host went away)."""
    seconds: float = 0.0
    host: str = ""
    reason: str = ""
    files: tuple[str, ...] = ()
    figures: Json = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """Whether the result is there."""
        return self.state == "done"


class Ledger(Protocol):
    """Where results go."""

    place: str

    def found(self, job: Job) -> Outcome | None:
        """Return the outcome of a job that is done."""

    def staging(self, job: Job) -> contextlib.AbstractContextManager[Path]:
        """Return a folder for a job's files."""

    def commit(self, job: Job, staging: Path, outcome: Outcome) -> Outcome:
        """Put them in place with the record, all or none; the first result of a job stays."""

    def sweep(self) -> None:
        """Remove what is half-done; only where no other worker is at it."""

    def fetch(self, job: Job, name: str, to: Path) -> None:
        """Copy a file of a job that is done."""

    def write(self, name: str, text: str) -> None:
        """Write a text beside the jobs, all or nothing."""


def ledger_at(place: str) -> Ledger:
    """Return the ledger of a folder or a URL; raise EsdError where it cannot be used."""
    return RemoteLedger(place) if "://" in place else FolderLedger(place)


class FolderLedger:
    """Results in a folder that every worker sees."""

    def __init__(self, place: str) -> None:
        """Make the folder where there is none."""
        self.place = place
        self.root = Path(place).absolute()
        with _writing(place):
            (self.root / "jobs").mkdir(parents=True, exist_ok=True)

    def _folder(self, job: Job) -> Path:
        return self.root / "jobs" / job.name

    def found(self, job: Job) -> Outcome | None:
        """Read the record, where there is one."""
        try:
            return read_record((self._folder(job) / RECORD).read_text("utf-8"), job)
        except (OSError, UnicodeDecodeError):
            return None

    @contextlib.contextmanager
    def staging(self, job: Job) -> Iterator[Path]:
        """Return a hidden folder beside the results, gone at the end."""
        folder = Path(tempfile.mkdtemp(prefix=f".{job.key}-", dir=self.root / "jobs"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def commit(self, job: Job, staging: Path, outcome: Outcome) -> Outcome:
        """Rename the staging folder, which takes no time and no room; its files are on the disk before."""
        (staging / RECORD).write_text(record_of(job, outcome), encoding="utf-8")
        staging.chmod(0o755)
        for path in staging.rglob("*"):
            if path.is_file():
                _to_disk(path)
        folder = self._folder(job)
        try:
            os.rename(staging, folder)
        except OSError:
            if kept := self.found(job):  # a worker that was taken for lost was first
                return kept
            self._put_aside(folder)  # a folder without a record that can be read
            os.rename(staging, folder)
        return outcome

    def _put_aside(self, folder: Path) -> None:
        """Take a folder's name away at once, then remove it: one that is renamed meanwhile stays whole."""
        aside = folder.with_name(f".gone-{uuid.uuid4().hex}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder, aside)
            shutil.rmtree(aside, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what workers that were killed left half-gathered."""
        for path in (self.root / "jobs").glob(".*-*"):
            self._put_aside(path)

    def fetch(self, job: Job, name: str, to: Path) -> None:
        """Copy the file."""
        shutil.copyfile(self._folder(job) / name, to)

    def write(self, name: str, text: str) -> None:
        """Write beside and rename."""
        target = self.root / name
        unfinished = target.with_name(f".{target.name}.{os.getpid()}")
        with _writing(self.place):
            target.parent.mkdir(exist_ok=True)
            try:
                unfinished.write_text(text, encoding="utf-8", errors="replace")
                os.replace(unfinished, target)
            finally:
                unfinished.unlink(missing_ok=True)


class RemoteLedger:
    """Results behind a URL: files first, the record last."""

    def __init__(self, place: str) -> None:
        """Open the file system; nothing is written yet."""
        import fsspec

        self.place = place
        try:
            self.system, self.root = fsspec.core.url_to_fs(place)
        except (ImportError, ValueError) as error:
            raise EsdError(f"The results cannot go to {place} ({error}): install what it names.") from error

    def _folder(self, job: Job) -> str:
        return f"{self.root}/jobs/{job.name}"

    def found(self, job: Job) -> Outcome | None:
        """Read the record, where there is one."""
        try:
            return read_record(self.system.cat_file(f"{self._folder(job)}/{RECORD}").decode("utf-8"), job)
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def staging(self, job: Job) -> Iterator[Path]:
        """Return a temporary folder of this machine."""
        with tempfile.TemporaryDirectory(prefix=f"esd-{job.key}-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def sweep(self) -> None:
        """Leave all as it is: files without a record count as nothing, and are written over."""

    def commit(self, job: Job, staging: Path, outcome: Outcome) -> Outcome:
        """Copy file by file, then the record."""
        kept = self.found(job)
        if kept:
            return kept
        for path in sorted(path for path in staging.rglob("*") if path.is_file()):
            target = f"{self._folder(job)}/{path.relative_to(staging).as_posix()}"
            self.system.makedirs(target.rpartition("/")[0], exist_ok=True)
            self.system.put_file(str(path), target)
        self.system.pipe_file(f"{self._folder(job)}/{RECORD}", record_of(job, outcome).encode("utf-8"))
        return outcome

    def fetch(self, job: Job, name: str, to: Path) -> None:
        """Copy the file."""
        self.system.get_file(f"{self._folder(job)}/{name}", str(to))

    def write(self, name: str, text: str) -> None:
        """Write it in one go."""
        target = f"{self.root}/{name}"
        self.system.makedirs(target.rpartition("/")[0], exist_ok=True)
        self.system.pipe_file(target, text.encode("utf-8", "replace"))


def record_of(job: Job, outcome: Outcome) -> str:
    """Return the text of a job's record."""
    about = {"name": job.name, "model": job.model, "concepts": job.concepts, "settings": job.settings}
    counted = {"passes": job.passes, "needs": job.needs}
    return json.dumps({"format": FORMAT, **about, **counted, **asdict(outcome)}, indent=1) + "\n"


def read_record(text: str, job: Job) -> Outcome | None:
    """Return the outcome that a record tells; None for one of another job or in pieces."""
    try:
        found = json.loads(text)
        fields = ("key", "state", "seconds", "host", "reason", "figures")
        outcome = Outcome(files=tuple(found["files"]), **{name: found[name] for name in fields})
    except (ValueError, LookupError, TypeError):
        return None
    return outcome if outcome.key == job.key and found.get("format") == FORMAT else None


def _to_disk(path: Path) -> None:
    """Wait until a file is on the disk, not in the system's memory alone."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def _writing(place: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EsdError(
            f"The results cannot be written to {place} ({error.strerror or error}): make room, or name another place "
            "with --results."
        ) from error


@contextlib.contextmanager
def alone(place: str, what: str = "results") -> Iterator[None]:
    """Hold a folder for this process; raise EsdError where another one holds it. URLs are not held."""
    if "://" in place:
        yield
        return
    with _writing(place):
        Path(place).mkdir(parents=True, exist_ok=True)
        file = (Path(place) / ".lock").open("a+b")
    with file:
        if not held(file):
            raise EsdError(f"Another batch writes its {what} to {place}: wait for it, or name another --results.")
        yield


def held(file: Any) -> bool:
    """Lock an open file until it is closed or the process ends; whether that was possible."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        locking: Any = msvcrt
        with contextlib.suppress(OSError):
            file.seek(0)
            locking.locking(file.fileno(), locking.LK_NBLCK, 1)
            return True
        return False
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
