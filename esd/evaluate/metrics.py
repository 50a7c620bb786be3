"""Found rates by role, with intervals, and what changed between two models on the same rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import EsdError
from .statistics import Interval, cluster_bootstrap, mcnemar, wilson

FEWEST_PROMPTS = 8
"""Below so many prompts a bootstrap over them says too little, and the pictures are counted one by one."""

WILSON, BOOTSTRAP, BY_PROMPT = "Wilson", "bootstrap over prompts", "Wilson over prompts"


@dataclass(frozen=True)
class Score:
    """What a judge said of one picture: `answer` is what it saw, `found` whether that is the row's label.

    `score` is the judge's own figure for the label; figures of different judges do not compare.
    """

    model: str
    case: str
    prompt: str
    role: str
    label: str
    seed: int
    answer: str
    score: float
    found: bool

    @property
    def pair(self) -> tuple[str, str, int]:
        """What the pictures of two models have in common."""
        return self.case, self.prompt, self.seed


@dataclass(frozen=True)
class Rate:
    """The share of `n` pictures in which the label was found, its interval of 95 %, and how that was made."""

    found: int
    n: int
    interval: Interval
    method: str

    @property
    def share(self) -> float:
        """0 ... 1."""
        return self.found / self.n


@dataclass(frozen=True)
class Change:
    """Found before and after an erasure on the same rows: pairs that changed each way, and McNemar's p-value."""

    role: str
    before: Rate
    after: Rate
    only_before: int
    only_after: int
    p_value: float


def plain_rate(found: int, n: int) -> Rate:
    """Return the rate of pictures that count one by one."""
    return Rate(found, n, wilson(found, n), WILSON)


def rate_words(rate: Rate) -> str:
    """Return "12 of 50 (24 %, 14 to 37 %)"."""
    ends = f"{100 * rate.interval.low:.0f} to {100 * rate.interval.high:.0f} %"
    return f"{rate.found} of {rate.n} ({100 * rate.share:.0f} %, {ends})"


def rate(scores: Sequence[Score]) -> Rate:
    """Return the found rate of pictures.

    Where prompts have several pictures and there are enough prompts, the interval is a bootstrap over prompts.  That
    is empty where all pictures agree: there each prompt counts as one picture.
    """
    found, prompts = [score.found for score in scores], [score.prompt for score in scores]
    hits, n, distinct = sum(found), len(found), len(set(prompts))
    if distinct == n or distinct < FEWEST_PROMPTS:
        return plain_rate(hits, n)
    if hits in (0, n):
        return Rate(hits, n, wilson(distinct if hits else 0, distinct), BY_PROMPT)
    return Rate(hits, n, cluster_bootstrap(found, prompts), BOOTSTRAP)


def changes(before: Sequence[Score], after: Sequence[Score]) -> tuple[Change, ...]:
    """Compare two models by role, in the order of the rows; raises EsdError where they did not draw the same rows."""
    if [s.pair for s in before] != [s.pair for s in after]:
        raise EsdError("The two models drew different pictures: draw the same rows with the same seeds from both.")
    made = []
    for role in dict.fromkeys(score.role for score in before):
        pairs = [(b, a) for b, a in zip(before, after, strict=True) if b.role == role]
        lost = sum(b.found and not a.found for b, a in pairs)
        won = sum(a.found and not b.found for b, a in pairs)
        rates = rate([b for b, _ in pairs]), rate([a for _, a in pairs])
        made.append(Change(role, *rates, lost, won, mcnemar(lost, won)))
    return tuple(made)


def percent(found: Sequence[Change], role: str, missing: bool = False) -> float:
    """Return the per cent of a role's pictures found after the erasure, or missing; NaN where the role has none."""
    shares = [change.after.share for change in found if change.role == role]
    return 100.0 * (1.0 - shares[0] if missing else shares[0]) if shares else math.nan
