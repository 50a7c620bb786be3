"""An erased checkpoint from its source file: only what changed is computed, everything else is copied byte for byte."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.model_management
import torch
from torch import Tensor

from ....esd.errors import EsdError
from ....esd.files.atomic import write_atomically
from ....esd.files.lazy import open_tensors
from ....esd.files.lazy_tensor import LazyTensor, TensorFile
from ....esd.files.safetensors_write import write_stream
from ..families import NETWORK_PREFIX

FILE_PREFIX = "model."
"""What checkpoint files put before the host's own names of the network's tensors."""

GRAPH_KEYS = ("prompt", "workflow")


def save_from_source(path: Path, source: Path | None, model: Any, clip: Any, metadata: Mapping[str, str]) -> str | None:
    """Write the erased checkpoint and return None, or write nothing and return why the source cannot be kept.

    Tensors with patches become source + patches in float32, rounded once to the source's dtype.  Peak memory is near
    the largest tensor.
    """
    if source is None:
        return "MODEL, CLIP and VAE do not come from one checkpoint file"
    with ExitStack() as stack, torch.inference_mode(False), torch.no_grad():
        try:
            file = stack.enter_context(open_tensors(source))
        except EsdError as error:  # the host reads more kinds of files than we do; its writer serves them
            return str(error)
        reason = mismatch(file, model, clip)
        if reason is None:
            tensors = {name: _watched(_erased(name, stored, model)) for name, stored in file.tensors.items()}
            kept = {key: value for key, value in file.metadata.items() if key not in GRAPH_KEYS}
            write_atomically(path, lambda to: write_stream(to, tensors, {**kept, **metadata}))
    return reason


def mismatch(file: TensorFile, model: Any, clip: Any) -> str | None:
    """Why a file is not where MODEL and CLIP come from; None when it is, tensor for tensor."""
    if clip is None or clip.patcher.patches:
        return "the CLIP has been changed"
    for key, (base, *_) in model.get_key_patches(NETWORK_PREFIX).items():
        comfy.model_management.throw_exception_if_processing_interrupted()
        stored = file.tensors.get(FILE_PREFIX + key)
        if stored is None:
            return f"the file has no {FILE_PREFIX + key}"
        weight = base[0].detach().cpu()
        if stored.shape != tuple(weight.shape) or not torch.equal(stored.load().to(weight.dtype), weight):
            return f"{key} is not as in the file"
    return None


def _erased(name: str, stored: LazyTensor, model: Any) -> LazyTensor:
    key = name.removeprefix(FILE_PREFIX)
    patches = model.patches.get(key)
    if not patches or not name.startswith(FILE_PREFIX):
        return stored

    def load() -> Tensor:
        full = stored.load().to(torch.float32, copy=True).contiguous()
        changed: Tensor = comfy.lora.calculate_weight(patches, full, key)
        return changed.to(stored.dtype)

    return dataclasses.replace(stored, load=load)


def _watched(stored: LazyTensor) -> LazyTensor:
    def load() -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        return stored.load()

    return dataclasses.replace(stored, load=load)
