"""Published runs as data: everything that each of them set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .errors import EsdError
from .settings import ALL_STEPS, OWN_WORDS, Settings

CUSTOM = "custom"

_PUBLISHED: dict[str, Any] = {
    "num_inference_steps": 50,
    "samples_per_trajectory": 1,
    "strided": False,
    "trajectory_batch": 1,
    "buffer_size": 1,
    "draws_per_buffer": 0,
    "batch_size": 1,
    "gradient_accumulation_steps": 1,
    "optimizer": "adamw",
    "eta_erase_from": None,
    "stop": ALL_STEPS,
    "contexts": OWN_WORDS,
    "closed_form": False,
}
"""What all published runs have in common: a fresh trajectory of 50 steps for each example."""

_DEFAULT: dict[str, Any] = {
    name: getattr(Settings(), name)
    for name in (*_PUBLISHED, "steps", "learning_rate", "eta", "sampler_model", "guidance_scale")
}

PRESETS: dict[str, dict[str, Any]] = {
    "default": _DEFAULT,
    "paper-2023": {
        **_PUBLISHED,
        "steps": 1000,
        "learning_rate": 1e-5,
        "eta": 1.0,
        "sampler_model": "student",
        "guidance_scale": 3.0,
    },
    "official-2024-sd": {
        **_PUBLISHED,
        "steps": 200,
        "learning_rate": 2e-5,
        "eta": 2.0,
        "sampler_model": "student",
        "guidance_scale": 3.0,
    },
    "official-2025-sdxl": {
        **_PUBLISHED,
        "steps": 200,
        "learning_rate": 2e-4,
        "eta": 0.0,
        "sampler_model": "base",
        "guidance_scale": 2.0,
        "eta_erase_from": 1.0,
    },
    "official-2026": {
        **_PUBLISHED,
        "steps": 200,
        "learning_rate": 5e-5,
        "eta": 1.0,
        "sampler_model": "base",
        "guidance_scale": 3.0,
        "eta_erase_from": 2.0,
    },
    "official-2026-flux": {
        **_PUBLISHED,
        "steps": 1400,
        "learning_rate": 1e-4,
        "eta": 0.0,
        "sampler_model": "base",
        "num_inference_steps": 28,
        "guidance_scale": 3.5,
        "training_guidance": 1.0,
        "width": 512,
        "height": 512,
        "eta_erase_from": 1.0,
    },
    "official-2026-klein": {
        **_PUBLISHED,
        "steps": 1400,
        "learning_rate": 1e-4,
        "eta": 0.0,
        "sampler_model": "base",
        "guidance_scale": 4.0,
        "width": 1024,
        "height": 1024,
        "eta_erase_from": 1.0,
    },
}
"""What each published run used, by source; `default` is ours.  eta is the paper's (see objective.ETA_OFFSET)."""


def with_preset(settings: Settings, name: str) -> Settings:
    """Return the settings with everything that the preset names replaced; `custom` replaces nothing.

    What another preset had set, and this one leaves open, is the default again.
    """
    if name == CUSTOM:
        return settings
    if name not in PRESETS:
        raise EsdError(f'There is no preset "{name}": choose one of {", ".join(PRESETS)}.')
    before, usual = PRESETS.get(settings.preset, {}), Settings()
    left = [each for each in before.keys() - PRESETS[name].keys() if getattr(settings, each) == before[each]]
    return replace(settings, **{each: getattr(usual, each) for each in left}, **PRESETS[name], preset=name)
