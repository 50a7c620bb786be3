"""The check's run in this process, with ComfyUI's modules on the CPU in fp32: what the device is measured by."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from . import inprocess
from .playground.world import CHECKPOINT
from .recipe import CONCEPT, SIZE, Recipe

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Reference:
    """The change of each weight under the names that files have, and the seconds that it took."""

    differences: dict[str, Tensor] = field(repr=False)
    seconds: float


def erase(host: Path, recipe: Recipe) -> Reference:
    """Erase on the CPU; ComfyUI at `host` is started in this process, which can be done once."""
    logging.disable(logging.WARNING)
    os.environ.setdefault("TQDM_DISABLE", "1")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as base:
        inprocess.start(host, Path(base))
        return _erased(recipe)


def _erased(recipe: Recipe) -> Reference:
    import folder_paths
    import torch

    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.erasure import lora_key
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.files import load
    from esd_pack.nodes.host.run import erase

    folder_paths.add_model_folder_path("checkpoints", str(CHECKPOINT.parent))
    settings = Settings(**{**recipe.settings, **SIZE}, precision="fp32", closed_form=False)
    with torch.inference_mode():  # as the host runs its nodes
        loaded = load.load(CHECKPOINT.name)
        start = time.perf_counter()
        erased = erase.erase_model(loaded.model, loaded.clip, [make_concept(CONCEPT)], [], settings)
    seconds = time.perf_counter() - start
    return Reference({lora_key(name): t for name, t in erased.weights.differences.items()}, round(seconds, 1))
