"""Several erasures into one: each on its own prompts, their sum, or the smallest change that goes as far along each.

With the changes D_i of one weight, "sum projected" is the shortest M with <M, D_i> >= |D_i|^2 for every i.  Changes
at right angles are added, equal ones count once.  M is the sum of a_i D_i with a >= 0, where a minimises
a'Ga/2 - d'a for the Gram matrix G of the changes and its diagonal d.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .closed_form import Tokens
from .erasure import Erasure, LowRankChange
from .errors import EsdError
from .merge_by_prompts import acting_on_own, through
from .metadata import as_dicts
from .selection import PLAIN_TEXT

BY_PROMPTS, SUM, PROJECTED = MODES = ("by prompts", "sum", "sum projected")

DEFAULT = BY_PROMPTS
"""Of sixteen singles it alone erases all and keeps the rest: docs/batch.md."""

SWEEPS, TOLERANCE = 2000, 1e-9
"""At most so many rounds over the coefficients, until none of them moves more than this."""

COMMON = ("format", "version", "family", "method", "base_file", "base_sha256")
"""What the metadata of a merged erasure says where all its parts say the same."""

Change = Tensor | LowRankChange


def merge(erasures: Sequence[Erasure], mode: str, tokens: Tokens | None = None, keeps: Sequence[str] = ()) -> Erasure:
    """Return one erasure of all of them; raise EsdError where they do not fit each other.

    By prompts takes the text encoder's tokens, and prompts that are to stay as they are.
    """
    if mode not in MODES:
        raise EsdError(f'There is no merge "{mode}": choose {" or ".join(MODES)}.')
    if not erasures:
        raise EsdError("There is nothing to merge: connect at least one erasure.")
    by_name = _by_name(erasures)
    shares = _shares(by_name, len(erasures)) if mode == PROJECTED else {}
    acting = _acting_on_own(erasures, tokens, keeps) if mode == BY_PROMPTS else {}
    merged = {name: _sum(_parts(name, changes, shares.get(name, {}), acting)) for name, changes in by_name.items()}
    full = {name: change for name, change in merged.items() if isinstance(change, Tensor)}
    low = {name: change for name, change in merged.items() if isinstance(change, LowRankChange)}
    made = Erasure(full, merged_metadata([each.metadata for each in erasures], mode, keeps), low)
    if not all(bool(torch.isfinite(t).all()) for t in made.tensors):
        raise EsdError(NOT_FINITE)
    return made


NOT_FINITE = "An erasure holds NaN or infinity: erase that concept anew."


def _acting_on_own(erasures: Sequence[Erasure], tokens: Tokens | None, keeps: Sequence[str]) -> dict[int, Tensor]:
    if tokens is None:
        raise EsdError("Merging by prompts needs the text encoder: connect the CLIP of the model, or merge by sum.")
    return {number: own for number, own in enumerate(acting_on_own(erasures, tokens, keeps)) if own is not None}


def _parts(
    name: str, changes: Mapping[int, Change], shares: Mapping[int, float], acting: Mapping[int, Tensor]
) -> list[tuple[float, Change]]:
    """Return what is added up in a weight, each change with its share."""
    own = acting if name.endswith(PLAIN_TEXT) else {}
    return [
        (shares.get(number, 1.0), through(change, own[number]) if number in own else change)
        for number, change in changes.items()
    ]


def _by_name(erasures: Sequence[Erasure]) -> dict[str, dict[int, Change]]:
    """Return what each erasure, by its number, changes in a weight."""
    found: dict[str, dict[int, Change]] = {}
    for number, erasure in enumerate(erasures):
        for name in erasure.names:
            change = erasure.low_rank[name] if name in erasure.low_rank else erasure.differences[name]
            first = next(iter(found.setdefault(name, {}).values()), change)
            if tuple(first.shape) != tuple(change.shape):
                raise EsdError(
                    f"The erasures are of different kinds of model ({name} is {tuple(first.shape)} in one and "
                    f"{tuple(change.shape)} in another): merge those of one model."
                )
            found[name][number] = change
    return found


def _sum(parts: Sequence[tuple[float, Change]]) -> Change:
    """Add changes, each times its share; low-rank ones side by side, so that nothing is lost."""
    low = [(share, change) for share, change in parts if isinstance(change, LowRankChange)]
    if len(low) == len(parts):
        used = [(share, change) for share, change in low if share] or low[:1]
        up = torch.cat([share * change.up.float() for share, change in used], dim=1)
        return LowRankChange(up, torch.cat([change.down.float() for _, change in used]))
    total = torch.zeros(tuple(parts[0][1].shape))
    for share, change in parts:
        total.add_(_dense(change), alpha=share)
    return total


def _dense(change: Change) -> Tensor:
    return change.dense() if isinstance(change, LowRankChange) else change.float()


def _shares(by_name: Mapping[str, Mapping[int, Change]], count: int) -> dict[str, dict[int, float]]:
    """Return the coefficient of each erasure in each weight, all weights solved together."""
    grams = torch.zeros((len(by_name), count, count), dtype=torch.float64)
    for gram, changes in zip(grams, by_name.values(), strict=True):
        for i, one in changes.items():
            for j, other in changes.items():
                if j <= i:
                    gram[i, j] = gram[j, i] = _product(one, other)
    if not bool(torch.isfinite(grams).all()):
        raise EsdError(NOT_FINITE)
    solved = least_reaching(grams).tolist()
    return {name: dict(enumerate(row)) for name, row in zip(by_name, solved, strict=True)}


def _product(one: Change, other: Change) -> float:
    """Return the inner product of two changes; of low-rank ones without making them whole."""
    if isinstance(one, LowRankChange) and isinstance(other, LowRankChange):
        ups, downs = one.up.double().T @ other.up.double(), one.down.double() @ other.down.double().T
        return float((ups * downs).sum())
    return float(torch.dot(_dense(one).flatten().double(), _dense(other).flatten().double()))


def least_reaching(grams: Tensor) -> Tensor:
    """Return a >= 0, "w n", that minimises a'Ga/2 - diag(G)'a for each Gram matrix of "w n n" (coordinate descent)."""
    wanted = grams.diagonal(dim1=1, dim2=2)
    steps = torch.where(wanted > 0, wanted, torch.inf)
    found = torch.where(wanted > 0, torch.ones_like(wanted), torch.zeros_like(wanted))
    for _ in range(SWEEPS):
        before = found.clone()
        for i in range(grams.shape[-1]):
            missing = wanted[:, i] - (grams[:, i] * found).sum(1)
            found[:, i] = (found[:, i] + missing / steps[:, i]).clamp(min=0)
        if float((found - before).abs().max()) < TOLERANCE:
            break
    return found


def merged_metadata(parts: Sequence[Mapping[str, str]], mode: str, keeps: Sequence[str] = ()) -> dict[str, str]:
    """Return what can be said of all: every concept and keep, what they have in common, and how they were merged."""
    made = {
        f"esd.{name}": parts[0][f"esd.{name}"]
        for name in COMMON
        if parts[0].get(f"esd.{name}") and len({part.get(f"esd.{name}") for part in parts}) == 1
    }
    own = {"concepts": [], "keeps": [{"prompts": [*keeps], "weight": 1.0}] if keeps else []}
    for name, more in own.items():
        of_parts = [each for part in parts for each in as_dicts(part.get(f"esd.{name}"))]
        listed = map(json.dumps, [*of_parts, *more])
        made[f"esd.{name}"] = f"[{', '.join(dict.fromkeys(listed))}]"
    return {**made, "esd.merged": f"{len(parts)} erasures, {mode}"}
