"""What stays on the disk of a run: its snapshot until it is finished, and its result, named after its inputs."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import folder_paths

from ....esd.erasure import Erasure, LowRankChange, lora_key, lora_tensors, save_differences
from ....esd.errors import EsdError
from ....esd.files.lazy import open_tensors
from ....esd.files.lazy_tensor import TensorFile
from ....esd.snapshot import read_snapshot, write_snapshot
from ....esd.train import Training
from ..families import NETWORK_PREFIX
from ..files.folders import require_own
from ..model.denoiser import HostDenoiser

log = logging.getLogger("esd")

SNAPSHOT, RESULT = "snapshot.esd", "erasure.safetensors"
_RUN = re.compile("[0-9a-f]{16}")

MOST_BYTES = 10 * 2**30
"""How much the kept runs may take together before the oldest are deleted; the newest always stays."""


@dataclass(frozen=True)
class Finished:
    """The kept result of a run; `complete` unless the user finished it early."""

    weights: Erasure
    losses: list[float]
    complete: bool


class RunFolder:
    """The folder of one run; its name is a digest of everything that its weights depend on."""

    def __init__(self, key: str) -> None:
        self.key, self.path = key, runs_folder() / key[:16]
        self.snapshot, self.result = self.path / SNAPSHOT, self.path / RESULT

    def finished(self, denoiser: HostDenoiser) -> Finished | None:
        """Return the kept result, where there is one; raise EsdError with the cure when it cannot be read."""
        if not self.result.is_file():
            return None
        try:
            with open_tensors(self.result) as file:
                if file.metadata.get("run.key") != self.key:
                    raise EsdError("it belongs to another run")
                metadata = {k: v for k, v in file.metadata.items() if not k.startswith("run.")}
                weights = replace(_read(file, denoiser), metadata=metadata)
                losses = [float(value) for value in json.loads(file.metadata["run.losses"])]
                return Finished(weights, losses, file.metadata["run.complete"] == "yes")
        except (EsdError, KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise EsdError(
                f'The kept result of this run cannot be used ({error}): set start to "start over", or delete '
                f"output/esd/runs/{self.path.name}."
            ) from error

    def has_newer_snapshot(self) -> bool:
        """Whether a run that was finished early has been gone on with, and stopped, since."""
        return self.snapshot.is_file() and self.snapshot.stat().st_mtime_ns > self.result.stat().st_mtime_ns

    def resume(self, training: Training) -> int:
        """Let the training go on from the snapshot, where there is one; returns the steps that are done already."""
        if not self.snapshot.is_file():
            return 0
        training.resume(read_snapshot(self.snapshot, self.key, training.denoiser))
        return len(training.losses)

    def keep_snapshot(self, training: Training) -> None:
        """Write the state after the last completed step; raises EsdError where the disk refuses."""
        snapshot = training.snapshot()
        if snapshot is not None:
            self._make()
            write_snapshot(snapshot, self.snapshot, self.key)

    def keep_result(self, weights: Erasure, losses: Sequence[float], complete: bool) -> None:
        """Write the result; a finished run needs its snapshot no more.  Raises EsdError where the disk refuses."""
        self._make()
        about = {"run.key": self.key, "run.losses": json.dumps(losses), "run.complete": "yes" if complete else "no"}
        save_differences(replace(weights, metadata={**weights.metadata, **about}), self.result)
        if complete:
            self.snapshot.unlink(missing_ok=True)
        evict_oldest(self.path)

    def _make(self) -> None:
        require_own(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EsdError(
                f"The folder output/esd/runs/{self.path.name} could not be made ({error.strerror or error}): "
                "allow writing in the output folder."
            ) from error


def _read(file: TensorFile, denoiser: HostDenoiser) -> Erasure:
    """Return the erasure of a kept result, which has the tensors that the untrained student would have."""
    empty = denoiser.learner.erasure(NETWORK_PREFIX)
    stored = {key: file.tensors[key] for key in lora_tensors(empty)}
    if any(stored[key].shape != tuple(t.shape) for key, t in lora_tensors(empty).items()):
        raise EsdError("its weights have other shapes")
    full = {name: stored[lora_key(name)].load() for name in empty.differences}
    low = {}
    for name in empty.low_rank:
        path = name.removesuffix(".weight")
        up, down = (stored[f"{path}.lora_{part}.weight"].load() for part in ("up", "down"))
        low[name] = LowRankChange(up, down)
    return Erasure(full, low_rank=low)


def runs_folder() -> Path:
    """output/esd/runs."""
    return Path(folder_paths.get_output_directory()) / "esd" / "runs"


def evict_oldest(newest: Path) -> None:
    """Delete the oldest runs until the rest takes no more than MOST_BYTES; what else lies among them stays."""
    others = sorted((p for p in newest.parent.iterdir() if _is_run(p) and p != newest), key=_age, reverse=True)
    taken = _size(newest)
    for folder in others:
        taken += _size(folder)
        if taken > MOST_BYTES:
            log.info("ESD: the kept run %s is deleted to make room", folder.name)
            with suppress(OSError):
                for path in _files(folder):
                    path.unlink()
                folder.rmdir()  # refused where the user keeps something of his own there


def _is_run(path: Path) -> bool:
    return _RUN.fullmatch(path.name) is not None and path.is_dir() and not path.is_symlink()


def _files(folder: Path) -> list[Path]:
    return [path for path in (folder / SNAPSHOT, folder / RESULT) if path.is_file()]


def _age(folder: Path) -> float:
    return max((s.st_mtime for s in _found(folder)), default=0.0)


def _size(folder: Path) -> int:
    return sum(s.st_size for s in _found(folder))


def _found(folder: Path) -> list[os.stat_result]:
    """Return the files of a run; none where they may not be looked at, or are just being deleted by another process."""
    try:
        return [path.stat() for path in _files(folder)]
    except OSError:
        return []
