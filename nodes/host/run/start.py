"""The closed-form start of a run: which weights it changes, and the tokens that it takes from the text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....esd.closed_form import (
    MOST_ETA,
    MOST_ETA_AT_INPUT,
    POOLED_RIDGE,
    RIDGE,
    TextEdit,
    Tokens,
    is_style,
    second_moment,
    staying_prompts,
    staying_words,
    text_edit,
)
from ....esd.concepts import NULL_PROMPT, Concept, Keep, kept_prompts
from ....esd.denoiser import Condition
from ....esd.robust import LEVELS, pool
from ....esd.settings import Settings
from ....esd.slots import token_name
from ..model.host_model import HostModel
from ..model.text_tokens import pooled_of, tokens_of
from .plan import Plan


@dataclass(frozen=True)
class TextWeights:
    """The trained weights that text enters as the text encoder gives it, by what enters them and what they make of it.

    Keys and values of text attention; in transformers the layers before the blocks, of all `tokens` and of the `pooled`
    embedding.
    """

    keys: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    pooled: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.keys or self.values or self.tokens or self.pooled)


def text_weights(host: HostModel, names: Sequence[str]) -> TextWeights:
    """Return the trained weights that a start in closed form changes."""
    of_family = host.family.layer_names
    endings, inputs = of_family.plain_text, of_family.inputs_of(names)
    plain = [tuple(n for n in names if n.endswith(ending)) for ending in endings] if endings else [(), ()]
    entered = [tuple(n for n in names if n == each) for each in inputs] if inputs else [(), ()]
    return TextWeights(*plain, *entered)


@dataclass(frozen=True)
class Start:
    """B (`esd.closed_form`) for each weight that a run begins with changed; none where it begins as it is.

    `without_styles` is for where the start leaves a style in the pictures: training the keys and values gets further
    from the style as it is (docs/quality.md). What it does not name stays as begun.
    """

    edits: Mapping[str, Tensor]
    without_styles: Mapping[str, Tensor]


def starting_edits(
    plan: Plan, clip: Any, conditions: Mapping[str, Condition], concepts: Sequence[Concept], keeps: Sequence[Keep]
) -> Start:
    """Solve for the start of a run; nothing where the settings want none."""
    if not plan.settings.closed_form:
        return Start({}, {})
    weights, settings = text_weights(plan.host, plan.names), plan.settings
    prompts = staying_prompts(concepts, kept_prompts(keeps))
    if weights.tokens and not _have_one_length(conditions):
        return Start({}, {})
    tokens = _Text(conditions, "c_crossattn", tokens_of(clip), prompts)
    if weights.tokens:
        edit = tokens.edit(concepts, settings, most_eta=MOST_ETA_AT_INPUT)
        edits = dict.fromkeys(weights.tokens, edit.keys)
        if weights.pooled and all("y" in each.tensors for each in conditions.values()):
            width = plan.host.weights()[weights.pooled[0]].shape[1]
            pooled = _Text(conditions, "y", pooled_of(clip), [*prompts, *staying_words(concepts)], width)
            edit = pooled.edit(concepts, settings, POOLED_RIDGE, MOST_ETA_AT_INPUT)
            edits |= dict.fromkeys(weights.pooled, edit.keys)
        return Start(edits, {})

    def edits_for(chosen: Sequence[Concept]) -> dict[str, Tensor]:
        edit = tokens.edit(chosen, settings)
        return dict.fromkeys(weights.keys, edit.keys) | dict.fromkeys(weights.values, edit.values)

    others = [concept for concept in concepts if not is_style(concept)]
    edits = edits_for(concepts)
    return Start(edits, edits_for(others) if len(others) < len(concepts) else edits)


def _have_one_length(conditions: Mapping[str, Condition]) -> bool:
    """Whether all prompts have as many tokens: each token of one then stands for one of the other.

    Joint attention sees repeated tokens more often, so longer prompts (SD3: above 77 tokens of T5) are no match.
    """
    return len({condition.tensors["c_crossattn"].shape[1] for condition in conditions.values()}) == 1


class _Text:
    """One form of what a network is told of prompts, with the second moment of what stays.

    Most of these prompts are the same in every run, so the text encoder's answers are remembered.  A text encoder that
    a model goes without leaves zeros: only the `used` features are solved for, among the first `width`, which are all
    that the network takes of an embedding that is wider.
    """

    def __init__(
        self,
        conditions: Mapping[str, Condition],
        name: str,
        remembered: Tokens,
        staying: Sequence[str],
        width: int | None = None,
    ) -> None:
        self.conditions, self.name, self.remembered = conditions, name, remembered
        largest = torch.stack([remembered(prompt)[:, :width].abs().amax(0) for prompt in staying]).amax(0)
        self.width, self.used = len(largest), largest > 0
        self.staying = second_moment(map(self._used_of, map(remembered, staying)))  # one at a time

    def __call__(self, prompt: str) -> Tensor:
        told = self.conditions.get(prompt)
        given = told.tensors[self.name].detach().double().cpu() if told else self.remembered(prompt)
        return self._used_of(given.reshape(-1, given.shape[-1]))

    def _used_of(self, given: Tensor) -> Tensor:
        return given[:, : self.width][:, self.used]

    def edit(
        self, concepts: Sequence[Concept], settings: Settings, ridge: float = RIDGE, most_eta: float = MOST_ETA
    ) -> TextEdit:
        """Solve for B among all features."""
        if not self.used.any():  # there is no pooled embedding
            return TextEdit(*torch.zeros(2, self.width, self.width))
        edit = text_edit(self, concepts, settings, self.staying, ridge, most_eta)
        return edit if self.used.all() else TextEdit(self._whole(edit.keys), self._whole(edit.values))

    def _whole(self, edit: Tensor) -> Tensor:
        whole = torch.zeros((self.width, self.width))
        whole[self.used[:, None] & self.used] = edit.flatten()
        return whole


def robust_keeps(
    plan: Plan, clip: Any, conditions: Mapping[str, Condition], concepts: Sequence[Concept], keeps: Sequence[Keep]
) -> Keep:
    """Return what a robust run keeps beside the user's own; raise EsdError for networks that it cannot attack."""
    token_name(conditions[NULL_PROMPT])
    kept = [prompt for keep in keeps for prompt in keep.prompts]
    return pool(concepts, kept, tokens_of(clip), LEVELS[plan.settings.robustness].kept)
