"""What stays on the disk of a run: its snapshot until it is finished, and its result, named after its inputs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import folder_paths
import psutil
import torch
from torch import Tensor

from ...esd.concepts import Concept, Keep
from ...esd.denoiser import Condition, Denoiser
from ...esd.errors import EsdError
from ...esd.files import writer_of
from ...esd.formats.read import opened
from ...esd.snapshot import read_snapshot, write_snapshot
from ...esd.train import Training
from ...esd.weights import ErasedWeights, lora_key, save_differences
from .families import NETWORK_PREFIX
from .folders import require_own

log = logging.getLogger("esd")

SNAPSHOT, RESULT = "snapshot.esd", "erasure.safetensors"
_RUN = re.compile("[0-9a-f]{16}")

MOST_BYTES = 10 * 2**30
"""How much the kept runs may take together before the oldest are deleted; the newest always stays."""

PROCEDURE = 2
"""Counts up when the same inputs would no longer give the same weights."""

FREE_OF_EFFECT = ("preset", "checkpointing")
"""Settings that change nothing in the weights that come out."""


@dataclass(frozen=True)
class Finished:
    """The kept result of a run; `complete` unless the user finished it early."""

    weights: ErasedWeights
    losses: list[float]
    complete: bool


class RunFolder:
    """The folder of one run; its name is a digest of everything that its weights depend on."""

    def __init__(self, key: str) -> None:
        self.key, self.path = key, runs_folder() / key[:16]
        self.snapshot, self.result = self.path / SNAPSHOT, self.path / RESULT

    def finished(self, denoiser: Denoiser) -> Finished | None:
        """The kept result, where there is one; raises EsdError with the cure when it cannot be read."""
        if not self.result.is_file():
            return None
        try:
            with opened(self.result) as file:
                if file.metadata.get("run.key") != self.key:
                    raise EsdError("it belongs to another run")
                names = {NETWORK_PREFIX + name: tuple(p.shape) for name, p in denoiser.trainable.items()}
                stored = {name: file.tensors[lora_key(name)] for name in names}
                if any(stored[name].shape != shape for name, shape in names.items()):
                    raise EsdError("its weights have other shapes")
                metadata = {k: v for k, v in file.metadata.items() if not k.startswith("run.")}
                weights = ErasedWeights({name: each.load() for name, each in stored.items()}, metadata)
                losses = [float(value) for value in json.loads(file.metadata["run.losses"])]
                return Finished(weights, losses, file.metadata["run.complete"] == "yes")
        except (EsdError, KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise EsdError(
                f'The kept result of this run cannot be used ({error}): set start to "start over", or delete '
                f"output/esd/runs/{self.path.name}."
            ) from error

    def went_on(self) -> bool:
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

    def keep_result(self, weights: ErasedWeights, losses: Sequence[float], complete: bool) -> None:
        """Write the result; a finished run needs its snapshot no more.  Raises EsdError where the disk refuses."""
        self._make()
        about = {"run.key": self.key, "run.losses": json.dumps(losses), "run.complete": "yes" if complete else "no"}
        save_differences(ErasedWeights(weights.differences, {**weights.metadata, **about}), self.result)
        if complete:
            self.snapshot.unlink(missing_ok=True)
        make_room(self.path)

    def _make(self) -> None:
        require_own(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EsdError(
                f"The folder output/esd/runs/{self.path.name} could not be made ({error.strerror or error}): "
                "allow writing in the output folder."
            ) from error


def runs_folder() -> Path:
    """output/esd/runs."""
    return Path(folder_paths.get_output_directory()) / "esd" / "runs"


def make_room(newest: Path) -> None:
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
    """The files of a run; none where they may not be looked at, or are just being deleted by another process."""
    try:
        return [path.stat() for path in _files(folder)]
    except OSError:
        return []


def sweep() -> None:
    """Delete what processes that are gone have left half-written in the output folder."""
    for folder, folders, files in os.walk(folder_paths.get_output_directory()):
        for name in (*folders, *files):
            path = Path(folder, name)
            try:
                _sweep(path)
            except OSError as error:  # a leftover is no reason for the pack not to load
                log.warning("ESD: %s, left half-written, could not be deleted: %s", name, error)


def _sweep(path: Path) -> None:
    writer = writer_of(path)
    if writer is None or (writer != os.getpid() and _may_be_writing(writer, path)):
        return
    log.info("ESD: deleting %s, left half-written by a process that is gone", path.name)
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


YOUNGER_SECONDS = 60
"""A process that began so long after a file was last written did not write it: its number has been given anew."""


def _may_be_writing(number: int, path: Path) -> bool:
    try:
        return bool(psutil.Process(number).create_time() < path.stat().st_mtime + YOUNGER_SECONDS)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def key_of(
    plan: Any,
    network: torch.nn.Module,
    sampling: Any,
    conditions: Mapping[str, Condition],
    concepts: Sequence[Concept],
    keeps: Sequence[Keep],
) -> str:
    """A digest of all that the resulting weights depend on, the contents of weights and text embeddings included."""
    settings = {name: value for name, value in asdict(plan.settings).items() if name not in FREE_OF_EFFECT}
    about = {
        "procedure": PROCEDURE,
        "settings": settings,
        "concepts": [asdict(c) for c in concepts],
        "keeps": [asdict(k) for k in keeps],
        "family": plan.family.name,
        "names": plan.names,
        "latent": plan.latent_shape,
        "dtype": str(plan.dtype),
        "sampling": [cls.__name__ for cls in type(sampling).__mro__],
        "schedule": {k: v for k, v in sorted(sampling.__dict__.items()) if isinstance(v, int | float | str)},
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    with ThreadPoolExecutor(4) as workers:  # hashing leaves Python's lock
        for line in workers.map(_digest, _contents(network, sampling, conditions)):
            digest.update(line)
    return digest.hexdigest()


def _contents(
    network: torch.nn.Module, sampling: Any, conditions: Mapping[str, Condition]
) -> Iterator[tuple[str, Tensor]]:
    yield from sorted(network.state_dict().items())
    yield from ((f"sampling {name}", t) for name, t in sorted(sampling.state_dict().items()))
    for prompt, condition in sorted(conditions.items()):
        yield from ((f"prompt {prompt} {name}", t) for name, t in sorted(condition.tensors.items()))


def _digest(named: tuple[str, Tensor]) -> bytes:
    name, tensor = named
    plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    about = f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode()
    return about + hashlib.sha256(plain.numpy().data).digest()
