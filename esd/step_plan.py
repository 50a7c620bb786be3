"""Which steps of the sampling grid a batch of trajectories takes, and which of them become training examples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepPlan:
    """The steps of the grid that a batch of trajectories takes, and which of them become examples: "s b" each."""

    levels: Tensor
    keep_mask: Tensor


def full_grid(trajectories: int, each: int, grid: int, generator: torch.Generator) -> StepPlan:
    """Take every step of the grid down to the last one kept; the kept ones are drawn evenly from the whole grid.

    With one kept level this is the published draw, k uniform on 0 ... grid - 1.
    """
    chosen = torch.stack([torch.randperm(grid, generator=generator)[:each] for _ in range(trajectories)], dim=1)
    levels = torch.arange(int(chosen.max()) + 1)[:, None].expand(-1, trajectories)
    return StepPlan(levels, (levels[:, None, :] == chosen[None]).any(dim=1))


MIN_STEPS = 10
"""The least number of steps of a strided trajectory."""


def strided_grid(trajectories: int, each: int, grid: int, generator: torch.Generator) -> StepPlan:
    """Step straight from each kept level to the next: one level drawn from each of equal parts of the grid.

    Every level is kept equally often, as with `full_grid`.  All take the first step, kept or not, since a trajectory
    starts from its noise.
    """
    stops = min(max(each, MIN_STEPS), grid)
    edges = torch.linspace(0, grid, stops + 1)
    inside = torch.rand((stops, trajectories), generator=generator)
    drawn = (edges[:-1, None] + inside * (edges[1:] - edges[:-1])[:, None]).long().clamp(max=grid - 1)
    order = torch.stack([torch.randperm(stops, generator=generator) for _ in range(trajectories)], dim=1)
    start = torch.zeros((1, trajectories), dtype=torch.long)
    return StepPlan(torch.cat([start, drawn]), torch.cat([start.bool(), order < each]))
