"""How far a share that was counted in few pictures can be trusted."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch

from ..errors import EsdError

Z95 = 1.959963984540054
"""The standard normal's 97.5 % point: intervals cover 95 %."""

DRAWS = 2000
"""Bootstrap samples."""


@dataclass(frozen=True)
class Interval:
    """The two ends of an interval of 95 %."""

    low: float
    high: float


def wilson(found: int, n: int, z: float = Z95) -> Interval:
    """Return the score interval of a share of `found` in `n` independent pictures (Wilson 1927).

    Raises EsdError where nothing was counted.
    """
    if not 0 <= found <= n or n < 1:
        raise EsdError(
            f"There is no share of {found} in {n} pictures: count at least one picture, and no more than all."
        )
    share, spread = found / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    # at the ends the formula is exact, and only rounding would move it
    return Interval(0.0 if found == 0 else max(0.0, centre - half), 1.0 if found == n else min(1.0, centre + half))


def mcnemar(only_before: int, only_after: int) -> float:
    """Return the exact two-sided p-value of McNemar's test from the counts of pairs that changed, each way.

    Pairs that did not change say nothing; of the others each way is as likely under the null hypothesis.
    """
    n, fewer = only_before + only_after, min(only_before, only_after)
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**n))


def cluster_bootstrap(
    found: Sequence[bool], clusters: Sequence[Hashable], draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Return the percentile interval of the share found when whole clusters (prompts) are drawn with replacement.

    Pictures of one prompt resemble each other, so that counting them as independent makes an interval too narrow.
    Equal seeds give equal intervals, and torch's global generators are not touched.  Raises EsdError without clusters.
    """
    if not clusters or len(found) != len(clusters):
        raise EsdError(
            f"There are {len(found)} pictures and {len(clusters)} names of prompts: give one name a picture."
        )
    index = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    place = torch.tensor([index[name] for name in clusters])
    hits = torch.zeros(len(index), dtype=torch.float64).index_add_(0, place, torch.tensor(found, dtype=torch.float64))
    counts = torch.bincount(place, minlength=len(index)).double()
    generator = torch.Generator().manual_seed(seed)
    shares = torch.empty(draws, dtype=torch.float64)
    for draw in range(draws):
        chosen = torch.randint(len(index), (len(index),), generator=generator)
        shares[draw] = hits[chosen].sum() / counts[chosen].sum()
    ends = torch.quantile(shares, torch.tensor([0.025, 0.975], dtype=torch.float64))
    return Interval(float(ends[0]), float(ends[1]))
