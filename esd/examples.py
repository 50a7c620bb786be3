"""Training examples: levels of walks become points (x_t, sigma, prompt, target), shuffled in a pool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .concepts import NULL_PROMPT, Concept, Keep
from .denoiser import Condition, Denoiser, stack
from .errors import EsdError
from .objective import target
from .settings import Settings
from .trajectory import Level, walk


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


def lesson(concept: Concept, settings: Settings) -> Lesson:
    """The walk and target of a concept (paper eq. 7); raises EsdError where the target would change nothing."""
    eta = eta_of(concept, settings)
    if not eta and concept.anchor_prompt == concept.student_prompt:
        raise EsdError(
            f'With eta 0 there is nothing to learn for "{concept.student_prompt:.100}": the model would be taught what '
            "it answers already. Raise eta (an attribute wants about 4), or name what to replace it with."
        )
    return Lesson(concept.student_prompt, concept.anchor_prompt, concept.erase, eta)


def eta_of(concept: Concept, settings: Settings) -> float:
    """The eta of a concept: presets have another one for attributes."""
    if concept.erase_from and settings.eta_erase_from is not None:
        return settings.eta_erase_from
    return settings.eta


def keep_lessons(keeps: Sequence[Keep]) -> list[Lesson]:
    """One lesson a keep prompt: its own frozen prediction is the target.  A keep of weight 0 teaches nothing."""
    return [Lesson(p, p, p, 0.0, k.weight) for k in keeps for p in k.prompts if k.weight > 0]


@dataclass(frozen=True)
class Standing:
    """Where a stream of examples stands: its pool, the order of drawing, how far that went, and what comes after.

    `left` counts the draws after this pool; `random` is the state of the generator that makes the next one.
    """

    points: Sequence[Example]
    order: Sequence[int]
    position: int
    left: int
    random: Tensor


class Pool:
    """A reproducible stream of examples, made a pool at a time from batches of walks, that can be gone on with.

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
        self.generator = generator
        self.sigmas = denoiser.sigmas(settings.walk_steps).to(denoiser.device)
        self.standing = Standing((), (), 0, total, generator.get_state())

    def __iter__(self) -> Iterator[Example]:
        """The stream itself."""
        return self

    def __next__(self) -> Example:
        """The next example; the pool is made anew when `refresh` of them (0: all, once) have been drawn."""
        if self.standing.position == len(self.standing.order):
            self.standing = self._anew()
        at = self.standing
        self.standing = replace(at, position=at.position + 1)
        return at.points[at.order[at.position]]

    def _anew(self) -> Standing:
        left = self.standing.left
        if left <= 0:
            raise StopIteration
        self.generator.set_state(self.standing.random)  # an interrupted filling begins again as if it had never begun
        size, refresh = self.settings.pool_size, self.settings.refresh
        points = self._fill(size if refresh else min(left, size))
        draws = min(refresh or len(points), left)
        order = self._order(len(points), draws)
        return Standing(points, order, 0, left - draws, self.generator.get_state())

    def _order(self, points: int, draws: int) -> list[int]:
        order: list[int] = []
        while len(order) < draws:
            order += torch.randperm(points, generator=self.generator).tolist()
        return order[:draws]

    def _fill(self, wanted: int) -> list[Example]:
        # no more points of one walk than leave every lesson a walk of its own
        fair = max(1, wanted // len(self.lessons))
        per_walk = min(self.settings.points_per_walk, self.settings.walk_steps, fair)
        lessons = self._draw_lessons(-(-wanted // per_walk))
        batches = [lessons[i : i + self.settings.walk_batch] for i in range(0, len(lessons), self.settings.walk_batch)]
        points = [example for batch in batches for example in self._harvest(batch, per_walk)]
        if len(points) == wanted:
            return points
        # not the last ones: those of a walk are its low levels
        return [points[i] for i in torch.randperm(len(points), generator=self.generator)[:wanted].sort().values]

    def _draw_lessons(self, walks: int) -> list[Lesson]:
        """Draw by share, each lesson as often as its share asks to within one walk (systematic sampling)."""
        edges = self.shares.cumsum(0) / self.shares.sum()
        start = torch.rand(1, generator=self.generator, dtype=torch.float64)
        drawn = torch.bucketize((torch.arange(walks, dtype=torch.float64) + start) / walks, edges)
        order = torch.randperm(walks, generator=self.generator)
        return [self.lessons[i] for i in drawn.clamp(max=len(self.lessons) - 1)[order]]

    def _harvest(self, lessons: list[Lesson], per_walk: int) -> list[Example]:
        noise = torch.randn((len(lessons), *self.denoiser.latent_shape), generator=self.generator)
        plan = coarse_route if self.settings.coarse_walks else full_route
        route = plan(len(lessons), per_walk, self.settings.walk_steps, self.generator)
        return harvest(self.denoiser, self.conditions, lessons, noise, route, self.sigmas, self.settings)


@dataclass(frozen=True)
class Route:
    """Which levels of the grid a batch of walks passes, and which of them become examples: "s b" each."""

    levels: Tensor
    kept: Tensor


def full_route(walks: int, per_walk: int, grid: int, generator: torch.Generator) -> Route:
    """Every level of the grid down to the last one kept; the kept ones are drawn evenly from the whole grid.

    With one kept level this is the published draw, k uniform on 0 ... grid - 1.
    """
    chosen = torch.stack([torch.randperm(grid, generator=generator)[:per_walk] for _ in range(walks)], dim=1)
    levels = torch.arange(int(chosen.max()) + 1)[:, None].expand(-1, walks)
    return Route(levels, (levels[:, None, :] == chosen[None]).any(dim=1))


COARSEST = 10
"""The least number of levels that a coarse walk passes."""


def coarse_route(walks: int, per_walk: int, grid: int, generator: torch.Generator) -> Route:
    """Straight from each kept level to the next: one level drawn from each of equal parts of the grid.

    Every level is kept equally often, as on the full route.  The first level is passed by all, kept or not, since
    the walk starts from its noise.
    """
    stops = min(max(per_walk, COARSEST), grid)
    edges = torch.linspace(0, grid, stops + 1)
    inside = torch.rand((stops, walks), generator=generator)
    drawn = (edges[:-1, None] + inside * (edges[1:] - edges[:-1])[:, None]).long().clamp(max=grid - 1)
    order = torch.stack([torch.randperm(stops, generator=generator) for _ in range(walks)], dim=1)
    start = torch.zeros((1, walks), dtype=torch.long)
    return Route(torch.cat([start, drawn]), torch.cat([start.bool(), order < per_walk]))


def harvest(
    denoiser: Denoiser,
    conditions: Mapping[str, Condition],
    lessons: Sequence[Lesson],
    noise: Tensor,
    route: Route,
    sigmas: Tensor,
    settings: Settings,
) -> list[Example]:
    """The examples of one batch of walks along a route; walk i starts from noise[i] ("b c h w").

    sigmas is the whole grid, "n + 1"; of the settings, guidance and source count.
    """
    student_walks = settings.source == "student"
    with denoiser.student() if student_walks else nullcontext():
        walked = walk(
            denoiser,
            noise.to(denoiser.device),
            conditions[NULL_PROMPT],
            [conditions[each.prompt] for each in lessons],
            sigmas[route.levels.to(sigmas.device)],
            settings.walk_guidance,
        )
        reached = [level for level in walked if route.kept[level.index].any()]
    examples: list[Example] = []
    for level in reached:
        rows = {row: each for row, each in enumerate(lessons) if route.kept[level.index, row]}
        examples += finish(denoiser, conditions, level, rows, student_walks)
    return examples


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
        sigma = torch.stack([level.sigma[row] for row, _ in missing])
        answers = denoiser.predict(x, sigma, stack([conditions[p] for _, p in missing]))
        known.update(zip(missing, answers, strict=True))
    return [
        Example(level.x[row].cpu(), float(level.sigma[row]), each.prompt, _wanted(known, row, each).cpu(), each.weight)
        for row, each in lessons.items()
    ]


def _wanted(known: Mapping[tuple[int, str], Tensor], row: int, each: Lesson) -> Tensor:
    if not each.eta:
        return known[row, each.anchor]
    return target(known[row, each.anchor], known[row, each.erase], known[row, NULL_PROMPT], each.eta)
