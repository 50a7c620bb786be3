"""Layers that other plugins put into the shared network, taken out again."""

from __future__ import annotations

from typing import Any

from .loaded import unload_where


def restore_injected_layers(model: Any) -> None:
    """Let the host unload the MODELs of this network whose layers are now in place of its own.

    Layers that another plugin lends to a MODEL stay in the network until another MODEL is sampled, and all MODELs of
    a checkpoint share one network.
    """
    unload_where(lambda each: model.is_clone(each.model) and _has_injections(each.model))


def _has_injections(model: Any) -> bool:
    return model.is_injected or any(name.startswith("diffusion_model") for name in model.object_patches_backup)
