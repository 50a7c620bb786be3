"""Where things lie on this machine: the pack, ComfyUI's modules, and the server's folders of models and outputs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from .playground.world import CHECKPOINT
from .talk import Address, ServerError

ROOT = Path(os.path.abspath(__file__)).parents[1]
"""The pack as it was started: where it is a link in custom_nodes, the link."""

FOLDER = "esd/check"
"""Where below the output folder the check's files go."""


def host_folder(named: Path | None, argv: Sequence[str]) -> Path:
    """Return the folder of ComfyUI's own modules: the named one, or where it is usual; raise ServerError for none."""
    named = named or (Path(os.environ["COMFYUI_PATH"]) if os.environ.get("COMFYUI_PATH") else None)
    usual = [ROOT.parents[1], ROOT.resolve().parents[1], *(Path(word).parent for word in argv[:1])]
    for folder in [named] if named else usual:
        if (folder / "main.py").is_file() and (folder / "comfy").is_dir():
            return folder.resolve()
    raise ServerError("ComfyUI's own folder, with its main.py, was not found: name it with --comfyui FOLDER.")


def listed(server: Address) -> bool:
    """Whether the server offers the playground checkpoint."""
    return json.dumps(CHECKPOINT.name) in json.dumps(server.get("/object_info/ESDLoadModel"))


@contextlib.contextmanager
def checkpoint_in_place(server: Address, folders: Sequence[Path]) -> Iterator[None]:
    """Let the server see the playground checkpoint: where it has none, as a copy in a models folder, removed at last.

    Raises ServerError with the cure where the server looks into none of the folders.
    """
    if listed(server):
        yield
        return
    for folder in folders:
        copy = (folder / "checkpoints" if folder.name != "checkpoints" else folder) / CHECKPOINT.name
        if copy.parent.is_dir() and not copy.exists():
            with _copied(copy, server):
                if listed(server):
                    yield
                    return
    raise ServerError(
        f"ComfyUI does not offer {CHECKPOINT.name}, and its models folder was not found: name it with --models FOLDER."
    )


@contextlib.contextmanager
def _copied(copy: Path, server: Address) -> Iterator[None]:
    try:
        shutil.copyfile(CHECKPOINT, copy)
    except OSError as error:
        copy.unlink(missing_ok=True)
        raise ServerError(
            f"{CHECKPOINT.name} could not be copied into {copy.parent} ({error.strerror}): copy it there yourself."
        ) from error
    try:
        yield
    finally:
        try:
            copy.unlink(missing_ok=True)
        except PermissionError:  # Windows, while the server has it open
            server.post("/free", {"unload_models": True, "free_memory": True})
            with contextlib.suppress(PermissionError):
                copy.unlink(missing_ok=True)


@dataclass
class Leavings:
    """The files that the check made in the server's output folder, which is one of `folders`."""

    folders: Sequence[Path]
    seed: int
    files: list[dict[str, Any]] = field(default_factory=list)

    def remove(self) -> list[str]:
        """Remove them, and the runs that Erase kept of them; returns what is left, as names in the output folder."""
        names = [Path(file.get("subfolder", ""), file["filename"]) for file in self.files]
        return [name.as_posix() for name in names if not any(self._removed(name, each) for each in self.folders)]

    def _removed(self, name: Path, folder: Path) -> bool:
        if not (folder / name).is_file():
            return False
        with contextlib.suppress(OSError):
            (folder / name).unlink()
            self._remove_runs(folder / "esd" / "runs")
            for emptied in (FOLDER, "esd/runs", "esd"):
                with contextlib.suppress(OSError):  # a user's files are in it
                    (folder / emptied).rmdir()
        return not (folder / name).exists()

    def _remove_runs(self, runs: Path) -> None:
        """Those with the check's own seed, which nobody else takes."""
        for result in runs.glob("*/erasure.safetensors"):
            with result.open("rb") as file:
                seed = metadata_of(file).get("esd.seed")
            if seed == str(self.seed):
                shutil.rmtree(result.parent)


def metadata_of(file: BinaryIO) -> dict[str, str]:
    """Return the metadata of a safetensors file that is open at its beginning."""
    header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return dict(header.get("__metadata__", {}))


def values_of(argv: Sequence[str], option: str) -> list[str]:
    """Return the values that a command line gives to an option, as two words or as one."""
    pairs = [value for word, value in zip(argv, argv[1:], strict=False) if word == option]
    return pairs + [word.partition("=")[2] for word in argv if word.startswith(f"{option}=")]


def models_folders(named: Path | None, argv: Sequence[str], host: Path) -> list[Path]:
    """Where the server may look for models: the named folder alone, else the usual ones."""
    bases = [*map(Path, values_of(argv, "--base-directory")), ROOT.parents[1], host]
    return [named] if named else list(dict.fromkeys(base / "models" for base in bases))


def output_folders(argv: Sequence[str], host: Path) -> list[Path]:
    """Where the server may write its results."""
    bases = [*map(Path, values_of(argv, "--base-directory")), ROOT.parents[1], host]
    return list(dict.fromkeys([*map(Path, values_of(argv, "--output-directory")), *(b / "output" for b in bases)]))
