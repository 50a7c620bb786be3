"""Unified Concept Editing on the host's MODEL: the change of every key and value of text attention."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ....esd.closed_form import Tokens
from ....esd.concepts import Concept, Keep
from ....esd.erasure import PREFIX, Erasure
from ....esd.errors import EsdError
from ....esd.selection import UNET, select
from ....esd.unified_concept_editing import edit
from ..families import require_plain_weights
from .host_model import HostModel, as_host_model
from .network import weights_of
from .text_tokens import tokens_of

METHOD = "uce"


def unified_concept_editing(
    model: Any, clip: Any, concepts: Sequence[Concept], keeps: Sequence[Keep], ridge: float
) -> Erasure:
    """Return the edit of a MODEL; raise EsdError where there is no such closed form."""
    host = as_host_model(model)
    _require_fitting(host, concepts)
    require_plain_weights(model, "editing them", "load the fp16, bf16 or fp32 file (weight_dtype default).")
    tokens = tokens_of(clip)
    pairs = [_pair(tokens, concept.erase, concept.replace_with) for concept in concepts]
    kept = [tokens(prompt) for prompt in dict.fromkeys(p for keep in keeps for p in keep.prompts)]
    erased, wanted = (torch.cat(side) for side in zip(*pairs, strict=True))
    change = edit(erased, wanted, torch.cat(kept) if kept else erased[:0], ridge)
    names, weights = select("esd-x-strict", weights_of(host.network), host.family.layer_names), host.weights()
    cpu = torch.device("cpu")
    differences = {f"{PREFIX}{name}": (weights[name].on(cpu, torch.float64) @ change).float() for name in names}
    return Erasure(
        differences,
        {
            "esd.format": "esd-concept-erasure-1",
            "esd.family": host.family.name,
            "esd.method": METHOD,
            "esd.concepts": json.dumps([asdict(concept) for concept in concepts]),
            "esd.keeps": json.dumps([asdict(keep) for keep in keeps]),
            "esd.ridge": repr(ridge),
        },
    )


def _require_fitting(host: HostModel, concepts: Sequence[Concept]) -> None:
    if host.family.layer_names.text_key_value != UNET.text_key_value:
        raise EsdError(
            f"Unified Concept Editing solves for keys and values of text attention, and {host.family.name} has none of "
            "its own: use Erase, or an SD1.x, SD2.x or SDXL model."
        )
    if any(concept.erase_from for concept in concepts):
        raise EsdError("Unified Concept Editing knows no erase_from: leave it empty, and say what to replace with.")


def _pair(tokens: Tokens, erased: str, wanted: str) -> tuple[Tensor, Tensor]:
    """Return the embeddings of two prompts' tokens place by place, "n d" each."""
    both = tokens(erased), tokens(wanted)
    count = min(map(len, both))
    return both[0][:count], both[1][:count]
