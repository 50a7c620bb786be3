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

from .closed_form import RIDGE, Tokens, second_moment, staying_prompts
from .concepts import Concept, Context
from .contexts import KINDS, with_contexts
from .erasure import Erasure, LowRankChange
from .errors import EsdError
from .metadata import as_dicts, as_float, as_str
from .selection import PLAIN_TEXT


def on_own_prompts(erasures: Sequence[Erasure], tokens: Tokens, keeps: Sequence[str] = ()) -> list[Erasure]:
    """Return each erasure with its text keys and values acting on its own prompts, ready to be added up.

    `keeps` stay beside the prompts that the erasures themselves kept.  Low-rank changes stay low-rank.  Raises
    EsdError where an erasure does not say what it erases, changes no text key or value, or is of another text encoder.
    """
    concepts = [concepts_of(each.metadata) for each in erasures]
    if not all(concepts):
        raise EsdError(
            f"Erasure {concepts.index([]) + 1} does not say what it erases, so its own prompts are not known: merge by "
            "sum, or take a file that ESD Save Erasure wrote."
        )
    kept = [prompt for each in erasures for prompt in _kept_by(each.metadata)]
    stay = second_moment(map(tokens, staying_prompts([c for some in concepts for c in some], [*kept, *keeps])))
    _require_text_weights(erasures, len(stay))
    own = [_second_moment_of(some, tokens) for some in concepts]
    ridge = RIDGE * stay.diagonal().mean() * torch.eye(len(stay), dtype=stay.dtype)
    total = torch.stack(own).sum(dim=0) + stay + ridge
    shares = torch.linalg.solve(total, torch.cat(own, dim=1)).chunk(len(own), dim=1)
    return [_through(each, share.mT) for each, share in zip(erasures, shares, strict=True)]


def concepts_of(metadata: Mapping[str, str]) -> list[Concept]:
    """Return the concepts that an erasure names, those without contexts with the ones of their kind."""
    named = (_concept(each) for each in as_dicts(metadata.get("esd.concepts")))
    return [each if each.contexts else with_contexts(each) for each in named if each.erase]


def _concept(stored: Mapping[str, object]) -> Concept:
    erase, erase_from, replace_with, kind = (
        as_str(stored.get(name)) for name in ("erase", "erase_from", "replace_with", "kind")
    )
    around = stored.get("contexts")
    prompts = (
        (as_str(each.get("prompt")) for each in around if isinstance(each, dict)) if isinstance(around, list) else ()
    )
    kind = kind if kind in KINDS else ""
    return Concept(erase, erase_from, replace_with, kind=kind, contexts=tuple(Context(p) for p in prompts if p))


def _kept_by(metadata: Mapping[str, str]) -> Iterator[str]:
    for keep in as_dicts(metadata.get("esd.keeps")):
        prompts = keep.get("prompts") if as_float(keep.get("weight", 1)) else None
        yield from filter(None, map(as_str, prompts if isinstance(prompts, list) else ()))


def _second_moment_of(concepts: Sequence[Concept], tokens: Tokens) -> Tensor:
    """Return the sum of e e^T: half of a concept's is its own words', half its contexts', as in training."""
    prompts = [[c.student_prompt] for c in concepts] + [[each.prompt for each in c.contexts or ()] for c in concepts]
    return torch.stack([0.5 * second_moment(map(tokens, some)) for some in prompts]).sum(dim=0)


def _require_text_weights(erasures: Sequence[Erasure], width: int) -> None:
    shapes = {each.shape(name) for each in erasures for name in each.names if name.endswith(PLAIN_TEXT)}
    if not shapes:
        raise EsdError(
            "These erasures change no keys or values of text cross-attention (SD1.x, SD2.x and SDXL have them), and "
            "other weights cannot be told apart by prompts: merge by sum."
        )
    if any(shape[1] != width for shape in shapes):
        taken = next(shape[1] for shape in shapes if shape[1] != width)
        raise EsdError(
            f"The text encoder gives {width} values a token, and the erasures were trained for {taken}: connect the "
            "CLIP of their model."
        )


def _through(erasure: Erasure, share: Tensor) -> Erasure:
    """Multiply the changes of text keys and values by "d d" from the right."""
    full = {name: _times(t, share) if name.endswith(PLAIN_TEXT) else t for name, t in erasure.differences.items()}
    low = {
        name: LowRankChange(each.up, _times(each.down, share)) if name.endswith(PLAIN_TEXT) else each
        for name, each in erasure.low_rank.items()
    }
    return replace(erasure, differences=full, low_rank=low)


def _times(change: Tensor, share: Tensor) -> Tensor:
    return (change.double() @ share).float()
