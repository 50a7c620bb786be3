"""Published files of erased weights, read onto a MODEL."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from ....esd.formats.load import Base, Imported, load_erasure
from ..model.network_view import network_of
from .metadata import sha256

log = logging.getLogger("esd")


def load(path: Path, model: Any, interpret: str, base_model: Any = None, base_path: Path | None = None) -> Imported:
    """Return a file as erased weights for the MODEL; `base_path` is its base's file.  Warnings go to the log, too."""
    with torch.inference_mode(False), torch.no_grad():
        trained_from = network_of(base_model) if base_model is not None else None
        base = Base(network_of(model), trained_from, lambda: sha256(base_path) if base_path else "")
        found = load_erasure(path, base, interpret)
    log.info("ESD: %s is %s", path.name, found.summary)
    for warning in found.warnings:
        log.warning("ESD: %s: %s", path.name, warning)
    return found
