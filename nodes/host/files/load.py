"""Checkpoints through the host's own loader."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths

from ....esd.errors import EsdError
from ....esd.files.lazy import open_tensors
from ....esd.files.torch_zip import refuse_bomb
from ..families import identify
from ..model.oom import is_oom
from ..parts import is_missing
from .folders import file_in

log = logging.getLogger("esd")


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint holds, and a line about it."""

    model: Any
    clip: Any
    vae: Any
    summary: str


def checkpoints() -> list[str]:
    """Return the names that Load Checkpoint offers."""
    return list(folder_paths.get_filename_list("checkpoints"))


def load(name: str) -> Loaded:
    """Load a checkpoint by its listed name.

    Raises EsdError when it is missing or cannot be erased.
    """
    path = file_in("checkpoints", name)
    if path is None:
        raise EsdError(f'There is no checkpoint "{name!s:.100}": put it into models/checkpoints and refresh (R).')
    _refuse_unsafe(path)
    model, clip, vae = _host_load(path)
    if model is None:
        raise EsdError(f'"{name}" holds no diffusion model: choose a full checkpoint.')
    family = identify(model)
    missing = [word for word, part in (("text encoder", clip), ("VAE", vae)) if is_missing(part)]
    note = f", without {' and '.join(missing)}: load it separately" if missing else ""
    summary = f"{family.name}{' (experimental)' if family.experimental else ''}{note}"
    log.info("ESD: %s is %s", name, summary)
    return Loaded(model, clip, vae, summary)


def _refuse_unsafe(path: Path) -> None:
    """Refuse a zip bomb, and a pickle where the host would let it run its code: with PyTorch before 2.4."""
    refuse_bomb(path)
    if path.suffix.lower() not in (".safetensors", ".sft") and not getattr(comfy.utils, "ALWAYS_SAFE_LOAD", True):
        raise EsdError(
            f"{path.name} is a pickle, and this PyTorch cannot open one without running what is in it: use a "
            "safetensors file, or PyTorch 2.4 or newer."
        )


def _host_load(path: Path) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE by the host's loader, whose many errors become one: ours about the file, or its own words."""
    try:
        model, clip, vae = comfy.sd.load_checkpoint_guess_config(
            str(path), embedding_directory=folder_paths.get_folder_paths("embeddings")
        )[:3]
        return model, clip, vae
    except comfy.model_management.InterruptProcessingException:
        raise
    except Exception as error:
        if is_oom(error):
            raise
        reason = str(error).strip().partition("\n")[0].replace(str(path), path.name) or type(error).__name__
        with open_tensors(path):  # says what is wrong with the file itself, if anything is
            raise EsdError(
                f'"{path.name}" could not be loaded as a checkpoint ({reason}): choose a full checkpoint, or download '
                "it again."
            ) from error
