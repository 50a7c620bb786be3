"""Where files of erased weights are looked for: models/esd, and what the pack's own nodes saved."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ...esd.errors import EsdError

FOLDER = "esd"
ENDINGS = (".safetensors", ".sft", ".pt", ".pth", ".ckpt", ".bin")
NONE_YET = "(put a file into models/esd)"


def register() -> None:
    """Make the folders known to the host under the name "esd", beside any that the user's paths file adds to it."""
    output = folder_paths.get_output_directory()
    places = [
        os.path.join(folder_paths.models_dir, FOLDER),
        os.path.join(output, FOLDER),
        os.path.join(output, "loras"),
    ]
    for place in places:
        folder_paths.add_model_folder_path(FOLDER, place)


def files() -> list[str]:
    """The names that Load Erasure offers."""
    register()
    names = [n for n in folder_paths.get_filename_list(FOLDER) if n.lower().endswith(ENDINGS)]
    return names or [NONE_YET]


def path_of(name: str) -> Path:
    """The file behind a listed name; the host keeps names inside its folders.  Raises EsdError when there is none."""
    register()
    found = folder_paths.get_full_path(FOLDER, name) if name.lower().endswith(ENDINGS) else None
    if found is None or not _inside(Path(found)):
        raise EsdError(f'There is no weights file "{name}": put it into models/esd or output/esd and refresh (R).')
    return Path(found)


def _inside(path: Path) -> bool:
    plain = Path(os.path.abspath(path))
    return any(plain.is_relative_to(os.path.abspath(folder)) for folder in folder_paths.get_folder_paths(FOLDER))


def fingerprint(name: str) -> str:
    """Changes when the file does, so that a node which reads it runs again."""
    path = path_of(name)
    status = path.stat()
    return f"{path}:{status.st_size}:{status.st_mtime_ns}"
