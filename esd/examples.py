"""Training examples: levels of walks become points (x_t, sigma, prompt, target), shuffled in a pool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from .concepts import NULL_PROMPT, Concept, Keep
from .denoiser import Condition, Denoiser, stack
from .objective import target
from .settings import Settings
from .walk import Level, walk


@dataclass(frozen=True)
class Example:
    """One training point: the student's prediction at x under prompt should become target ("c h w" each)."""

    x: Tensor
    sigma: float
    prompt: str
    target: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Lesson:
    """One walk to make: under which prompt, and which prompts' predictions make its target with which eta."""

    prompt: str
    anchor: str
    erase: str
    eta: float
    weight: float = 1.0

    @property
    def needed(self) -> tuple[str, ...]:
        """The prompts that the target is made of; a keep (eta 0) needs its anchor alone."""
        return (self.anchor, self.erase, NULL_PROMPT) if self.eta else (self.anchor,)


def lesson(concept: Concept, eta: float) -> Lesson:
    """The walk and target of a concept (paper eq. 7)."""
    return Lesson(concept.student_prompt, concept.anchor_prompt, concept.erase, eta)


def keep_lessons(keeps: Sequence[Keep]) -> list[Lesson]:
    """One lesson a keep prompt: its own frozen prediction is the target.  A keep of weight 0 teaches nothing."""
    return [Lesson(p, p, p, 0.0, k.weight) for k in keeps for p in k.prompts if k.weight > 0]


class Pool:
    """An endless, reproducible stream of examples, made a pool at a time from batches of walks.

    With the base as source the walk's own predictions are the target's ingredients; with the student as source the
    frozen network is asked again at the chosen levels.  `points_per_walk` 1 and `walk_batch` 1 is the published
    procedure: one fresh walk to one random level for each training point.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        conditions: Mapping[str, Condition],
        lessons: Sequence[tuple[Lesson, float]],
        settings: Settings,
        total: int,
        generator: torch.Generator,
    ) -> None:
        """`lessons` pairs each lesson with its share; `total` is how many examples the run will draw."""
        self.denoiser, self.conditions, self.settings = denoiser, conditions, settings
        self.lessons = [each for each, _ in lessons]
        self.shares = torch.tensor([share for _, share in lessons], dtype=torch.float64)
        self.total, self.generator = total, generator
        self.sigmas = denoiser.sigmas(settings.walk_steps).to(denoiser.device)

    def __iter__(self) -> Iterator[Example]:
        """Yield `total` examples; the pool is made anew when `refresh` of them (0: all, once) have been drawn."""
        left = self.total
        while left > 0:
            points = self._fill(min(left, self.settings.pool) if not self.settings.refresh else self.settings.pool)
            draws = min(self.settings.refresh or len(points), left)
            for index in self._order(len(points), draws):
                yield points[index]
            left -= draws

    def _order(self, points: int, draws: int) -> list[int]:
        order: list[int] = []
        while len(order) < draws:
            order += torch.randperm(points, generator=self.generator).tolist()
        return order[:draws]

    def _fill(self, wanted: int) -> list[Example]:
        per_walk = min(self.settings.points_per_walk, self.settings.walk_steps)
        points: list[Example] = []
        while len(points) < wanted:
            walks = min(self.settings.walk_batch, -(-(wanted - len(points)) // per_walk))
            points += self._harvest(walks, per_walk)
        return points[:wanted]

    def _harvest(self, walks: int, per_walk: int) -> list[Example]:
        lessons = [self.lessons[i] for i in torch.multinomial(self.shares, walks, True, generator=self.generator)]
        noise = torch.randn((walks, *self.denoiser.latent_shape), generator=self.generator)
        levels = [torch.randperm(self.settings.walk_steps, generator=self.generator)[:per_walk] for _ in lessons]
        return harvest(self.denoiser, self.conditions, lessons, noise, levels, self.sigmas, self.settings)


def harvest(
    denoiser: Denoiser,
    conditions: Mapping[str, Condition],
    lessons: Sequence[Lesson],
    noise: Tensor,
    levels: Sequence[Tensor],
    sigmas: Tensor,
    settings: Settings,
) -> list[Example]:
    """The examples of one batch of walks: walk i from noise[i] ("b c h w") is kept at the grid indices levels[i]."""
    chosen = [set(each.tolist()) for each in levels]
    last = max(max(each) for each in chosen)
    walked = walk(
        denoiser,
        noise.to(denoiser.device),
        conditions[NULL_PROMPT],
        [conditions[each.prompt] for each in lessons],
        sigmas,
        settings.walk_guidance,
    )
    examples: list[Example] = []
    own = settings.source == "student"
    with denoiser.student() if own else nullcontext():
        reached = [level for level in _until(walked, last) if any(level.index in each for each in chosen)]
    for level in reached:
        rows = [row for row, each in enumerate(chosen) if level.index in each]
        examples += finish(denoiser, conditions, level, {row: lessons[row] for row in rows}, own)
    return examples


def _until(levels: Iterator[Level], last: int) -> Iterator[Level]:
    for level in levels:
        yield level
        if level.index >= last:
            return


@torch.no_grad()
def finish(
    denoiser: Denoiser,
    conditions: Mapping[str, Condition],
    level: Level,
    lessons: Mapping[int, Lesson],
    student_walked: bool,
) -> list[Example]:
    """The examples of one level, for the rows of its batch that `lessons` names; asks the base what the walk did not.

    All missing predictions of the level are one network call.
    """
    known = {
        (row, prompt): raw[row]
        for row, each in lessons.items()
        for prompt, raw in ((NULL_PROMPT, level.null), (each.prompt, level.conditional))
        if not student_walked
    }
    missing = [(r, p) for r, each in lessons.items() for p in dict.fromkeys(each.needed) if (r, p) not in known]
    if missing:
        x = torch.stack([level.x[row] for row, _ in missing])
        sigma = torch.full((len(missing),), level.sigma, device=x.device)
        answers = denoiser.predict(x, sigma, stack([conditions[p] for _, p in missing]))
        known.update(zip(missing, answers, strict=True))
    return [
        Example(level.x[row].cpu(), level.sigma, each.prompt, _wanted(known, row, each).cpu(), each.weight)
        for row, each in lessons.items()
    ]


def _wanted(known: Mapping[tuple[int, str], Tensor], row: int, each: Lesson) -> Tensor:
    if not each.eta:
        return known[row, each.anchor]
    return target(known[row, each.anchor], known[row, each.erase], known[row, NULL_PROMPT], each.eta)
