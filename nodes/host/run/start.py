"""The closed-form start of a run: which weights it changes, and the tokens that it takes from the text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ....esd.closed_form import is_style, second_moment, staying_prompts, text_edit
from ....esd.concepts import NULL_PROMPT, Concept, Keep, kept_prompts
from ....esd.denoiser import Condition
from ....esd.robust import LEVELS, pool
from ....esd.slots import token_name
from ..model.host_model import HostModel
from ..model.text_tokens import tokens_of
from .plan import Plan


def text_weights(host: HostModel, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the trained weights of keys and of values that a prompt's tokens enter unchanged."""
    keys, values = host.family.layer_names.plain_text or ("", "")
    return [n for n in names if keys and n.endswith(keys)], [n for n in names if values and n.endswith(values)]


@dataclass(frozen=True)
class Start:
    """B (`esd.closed_form`) for each weight that a run begins with changed; none where it begins as it is.

    `without_styles` has the same weights, for where the start leaves a style in the pictures: training gets further
    from the style as it is (docs/quality.md).
    """

    edits: Mapping[str, Tensor]
    without_styles: Mapping[str, Tensor]


def starting_edits(
    plan: Plan, clip: Any, conditions: Mapping[str, Condition], concepts: Sequence[Concept], keeps: Sequence[Keep]
) -> Start:
    """Solve for the start of a run; nothing where the settings want none."""
    if not plan.settings.closed_form:
        return Start({}, {})
    remembered = tokens_of(clip)  # most of these prompts are the same in every run
    prompts = staying_prompts(concepts, kept_prompts(keeps))
    moment = second_moment(map(remembered, prompts))
    keys, values = text_weights(plan.host, plan.names)

    def tokens(prompt: str) -> Tensor:
        told = conditions.get(prompt)
        return told.tensors["c_crossattn"][0].detach().double().cpu() if told else remembered(prompt)

    def edits_for(chosen: Sequence[Concept]) -> dict[str, Tensor]:
        edit = text_edit(tokens, chosen, plan.settings, moment)
        return {**dict.fromkeys(keys, edit.keys), **dict.fromkeys(values, edit.values)}

    others = [concept for concept in concepts if not is_style(concept)]
    edits = edits_for(concepts)
    return Start(edits, edits_for(others) if len(others) < len(concepts) else edits)


def robust_keeps(
    plan: Plan, clip: Any, conditions: Mapping[str, Condition], concepts: Sequence[Concept], keeps: Sequence[Keep]
) -> Keep:
    """Return what a robust run keeps beside the user's own; raise EsdError for networks that it cannot attack."""
    token_name(conditions[NULL_PROMPT])
    kept = [prompt for keep in keeps for prompt in keep.prompts]
    return pool(concepts, kept, tokens_of(clip), LEVELS[plan.settings.robustness].kept)
