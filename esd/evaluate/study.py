"""A blind sheet for a user study: pairs of pictures whose sides are drawn by lot, with the key at the end.

The page runs no script: style rules count the answers.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence

import torch

from ..random_streams import ASKING, SIDES, stream_generator
from .page import escaped, page, picture, table, table_of_markup
from .report import PicturePair

ASKED = 24
"""The most pairs on a sheet, shared evenly among the roles as far as they have so many."""

ANSWERS = (("left", "the left one"), ("right", "the right one"), ("both", "both alike"), ("none", "neither"))
MODELS = ("before", "after")
COUNTED = (*MODELS, *(value for value, _ in ANSWERS[2:]))


def on_sheet(roles: Sequence[str], seed: int) -> list[int]:
    """Draw by lot which pairs, by their places, are on a sheet, and in which order; `roles` are those of all."""
    lot = torch.randperm(len(roles), generator=stream_generator(seed, ASKING)).tolist()
    rounds, so_far = dict[int, int](), Counter[str]()
    for place in lot:
        rounds[place] = so_far[roles[place]]
        so_far[roles[place]] += 1
    chosen = set(sorted(lot, key=lambda place: rounds[place])[:ASKED])
    return [place for place in lot if place in chosen]


def to_study(title: str, pairs: Sequence[PicturePair], seed: int) -> str:
    """Return a page that needs no other file: each pair with its question, then what was chosen and the key."""
    seen = hashlib.blake2b(b"".join(pair.after for pair in pairs), digest_size=4).digest()
    lot = torch.randperm(len(pairs), generator=stream_generator(seed ^ int.from_bytes(seen, "big"), SIDES)).tolist()
    sides = [MODELS[::-1] if place % 2 else MODELS for place in lot]  # as often as not, and another key for each model
    roles = list(dict.fromkeys(pair.role for pair in pairs))
    asked = "".join(_question(i, pair, sides[i], roles.index(pair.role)) for i, pair in enumerate(pairs))
    key = [(i + 1, *sides[i], pair.role, pair.prompt, pair.seed) for i, pair in enumerate(pairs)]
    shown = _chosen(roles) + table(("pair", "left", "right", "role", "prompt", "seed"), key)
    opened = f"<details><summary>What was chosen, and the key</summary>{shown}</details>"
    return page(f"Blind sheet: {title}", [INTRODUCTION, asked, opened], "\n".join(_rules(roles)))


INTRODUCTION = (
    "<p>Two models drew each prompt from the same noise; which side is whose was drawn by lot. Answer for every pair "
    "before you open the key. Nothing is sent or stored: note the counts, or print the page.</p>"
)


def _question(place: int, pair: PicturePair, sides: Sequence[str], role: int) -> str:
    files = {"before": pair.before, "after": pair.after}
    counted = dict(zip(("left", "right"), sides, strict=True))
    answers = "".join(
        f'<label><input type="radio" name="pair-{place}" class="{counted.get(value, value)}-{role}">{words}</label>'
        for value, words in ANSWERS
    )
    shown = "".join(picture(files[side]) for side in sides)
    asked = f"<legend>{place + 1}. Which picture shows: {escaped(pair.label or pair.prompt)}?</legend>"
    return f"<fieldset>{asked}{shown}<p>{answers}</p></fieldset>"


def _rules(roles: Sequence[str]) -> Iterator[str]:
    """Yield the style of the sheet, and the rules that count the answers."""
    yield "fieldset { border: 0; border-top: 1px solid #bbb; margin: 1.5rem 0; break-inside: avoid }"
    yield "fieldset img { width: 16rem; margin-right: 1rem } label { margin-right: 1.5rem }"
    names = [f"{kind}-{role}" for role in range(len(roles)) for kind in COUNTED]
    yield f"body {{ counter-reset: {' '.join(names) or 'none'} }}"
    for name in names:
        yield f"input.{name}:checked {{ counter-increment: {name} }} span.{name}::after {{ content: counter({name}) }}"


def _chosen(roles: Sequence[str]) -> str:
    head = ("role", *MODELS, *(words for _, words in ANSWERS[2:]))
    rows = (
        (escaped(role), *(f'<span class="{kind}-{place}"></span>' for kind in COUNTED))
        for place, role in enumerate(roles)
    )
    return table_of_markup(head, rows)
