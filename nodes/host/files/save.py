"""Results into files under the output folder."""

from __future__ import annotations

import json
import logging
import os
import time
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_sampling
import comfy.sd
import folder_paths
import torch
from comfy.cli_args import args

from ....esd.erasure import Erasure
from ....esd.errors import EsdError
from ....esd.files.atomic import write_atomically
from ..families import require_plain_weights
from ..model.oom import translate_oom
from ..parts import require_parts
from .checkpoint import save_from_source
from .export import Export, format_of
from .folders import require_own

log = logging.getLogger("esd")

AS_SOURCE, AS_LOADED = "as source", "as loaded"
PRECISIONS = (AS_SOURCE, AS_LOADED)

LONGEST_NAME = 180
"""Bytes of a file name's beginning: file systems take 255, and counter, ending and an unfinished file's mark follow."""

FORBIDDEN = '<>:"|?*' if os.name == "nt" else ""
"""What no file name can have on this system; on Windows a colon would open a hidden second stream of another file."""

_DATE = {"%year%": "%Y", "%month%": "%m", "%day%": "%d", "%hour%": "%H", "%minute%": "%M", "%second%": "%S"}
_DATE |= {"%width%": "0", "%height%": "0"}
"""The host's own words in file names; they are put in before it is looked where the name leads."""


def output_path(prefix: str, ending: str) -> Path:
    """Return the next free name for a prefix in the output folder, `prefix_00001_` and the ending."""
    if not prefix.strip():
        raise EsdError("The file name is empty: type a name such as esd/erased.")
    if any(unicodedata.category(character) in ("Cc", "Cs") or character in FORBIDDEN for character in prefix):
        raise EsdError(f'The file name "{prefix:.100}" holds a character that no file name can have: type it anew.')
    for token, form in _DATE.items():
        prefix = prefix.replace(token, time.strftime(form))
    output = folder_paths.get_output_directory()
    whole = Path(os.path.abspath(Path(output, prefix)))
    if whole.parent.is_relative_to(output):  # else the host refuses it below
        require_own(whole.parent)
        prefix = str(whole.relative_to(output))  # without "..", which after a link would lead elsewhere
    try:
        folder, name, counter, _, _ = folder_paths.get_save_image_path(prefix, output)
    except OSError as error:
        raise EsdError(
            f'The folder for "{prefix:.100}" cannot be used ({error.strerror or error}): choose another name, or allow '
            "writing in the output folder."
        ) from error
    except Exception as error:  # the host raises a bare Exception for a path that leaves the folder
        raise EsdError(
            f'The file name "{prefix:.100}" leaves the output folder: use a name, or a sub-folder and a name.'
        ) from error
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise EsdError(f'The file name "{name:.100}" is too long: use at most {LONGEST_NAME} letters.')
    return Path(folder) / f"{name}_{counter:05}_{ending}"


def check_name(prefix: str | None) -> bool | str:
    """Return True, or why no file can have this name; the host asks before anything runs (None: a link brings it)."""
    try:
        return prefix is None or bool(output_path(prefix, ""))
    except EsdError as error:
        return str(error)


def listing(path: Path, text: str) -> dict[str, list[Any]]:
    """Return what a saving node tells: its file, and a line of text."""
    return {"esd_files": files_told([path]), "text": [text]}


def files_told(paths: Sequence[Path]) -> list[dict[str, str]]:
    """Return files in the output folder as the host's own savers list theirs."""
    root = Path(folder_paths.get_output_directory())
    folders = [path.parent.relative_to(root).as_posix() for path in paths]
    return [
        {"filename": path.name, "subfolder": "" if folder == "." else folder, "type": "output"}
        for path, folder in zip(paths, folders, strict=True)
    ]


def graph_metadata(prompt: Any, extra: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the workflow as metadata, unless the host runs with --disable-metadata."""
    if args.disable_metadata:
        return {}
    kept = {"prompt": json.dumps(_as_queued(prompt))} if prompt is not None else {}
    return kept | {key: json.dumps(value) for key, value in (extra or {}).items()}


def _as_queued(prompt: Any) -> Any:
    """Return a prompt without what the host notes in it of files: their places on this machine, and times."""
    if not isinstance(prompt, Mapping):
        return prompt
    return {
        number: {key: value for key, value in node.items() if key != "is_changed"}
        if isinstance(node, Mapping)
        else node
        for number, node in prompt.items()
    }


@dataclass(frozen=True)
class Parts:
    """What goes into a checkpoint, and the one file that all of it was loaded from, if there is one."""

    model: Any
    clip: Any
    vae: Any
    source: Path | None = None


def save_checkpoint(
    prefix: str, parts: Parts, weights: Erasure | None, graph: Mapping[str, str], precision: str = AS_LOADED
) -> tuple[Path, str]:
    """Write a full checkpoint with patches baked in; return its path and a line about it.

    "as source" keeps the source file's precision and untouched tensors and falls back to the host's writer, saying
    why, where there is no such file; "as loaded" is the host's writer: the weights as they are in memory.
    """
    if precision not in PRECISIONS:
        raise EsdError(f'precision is "{precision}": choose {" or ".join(PRECISIONS)}.')
    require_parts(parts.clip, parts.vae)
    require_plain_weights(parts.model, "a checkpoint", "save the erasure alone with Save Erasure.")
    path = output_path(prefix, ".safetensors")
    metadata = {**(weights.metadata if weights else {}), **graph}
    with translate_oom(f"{path.name} was written", _LIGHTER):
        return path, f"Saved {path.name} {_write_checkpoint(path, parts, metadata, precision)}"


_LIGHTER = "close other programs, or save the erasure alone as difference with Save Erasure"


def _write_checkpoint(path: Path, parts: Parts, metadata: dict[str, str], precision: str) -> str:
    """Write it; returns how that was done."""
    reason: str | None = AS_LOADED
    if precision == AS_SOURCE:
        reason = save_from_source(path, parts.source, parts.model, parts.clip, metadata)
        if reason is None:
            return f"in the precision of {parts.source.name if parts.source else ''}"
        reason = f"{AS_LOADED}, because {reason}"
        log.warning("ESD: %s is saved %s", path.name, reason)
    write_atomically(path, lambda to: _host_save(to, parts.model, parts.clip, parts.vae, metadata))
    return str(reason)


def _host_save(to: Path, model: Any, clip: Any, vae: Any, metadata: dict[str, str]) -> None:
    try:
        comfy.sd.save_checkpoint(str(to), model, clip, vae, None, metadata=metadata, extra_keys=_marks(model))
    except Exception as error:
        if type(error).__name__ == "SafetensorError":  # the writer's own type for a full disk
            raise OSError(str(error)) from error
        raise


def _marks(model: Any) -> dict[str, torch.Tensor]:
    """Return entries by which loaders know a schedule that the weights do not show: zero terminal SNR, EDM's ends."""
    sampling = model.get_model_object("model_sampling")
    if not isinstance(sampling, comfy.model_sampling.V_PREDICTION):
        return {}
    if isinstance(sampling, comfy.model_sampling.ModelSamplingContinuousEDM):
        ends = {"edm_vpred.sigma_max": sampling.sigma_max, "edm_vpred.sigma_min": sampling.sigma_min}
        return {name: torch.as_tensor(value).float().clone() for name, value in ends.items()}
    return {"ztsnr": torch.empty(0)} if getattr(sampling, "zsnr", False) else {}


def save_erasure(prefix: str, export: Export, graph: Mapping[str, str], form: str) -> tuple[Path, str]:
    """Write the erasure alone in one of the formats; return its path and a line about it."""
    chosen = format_of(form)
    path = output_path(prefix, chosen.ending)
    with translate_oom(f"{path.name} was written", _LIGHTER):
        text = chosen.write(path, replace(export, metadata={**export.metadata, **graph}))
    return path, f"Saved {path.name}: {text}"
