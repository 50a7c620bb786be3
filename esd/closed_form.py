"""A start in closed form: the text keys and values that come nearest to ESD's target, without a pass of the network.

A token e of a prompt enters a linear layer W as W e.  For a concept's prompt with tokens e_i, those of its anchor a_i,
of the words to erase c_i and of the empty prompt n_i, ESD's target (eq. 7 of the paper) asks of the values for
W' e_i = W (a_i - eta (c_i - n_i)), and of the keys for W' e_i = W a_i.  All other prompts should stay as they are.
Ridge regression, as in UCE (Gandikota et al., WACV 2024, eq. 7), gives W' = W (I + B) with

    B = sum_i (a_i - eta (c_i - n_i) - e_i) e_i^T  (sum_i e_i e_i^T + M + ridge I)^-1

where M is the second moment of tokens that stay.  B does not depend on W, so one solve of the text's width does for all
layers.  What is erased from something else has no tokens of its own there: a_i are then those of the same prompt
without its words, and eta is 0, as it is for what is replaced.  A style shares its words with other styles, so it is
pushed away from the same prompt in those, keys too: W' e_i = W (s_i - eta (e_i - s_i)), s_i the mean of a few such
prompts' tokens, which stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor

from .concepts import Concept, without
from .contexts import CARRIERS, kind_of
from .denoiser import same_length
from .examples import TargetSpec, concept_specs
from .settings import Settings

MOST_ETA, MOST_ETA_AT_INPUT = 1.0, 2.0
"""How far keys and values are pushed at most: further on the layers are no longer near linear.

And styles where text enters a transformer: what is pushed there comes out less far.
"""

RIDGE = 1e-5
"""As a share of the mean of the second moment's diagonal."""

POOLED_RIDGE = 0.1
"""The same for pooled embeddings: a prompt has but one, so what stays leaves most directions free."""

LISTS = 16
"""Words are put together in so many prompts: a text encoder on a CPU takes its time for each."""

SPARSE = 12
"""Every so many words, one stands in a phrase, and in the place of an attribute."""

_PHRASES = ("a photo of a", "a drawing of a")
COMMON_WORDS = (
    "person man woman child face hand eye hair dog horse bird fish insect flower tree leaf grass forest mountain river "
    "sea beach sky cloud sun moon star rain snow fire water stone sand road street city building house door window "
    "room kitchen bed chair table lamp book paper pen letter clock phone computer screen camera music song dance game "
    "ball toy doll car truck bicycle boat plane ship bridge tower castle garden farm field fruit apple bread meat soup "
    "cake cup glass plate bottle knife shirt dress hat shoe coat bag ring gold silver wood metal plastic cloth red "
    "green blue yellow black white old young big small happy sad angry photo painting sketch drawing cartoon portrait "
    "landscape style light shadow night day"
).split()
_STYLES = (
    "photo painting cartoon sketch modern gothic baroque pixel minimal vintage anime comic abstract retro classic flat"
).split()
_OTHER_STYLES = "modern gothic vintage abstract minimal classic baroque retro".split()
_OF_ANY_STYLE = frozenset(
    "a an the in of by style styled aesthetic painting paintings art artwork drawing sketch engraving".split()
)

STYLE = 0.02
"""How much a prompt of a style counts: its name is all that moves, and the more it counts the more moves with it."""

OTHERS = 4
"""How many other styles stand for any."""


@dataclass(frozen=True)
class TextEdit:
    """B for the keys and for the values, "d d" each, float32 on the CPU: a layer's change is W B."""

    keys: Tensor
    values: Tensor


def fits(concept: Concept) -> bool:
    """Whether the start changes a concept.

    Not an attribute whose words the prompt does not have, nor a style without a name.
    """
    if concept.erase_from:
        return bool(concept.silent_prompt)
    name = _name_of(concept.erase)
    return kind_of(concept) == "object" or bool(concept.replace_with or (name and not set(_OTHER_STYLES) <= set(name)))


def staying_prompts(concepts: Sequence[Concept], kept: Iterable[str] = ()) -> list[str]:
    """Return the empty prompt, what is to be kept, and some 40 of common words that say none of the concepts."""
    named = [set(words.split()) for c in concepts for words in (c.erase, c.student_prompt)]

    def silent(prompts: Iterable[str]) -> list[str]:
        return [prompt for prompt in prompts if not any(words <= set(prompt.split()) for words in named)]

    words = silent(COMMON_WORDS)
    siblings = silent(p for concept in concepts if concept.silent_prompt for p in _siblings(concept, words[::SPARSE]))
    styles = (concept for concept in concepts if is_style(concept) and fits(concept))
    siblings += silent(other for concept in styles for other in _in_other_styles(concept))
    together = [" ".join(words[i::LISTS]) for i in range(LISTS)]
    phrases = silent(f"{said} {word}" for said, word in zip(cycle(_PHRASES), words[::SPARSE], strict=False))
    styled = silent(f"{carrier} in {style} style" for carrier, style in zip(cycle(CARRIERS), _STYLES, strict=False))
    return list(dict.fromkeys(["", *kept, *siblings, *together, *phrases, *styled]))


def staying_words(concepts: Sequence[Concept]) -> list[str]:
    """Return common words as prompts of their own, and the empty prompt many times over.

    Pooled embeddings of long prompts say little about short ones, and the empty one is in every picture.
    """
    named = {word for concept in concepts for said in (concept.erase, concept.student_prompt) for word in said.split()}
    return [word for word in COMMON_WORDS[:: SPARSE // 2] if word not in named] + [""] * LISTS


def _siblings(concept: Concept, words: Iterable[str]) -> list[str]:
    """Return what an attribute is erased from, with other words in the place of its own."""
    article, space, _ = concept.erase.partition(" ")
    start = f"{article} " if space and article in ("a", "an", "the") else ""
    return [concept.erase_from.replace(concept.erase, f"{start}{word}") for word in words]


def is_style(concept: Concept) -> bool:
    """Whether a concept is a style that is pushed away from other styles."""
    return kind_of(concept) == "style" and not concept.erase_from and not concept.replace_with


def _in_other_styles(concept: Concept) -> list[str]:
    """Return the prompts of a style in other styles."""
    said = (concept.erase, *(context.prompt for context in concept.contexts or ()))
    return [other for prompt in said for other in other_styles(prompt, concept.erase)]


def other_styles(prompt: str, style: str) -> list[str]:
    """Return a prompt with other styles' names, word for word, in the place of a style's own."""
    name = _name_of(style)
    others = cycle(word for word in _OTHER_STYLES if word not in name)
    return [" ".join(next(others) if word in name else word for word in prompt.split()) for _ in range(OTHERS)]


def _name_of(style: str) -> list[str]:
    """Return the words of a style that other styles have not."""
    return [word for word in style.split() if word.lower() not in _OF_ANY_STYLE]


Tokens = Callable[[str], Tensor]
"""The tokens of a prompt, "n d", float64 on the CPU."""


def second_moment(tokens: Iterable[Tensor]) -> Tensor:
    """Return the mean over prompts of the sum of e e^T over their tokens, "d d"."""
    total, count = torch.zeros(()), 0
    for each in tokens:
        total, count = total + each.mT @ each, count + 1
    return total / count


def ridged(moment: Tensor, ridge: float = RIDGE) -> Tensor:
    """Return a second moment with the ridge on its diagonal."""
    return moment + ridge * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype)


def text_edit(
    tokens: Tokens,
    concepts: Sequence[Concept],
    settings: Settings,
    staying: Tensor,
    ridge: float = RIDGE,
    most_eta: float = MOST_ETA,
) -> TextEdit:
    """Solve for B, which is 0 where no concept fits; `staying` is the second moment of the tokens that stay, "d d".

    Prompts of a concept count by their shares of its examples, and concepts by their weights; styles by `STYLE`.
    """
    named = [concept for concept in concepts if fits(concept)]
    if not named:
        return TextEdit(*torch.zeros(2, *staying.shape))
    specs = [(spec, share, c) for c in named for spec, share in concept_specs(c, settings)]
    each = sum(share for _, share, _ in specs) / len(named)
    width = len(staying)
    moment = ridged(staying, ridge)
    keys, values = (torch.zeros((width, width), dtype=staying.dtype) for _ in range(2))
    for spec, share, concept in specs:
        told, for_keys, for_values = _wanted(spec, concept, tokens, most_eta)
        weight = share / each * (STYLE if is_style(concept) else 1.0)
        moment += weight * told.mT @ told
        keys += weight * (for_keys - told).mT @ told
        values += weight * (for_values - told).mT @ told
    solved = torch.linalg.solve(moment, torch.cat([keys, values]).mT).mT.float()
    return TextEdit(*solved.chunk(2))


def _wanted(spec: TargetSpec, concept: Concept, tokens: Tokens, most_eta: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tokens of a prompt, and what keys and values should take them for, "n d" each."""
    if concept.erase_from:
        told, silent = _aligned(tokens, spec.prompt, without(spec.prompt, concept.erase))
        return told, silent, silent
    if is_style(concept):
        told, *others = _aligned(tokens, spec.prompt, *other_styles(spec.prompt, concept.erase))
        other = torch.stack(others).mean(dim=0)
        pushed = other - min(spec.eta, most_eta) * (told - other)
        return told, pushed, pushed
    told, anchor, erase, null = _aligned(tokens, spec.prompt, spec.anchor, spec.erase, spec.null)
    eta = 0.0 if concept.replace_with else min(spec.eta, most_eta)
    return told, anchor, anchor - eta * (erase - null)


def _aligned(tokens: Tokens, *prompts: str) -> list[Tensor]:
    return [each[0] for each in same_length([tokens(prompt)[None] for prompt in prompts])]
