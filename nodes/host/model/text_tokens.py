"""What a text encoder gives for a prompt, tokens and pooled embedding, remembered for prompts that come again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_management
import torch
from torch import Tensor

from ....esd.closed_form import Tokens
from .conditioning import require_clip, require_finite

MOST_BYTES = 2**29
"""What is remembered of one text encoder; the oldest prompts are forgotten first."""


def tokens_of(clip: Any) -> Tokens:
    """Return what gives a prompt's tokens ("n d") as the text encoder gives them to the network."""
    told = _told_by(clip)
    return lambda prompt: told(prompt)[0].double()


def pooled_of(clip: Any) -> Tokens:
    """Return what gives a prompt's pooled embedding, as one token ("1 d")."""
    told = _told_by(clip)
    return lambda prompt: told(prompt)[1].double()


def _told_by(clip: Any) -> Callable[[str], tuple[Tensor, Tensor]]:
    require_clip(clip)
    known = _known(clip)

    def told(prompt: str) -> tuple[Tensor, Tensor]:
        if prompt not in known:
            comfy.model_management.throw_exception_if_processing_interrupted()
            with torch.no_grad():
                tokens, others = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))[0][:2]
            pooled = others.get("pooled_output")
            both = (tokens[0], tokens[0, :0] if pooled is None else pooled[:1])
            require_finite(prompt, both)
            known[prompt] = (both[0].detach().float().cpu(), both[1].detach().float().cpu())
            while len(known) > 1 and sum(t.nbytes for pair in known.values() for t in pair) > MOST_BYTES:
                del known[next(iter(known))]
        return known[prompt]

    return told


@dataclass
class _Told:
    """What a text encoder has given, as long as its patches and its last layer are the same."""

    state: tuple[Any, ...]
    prompts: dict[str, tuple[Tensor, Tensor]]


_TOLD: WeakKeyDictionary[Any, _Told] = WeakKeyDictionary()
"""By text encoder: a CPU takes a third of a second for a prompt, and common words are the same in every run."""


def _known(clip: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what this text encoder has given before; nothing where hooks may change that from call to call."""
    patcher = getattr(clip, "patcher", None)
    if patcher is None or getattr(clip, "apply_hooks_to_conds", None) or getattr(patcher, "forced_hooks", None):
        return {}
    options = (getattr(clip, name, None) for name in ("layer_idx", "tokenizer_options"))
    state = (patcher.patches_uuid, repr(list(options)))
    told = _TOLD.get(clip.cond_stage_model)
    if told is None or told.state != state:
        told = _TOLD[clip.cond_stage_model] = _Told(state, {})
    return told.prompts
