"""The key of a run: a digest of everything that its weights depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ....esd.concepts import NULL_PROMPT, Concept, Keep
from ....esd.denoiser import Condition
from ....esd.first_names import by_first_name
from ....esd.settings import ALL_STEPS, FIELDS, Settings

ALGORITHM_VERSION = 2
"""Counts up when the same inputs would no longer give the same weights."""


def _counted(settings: Settings) -> dict[str, Any]:
    """Return the settings that count; runs of version 0.1.0 count as ones of all steps, `deterministic`."""
    values = {name: value for name, value in asdict(settings).items() if FIELDS[name].affects_result}
    for name in LATER:
        if values[name] == FIELDS[name].default:
            del values[name]
    if values["stop"] == ALL_STEPS:
        del values["stop"]
    if not values["closed_form"]:
        del values["closed_form"]
    del values["contexts"]  # the concepts have them
    return by_first_name(values)


LATER = ("deterministic", "training_guidance", "rank", "robustness")
"""Settings that version 0.1.0 did not have: its runs count as ones with their defaults, and of all steps."""


def _named(concept: Concept) -> dict[str, Any]:
    """Return a concept as it counts; without contexts as those of version 0.1.0, which had none."""
    return {name: value for name, value in asdict(concept).items() if name not in ("kind", "contexts") or value}


def run_key(
    plan: Any,
    network: torch.nn.Module,
    sampling: Any,
    conditions: Mapping[str, Condition],
    concepts: Sequence[Concept],
    keeps: Sequence[Keep],
) -> str:
    """Return a digest of all that the resulting weights depend on, contents of weights and embeddings included."""
    about = {
        "procedure": ALGORITHM_VERSION,
        "settings": _counted(plan.settings),
        "concepts": [_named(c) for c in concepts],
        "keeps": [asdict(k) for k in keeps],
        "family": plan.host.family.name,
        "names": plan.names,
        "latent": plan.latent_shape,
        "dtype": str(plan.dtype),
        "sampling": [cls.__name__ for cls in type(sampling).__mro__],
        "schedule": {k: v for k, v in sorted(sampling.__dict__.items()) if isinstance(v, int | float | str)},
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    with ThreadPoolExecutor(4) as workers:  # hashing leaves Python's lock
        for line in workers.map(_digest, _contents(network, sampling, _learnt_from(plan, conditions, concepts, keeps))):
            digest.update(line)
    return digest.hexdigest()


def _learnt_from(
    plan: Any, conditions: Mapping[str, Condition], concepts: Sequence[Concept], keeps: Sequence[Keep]
) -> Mapping[str, Condition]:
    """Return the conditions that count: those an attribute is measured by, only where that changes what is learnt."""
    if plan.settings.stop != ALL_STEPS or plan.settings.closed_form:
        return conditions
    trained = {NULL_PROMPT, *(p for c in concepts for p in c.prompts), *(p for k in keeps for p in k.prompts)}
    return {prompt: condition for prompt, condition in conditions.items() if prompt in trained}


def _contents(
    network: torch.nn.Module, sampling: Any, conditions: Mapping[str, Condition]
) -> Iterator[tuple[str, Tensor]]:
    yield from sorted(network.state_dict().items())
    yield from ((f"sampling {name}", t) for name, t in sorted(sampling.state_dict().items()))
    for prompt, condition in sorted(conditions.items()):
        yield from ((f"prompt {prompt} {name}", t) for name, t in sorted(condition.tensors.items()))
        yield from ((f"sampling {prompt} {name}", t) for name, t in sorted(condition.sampling.items()))


def _digest(named: tuple[str, Tensor]) -> bytes:
    name, tensor = named
    plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    about = f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode()
    return about + hashlib.sha256(plain.numpy().data).digest()
