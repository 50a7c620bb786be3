"""Merge erasures so that each acts on its own concepts' prompts: least squares over the text's tokens.

A text key or value sees the tokens e of a prompt alone.  With the changes D_i of such a weight, the merged change M
should do to each erasure's own prompts what that erasure does, M e = D_i e, and nothing to prompts that stay, M k = 0.
Ridge regression gives

    M = sum_i D_i E_i (sum_i E_i + S + ridge I)^-1,   E_i = sum of share e e^T over the tokens of its own prompts

where S is the second moment of tokens that stay: the sum that `closed_form` solves, with each erasure's change in the
place of ESD's target.  Other weights see the picture too; their changes are left as they are, to be added up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .closed_form import Tokens, ridged, second_moment, staying_prompts
from .concepts import NULL_PROMPT, Concept, Context, is_whole, make_concept
from .contexts import KINDS, with_contexts
from .erasure import Erasure, LowRankChange
from .errors import EsdError
from .metadata import as_dicts, as_float, as_str
from .selection import PLAIN_TEXT


def acting_on_own(erasures: Sequence[Erasure], tokens: Tokens, keeps: Sequence[str] = ()) -> list[Tensor | None]:
    """Return what each erasure's text keys and values are multiplied by from the right, "d d", before they are added.

    None is for erasures that change none; their prompts do not count.  `keeps` stay beside the prompts that the
    erasures themselves kept.  Raises EsdError where no erasure changes any, where one that does names no concept, or
    where the text encoder is of another model; before any prompt is encoded where it can.
    """
    acting = [[tuple(each.shape(n)) for n in each.names if n.endswith(PLAIN_TEXT)] for each in erasures]
    if not any(acting):
        raise EsdError(
            "These erasures change no keys or values of text cross-attention (SD1.x, SD2.x and SDXL have them), and "
            "other weights cannot be told apart by prompts: merge by sum."
        )
    concepts = [concepts_of(each.metadata) for each in erasures]
    for number, (shapes, named) in enumerate(zip(acting, concepts, strict=True), start=1):
        if shapes and not named:
            raise EsdError(
                f"Erasure {number} does not say what it erases, so its own prompts are not known: merge by sum, or "
                "take a file that ESD Save Erasure wrote."
            )
        _require_width(shapes, tokens)
    kept = [prompt for each in erasures for prompt in _kept_by(each.metadata)]
    total = ridged(second_moment(map(tokens, staying_prompts([c for some in concepts for c in some], [*kept, *keeps]))))
    for shapes, named in zip(acting, concepts, strict=True):
        total += _second_moment_of(named, tokens) if shapes else 0.0
    factor = torch.linalg.cholesky(total)
    return [
        torch.cholesky_solve(_second_moment_of(named, tokens), factor).mT.float() if shapes else None
        for shapes, named in zip(acting, concepts, strict=True)
    ]


def through(change: Tensor | LowRankChange, acting: Tensor) -> Tensor | LowRankChange:
    """Multiply a weight's change by "d d" from the right; a low-rank one stays so."""
    if isinstance(change, LowRankChange):
        return replace(change, down=change.down.float() @ acting)
    return change.float() @ acting


def concepts_of(metadata: Mapping[str, str]) -> list[Concept]:
    """Return the concepts that an erasure names, those without contexts with the ones of their kind."""
    named = [_concept(each) for each in as_dicts(metadata.get("esd.concepts"))]
    return [each if each.contexts else with_contexts(each) for each in named if each]


def _concept(stored: Mapping[str, object]) -> Concept | None:
    """Return a concept as it was saved; None for what could not have been erased."""
    try:
        erase, erase_from, replace_with = (as_str(stored.get(n)) for n in ("erase", "erase_from", "replace_with"))
        made = make_concept(erase, erase_from, replace_with)
    except EsdError:
        return None
    around, kind = stored.get("contexts"), as_str(stored.get("kind"))
    said = [each.get("prompt") for each in around if isinstance(each, dict)] if isinstance(around, list) else []
    return replace(made, kind=kind if kind in KINDS else "", contexts=tuple(map(Context, _prompts(said))))


def _kept_by(metadata: Mapping[str, str]) -> Iterator[str]:
    for keep in as_dicts(metadata.get("esd.keeps")):
        prompts = keep.get("prompts") if as_float(keep.get("weight", 1)) else None
        yield from _prompts(prompts if isinstance(prompts, list) else [])


def _prompts(stored: Sequence[object]) -> Iterator[str]:
    """Yield what can be said to a text encoder."""
    yield from (text for text in map(as_str, stored) if text.strip() and is_whole(text))


def _second_moment_of(concepts: Sequence[Concept], tokens: Tokens) -> Tensor:
    """Return the sum of e e^T: half of a concept's is its own words', half its contexts', as in training."""
    prompts = [[c.student_prompt] for c in concepts] + [[each.prompt for each in c.contexts or ()] for c in concepts]
    return torch.stack([0.5 * second_moment(map(tokens, some)) for some in prompts]).sum(dim=0)


def _require_width(shapes: Sequence[tuple[int, ...]], tokens: Tokens) -> None:
    for shape in shapes[:1]:
        width = tokens(NULL_PROMPT).shape[1]
        if shape[1] != width:
            raise EsdError(
                f"The text encoder gives {width} values a token, and the erasures were trained for {shape[1]}: "
                "connect the CLIP of their model."
            )
