"""What the host has on a device, and making it give some of that back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
import torch

ALL = 1e30


def offload_others(size: int, device: torch.device, shared: Any = None) -> int:
    """Let the host unload what it must for `size` free bytes, and return how many are free.

    A MODEL whose weights on the device are `shared` stays: a run would have to copy what it takes away.
    """
    end_streaming()
    loaded = comfy.model_management.current_loaded_models
    there = [each for each in loaded if each.model is not None]
    keep = [each for each in there if shared is not None and shared.is_clone(each.model)]
    comfy.model_management.free_memory(size, device, keep_loaded=keep)
    return int(comfy.model_management.get_free_memory(device))


def end_streaming() -> None:
    """Give back the buffers through which hosts with DynamicVRAM stream weights; they do so after each node."""
    reset = getattr(comfy.model_management, "reset_cast_buffers", None)
    if reset is not None:
        reset()


def unload(patcher: Any) -> None:
    """Let the host take one MODEL, CLIP or VAE off its device; it comes back when it is used."""
    unload_where(lambda each: each.model is patcher or patcher.is_clone(each.model))


def unload_where(wanted: Callable[[Any], bool]) -> None:
    """Let the host take every loaded part off its device of which `wanted` is true."""
    loaded = comfy.model_management.current_loaded_models
    gone = [each for each in loaded if each.model is not None and wanted(each)]
    for device in {each.device for each in gone}:
        comfy.model_management.free_memory(ALL, device, keep_loaded=[each for each in loaded if each not in gone])


def restore_injected_layers(model: Any) -> None:
    """Let the host unload the MODELs of this network whose layers are now in place of its own.

    Layers that another plugin lends to a MODEL stay in the network until another MODEL is sampled, and all MODELs of
    a checkpoint share one network.
    """
    unload_where(lambda each: model.is_clone(each.model) and _has_injections(each.model))


def restore_own_weights(model: Any) -> None:
    """Let the host unload the MODELs of this network whose patches are now in its weights."""
    unload_where(lambda each: model.is_clone(each.model) and bool(each.model.patches))


def _has_injections(model: Any) -> bool:
    return model.is_injected or any(name.startswith("diffusion_model") for name in model.object_patches_backup)
