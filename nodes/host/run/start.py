"""The closed-form start of a run: which weights it changes, and the tokens that it takes from the text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_management
import torch
from torch import Tensor

from ....esd.closed_form import Tokens, second_moment, staying_prompts, text_edit
from ....esd.concepts import NULL_PROMPT, Concept, Keep
from ....esd.denoiser import Condition
from ....esd.robust import LEVELS, pool
from ....esd.slots import token_name
from ..model.conditioning import encode
from ..model.host_model import HostModel
from .plan import Plan

CPU = torch.device("cpu")


def text_weights(host: HostModel, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the trained weights of keys and of values that a prompt's tokens enter unchanged."""
    keys, values = host.family.layer_names.plain_text or ("", "")
    return [n for n in names if keys and n.endswith(keys)], [n for n in names if values and n.endswith(values)]


def starting_edits(
    plan: Plan, clip: Any, conditions: Mapping[str, Condition], concepts: Sequence[Concept], keeps: Sequence[Keep]
) -> dict[str, Tensor]:
    """Return B (`esd.closed_form`) for each weight that the run begins with changed; none where it begins as it is."""
    if not plan.settings.closed_form:
        return {}
    tokens, staying = _tokens(plan, clip, conditions)
    prompts = staying_prompts(concepts, [prompt for keep in keeps if keep.weight for prompt in keep.prompts])
    edit = text_edit(tokens, concepts, plan.settings, second_moment(map(staying, prompts)))
    keys, values = text_weights(plan.host, plan.names)
    return {**dict.fromkeys(keys, edit.keys), **dict.fromkeys(values, edit.values)}


def robust_keeps(
    plan: Plan, clip: Any, conditions: Mapping[str, Condition], concepts: Sequence[Concept], keeps: Sequence[Keep]
) -> Keep:
    """Return what a robust run keeps beside the user's own; raise EsdError for networks that it cannot attack."""
    token_name(conditions[NULL_PROMPT])
    kept = [prompt for keep in keeps for prompt in keep.prompts]
    return pool(concepts, kept, _tokens(plan, clip, conditions)[1], LEVELS[plan.settings.robustness].kept)


def _tokens(plan: Plan, clip: Any, conditions: Mapping[str, Condition]) -> tuple[Tokens, Tokens]:
    """Return what gives a prompt's tokens, and what remembers those of prompts that are the same in every run."""
    known = _known(clip)

    def tokens(prompt: str) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        told = conditions.get(prompt) or encode(plan.host, clip, [prompt], plan.latent_shape, CPU)[prompt]
        return told.tensors["c_crossattn"][0].detach().double().cpu()

    def remembered(prompt: str) -> Tensor:
        if prompt not in known:
            known[prompt] = tokens(prompt).float()
        return known[prompt].double()

    return tokens, remembered


@dataclass
class _Told:
    """The tokens that a text encoder has given, as long as its patches and its last layer are the same."""

    state: tuple[Any, ...]
    tokens: dict[str, Tensor]


_TOLD: WeakKeyDictionary[Any, _Told] = WeakKeyDictionary()
"""By text encoder: a CPU takes a third of a second for a prompt, and common words are the same in every run."""


def _known(clip: Any) -> dict[str, Tensor]:
    """Return what this text encoder has given before; nothing where hooks may change that from call to call."""
    if getattr(clip, "apply_hooks_to_conds", None) is not None or not hasattr(clip, "patcher"):
        return {}
    options = (getattr(clip, name, None) for name in ("layer_idx", "tokenizer_options"))
    state = (clip.patcher.patches_uuid, repr(list(options)))
    told = _TOLD.get(clip.cond_stage_model)
    if told is None or told.state != state:
        told = _TOLD[clip.cond_stage_model] = _Told(state, {})
    return told.tokens
