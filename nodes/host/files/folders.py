"""Which files are read and written: in the host's own folders; erased weights in models/esd and the output folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import folder_paths

from ....esd.errors import EsdError

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
    """Return the names that Load Erasure offers."""
    register()
    names = [n for n in folder_paths.get_filename_list(FOLDER) if n.lower().endswith(ENDINGS)]
    return names or [NONE_YET]


def file_in(kind: str, name: object) -> Path | None:
    """Return the file of that name in the host's folders of a kind; None where there is none, or it leads out of them.

    A link that lies there is followed, as by the host's own loaders: whoever made it could have put the file there.
    """
    try:
        found = folder_paths.get_full_path(kind, name) if isinstance(name, str) else None
    except ValueError:  # on Windows: a name on another drive
        return None
    return Path(found) if found and _is_below(os.path.abspath(found), folder_paths.get_folder_paths(kind)) else None


def _is_below(path: str, folders: Iterable[str]) -> bool:
    return any(Path(path).is_relative_to(os.path.abspath(folder)) for folder in folders)


def require_own(folder: Path) -> None:
    """Raise EsdError where links lead a folder that is written into out of the output folder and all model folders."""
    models = [paths for kind, (paths, _) in folder_paths.folder_names_and_paths.items() if kind != "custom_nodes"]
    own = [folder_paths.get_output_directory(), *chain.from_iterable(models)]
    if not _is_below(os.path.realpath(folder), map(os.path.realpath, own)):
        raise EsdError(
            f'The folder "{folder.name:.100}" is a link that leads out of ComfyUI\'s folders: choose another name, or '
            "name the place in extra_model_paths.yaml."
        )


def path_of(name: str) -> Path:
    """Return the file behind a listed name, which the host keeps inside its folders; raise EsdError for none."""
    register()
    found = file_in(FOLDER, name)
    if found is None or found.suffix.lower() not in ENDINGS:
        raise EsdError(
            f'There is no weights file "{name!s:.100}": put it into models/esd or output/esd and refresh (R).'
        )
    return found


def fingerprint(name: str) -> str:
    """Return what changes when the file does, so that a node which reads it runs again."""
    path = path_of(name)
    status = path.stat()
    return f"{path}:{status.st_size}:{status.st_mtime_ns}"
