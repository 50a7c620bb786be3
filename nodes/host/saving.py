"""Results into files under the output folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.sd
import folder_paths
from comfy.cli_args import args

from ...esd.errors import EsdError
from ...esd.files import write_atomically
from ...esd.weights import ErasedWeights, save_differences


def output_path(prefix: str, ending: str) -> Path:
    """The next free name for a prefix in the output folder, `prefix_00001_.ending`."""
    if not prefix.strip():
        raise EsdError("The file name is empty: type a name such as esd/erased.")
    try:
        folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    except Exception as error:  # the host raises a bare Exception for a path that leaves the folder
        raise EsdError(
            f'The file name "{prefix}" leaves the output folder: use a name, or a sub-folder and a name.'
        ) from error
    return Path(folder) / f"{name}_{counter:05}_.{ending}"


def listing(path: Path, text: str) -> dict[str, list[Any]]:
    """What a saving node shows: the file as the host's own savers list theirs, and a line of text."""
    root = Path(folder_paths.get_output_directory())
    folder = path.parent.relative_to(root).as_posix()
    return {
        "esd_files": [{"filename": path.name, "subfolder": "" if folder == "." else folder, "type": "output"}],
        "text": [text],
    }


def graph_metadata(prompt: Any, extra: Mapping[str, Any] | None) -> dict[str, str]:
    """The workflow as metadata, unless the host runs with --disable-metadata."""
    if args.disable_metadata:
        return {}
    kept = {"prompt": json.dumps(prompt)} if prompt is not None else {}
    return kept | {key: json.dumps(value) for key, value in (extra or {}).items()}


def save_checkpoint(
    prefix: str, model: Any, clip: Any, vae: Any, weights: ErasedWeights | None, graph: Mapping[str, str]
) -> Path:
    """A full checkpoint, patches baked in, as the host writes its own; returns its path."""
    path = output_path(prefix, "safetensors")
    metadata = {**(weights.metadata if weights else {}), **graph}
    write_atomically(path, lambda to: _host_save(to, model, clip, vae, metadata))
    return path


def _host_save(to: Path, model: Any, clip: Any, vae: Any, metadata: dict[str, str]) -> None:
    try:
        comfy.sd.save_checkpoint(str(to), model, clip, vae, None, metadata=metadata)
    except Exception as error:
        if type(error).__name__ == "SafetensorError":  # the writer's own type for a full disk
            raise OSError(str(error)) from error
        raise


def save_erasure(prefix: str, weights: ErasedWeights, graph: Mapping[str, str]) -> Path:
    """The differences alone, as a file that the stock LoRA loaders apply; returns its path."""
    path = output_path(prefix, "safetensors")
    save_differences(ErasedWeights(weights.differences, {**weights.metadata, **graph}), path)
    return path
