"""Training examples (x_t, sigma, prompt, target) from the steps of sampling trajectories, shuffled in a buffer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .concepts import NULL_PROMPT, Concept, Keep
from .contexts import ETA, kind_of
from .denoiser import Condition, Denoiser, batched, predict
from .errors import EsdError
from .objective import target
from .settings import ETA_BY_KIND, Settings
from .step_plan import StepPlan, full_grid, strided_grid
from .trajectory import TrajectoryStep, cfg_trajectory


@dataclass(frozen=True)
class Example:
    """One training example: the student's prediction at x under prompt should become target ("c h w" each)."""

    x: Tensor
    sigma: float
    prompt: str
    target: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class TargetSpec:
    """The prompt to sample under, and the prompts whose predictions form the target with which eta."""

    prompt: str
    anchor: str
    erase: str
    eta: float
    weight: float = 1.0
    null: str = NULL_PROMPT

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts that the target is made of; a keep (eta 0) needs its anchor alone."""
        return (self.anchor, self.erase, self.null) if self.eta else (self.anchor,)


def target_spec(concept: Concept, settings: Settings) -> TargetSpec:
    """Return the target of a concept (paper eq. 7); raise EsdError where it would change nothing."""
    eta = eta_of(concept, settings)
    if not eta and concept.anchor_prompt == concept.student_prompt:
        raise EsdError(
            f'With eta 0 there is nothing to learn for "{concept.student_prompt:.100}": the model would be taught what '
            "it answers already. Raise eta (an attribute wants about 4), or name what to replace it with."
        )
    return TargetSpec(concept.student_prompt, concept.anchor_prompt, concept.erase, eta)


def context_specs(concept: Concept, settings: Settings) -> list[TargetSpec]:
    """Return the targets of a concept in its contexts."""
    eta = eta_of(concept, settings)
    if concept.erase_from:  # what changes is the concept's own direction, wherever it stands
        return [TargetSpec(c.prompt, c.anchor, concept.erase, eta) for c in concept.contexts or ()]
    return [TargetSpec(c.prompt, c.anchor, c.prompt, eta, null=c.carrier) for c in concept.contexts or ()]


def concept_specs(concept: Concept, settings: Settings) -> list[tuple[TargetSpec, float]]:
    """Return the targets of a concept with their shares: half is its own words', half is divided by its contexts."""
    around = context_specs(concept, settings)
    own, each = (0.5, 0.5 / len(around)) if around else (1.0, 0.0)
    return [
        (target_spec(concept, settings), concept.weight * own),
        *((spec, concept.weight * each) for spec in around),
    ]


def eta_of(concept: Concept, settings: Settings) -> float:
    """Return the eta of a concept: by its kind where that is left to choose; presets have their own for attributes."""
    if concept.erase_from and settings.eta_erase_from is not None:
        return settings.eta_erase_from
    return ETA[kind_of(concept)] if settings.eta == ETA_BY_KIND else settings.eta


def keep_specs(keeps: Sequence[Keep]) -> list[TargetSpec]:
    """Return a spec for each keep prompt: its own frozen prediction is the target.  Keeps of weight 0 are left out."""
    return [TargetSpec(p, p, p, 0.0, k.weight) for k in keeps for p in k.prompts if k.weight > 0]


@dataclass(frozen=True)
class StreamState:
    """The buffer of a stream, the order of drawing from it, and how far that went.

    `remaining` counts the draws after this buffer; `rng_state` is that of the generator that fills the next one, and
    `shares` are those of the specs in it (empty: as they were at first).
    """

    examples: Sequence[Example]
    order: Sequence[int]
    position: int
    remaining: int
    rng_state: Tensor
    shares: Sequence[float] = ()


class ExampleStream:
    """A reproducible, resumable stream of examples, made a buffer at a time from batches of trajectories.

    With the base as sampler the trajectory's own predictions are the target's ingredients; with the student as
    sampler the frozen network is asked again at the chosen noise levels.  `samples_per_trajectory` 1 and
    `trajectory_batch` 1 is the published procedure (`published_step`).
    """

    def __init__(
        self,
        denoiser: Denoiser,
        conditions: Mapping[str, Condition],
        specs: Sequence[tuple[TargetSpec, float]],
        settings: Settings,
        total: int,
        generator: torch.Generator,
        groups: int = 0,
    ) -> None:
        """Pair each spec with its share; `total` is how many examples the run will draw.

        Each buffer has a trajectory for each of so many `groups` of specs (0: for each spec) where it can.
        """
        self.denoiser, self.conditions, self.settings = denoiser, conditions, settings
        self.specs = [each for each, _ in specs]
        self.first_shares = [share for _, share in specs]
        self.generator, self.groups = generator, groups or len(specs)
        self.sigmas = denoiser.sigmas(settings.num_inference_steps).to(denoiser.device)
        self.state = StreamState((), (), 0, total, generator.get_state())

    def __iter__(self) -> Iterator[Example]:
        """Return the stream itself."""
        return self

    def share(self, shares: Sequence[float]) -> None:
        """Let the buffers to come be drawn by these shares, one a spec."""
        self.state = replace(self.state, shares=tuple(shares))

    def __next__(self) -> Example:
        """Draw an example; the buffer is refilled when `draws_per_buffer` of them (0: all, once) have been drawn."""
        if self.state.position == len(self.state.order):
            self.state = self._refill()
        at = self.state
        self.state = replace(at, position=at.position + 1)
        return at.examples[at.order[at.position]]

    def _refill(self) -> StreamState:
        remaining = self.state.remaining
        if remaining <= 0:
            raise StopIteration
        self.generator.set_state(self.state.rng_state)  # an interrupted filling begins again as if it never began
        size, draws_per_buffer = self.settings.examples_per_buffer, self.settings.draws_per_buffer
        examples = self._fill(size if draws_per_buffer else min(remaining, size))
        draws = min(draws_per_buffer or len(examples), remaining)
        order = self._order(len(examples), draws)
        return StreamState(examples, order, 0, remaining - draws, self.generator.get_state(), self.state.shares)

    def _order(self, examples: int, draws: int) -> list[int]:
        order: list[int] = []
        while len(order) < draws:
            order += torch.randperm(examples, generator=self.generator).tolist()
        return order[:draws]

    def _fill(self, wanted: int) -> list[Example]:
        settings = self.settings
        # no more examples of one trajectory than leave every concept or keep a trajectory of its own
        fair = max(1, wanted // self.groups)
        each = min(settings.samples_per_trajectory, settings.num_inference_steps, fair)
        specs, size = self._draw_specs(-(-wanted // each)), settings.trajectory_batch
        batches = [specs[i : i + size] for i in range(0, len(specs), size)]
        examples = [example for batch in batches for example in self._collect(batch, each)]
        if len(examples) == wanted:
            return examples
        # not the last ones: those of a trajectory are its low noise levels
        return [examples[i] for i in torch.randperm(len(examples), generator=self.generator)[:wanted].sort().values]

    def _draw_specs(self, trajectories: int) -> list[TargetSpec]:
        """Draw by share, each spec as often as its share asks to within one trajectory (systematic sampling)."""
        shares = torch.tensor(self.state.shares or self.first_shares, dtype=torch.float64)
        edges = shares.cumsum(0) / shares.sum()
        start = torch.rand(1, generator=self.generator, dtype=torch.float64)
        drawn = torch.bucketize((torch.arange(trajectories, dtype=torch.float64) + start) / trajectories, edges)
        order = torch.randperm(trajectories, generator=self.generator)
        return [self.specs[i] for i in drawn.clamp(max=len(self.specs) - 1)[order]]

    def _collect(self, specs: list[TargetSpec], each: int) -> list[Example]:
        noise = torch.randn((len(specs), *self.denoiser.latent_shape), generator=self.generator)
        make_plan = strided_grid if self.settings.strided else full_grid
        plan = make_plan(len(specs), each, self.settings.num_inference_steps, self.generator)
        return collect_examples(self.denoiser, self.conditions, specs, noise, plan, self.sigmas, self.settings)


def collect_examples(
    denoiser: Denoiser,
    conditions: Mapping[str, Condition],
    specs: Sequence[TargetSpec],
    noise: Tensor,
    plan: StepPlan,
    sigmas: Tensor,
    settings: Settings,
) -> list[Example]:
    """Sample a batch of trajectories along a plan and return its examples; the i-th starts from noise[i] ("b c h w").

    sigmas is the whole grid, "n + 1"; of the settings, guidance_scale and sampler_model count.
    """
    by_student = settings.sampler_model == "student"
    with denoiser.student() if by_student else nullcontext():
        steps = cfg_trajectory(
            denoiser,
            noise.to(denoiser.device),
            conditions[NULL_PROMPT],
            [conditions[each.prompt] for each in specs],
            sigmas[plan.levels.to(sigmas.device)],
            settings.guidance_scale,
        )
        reached = [level for level in steps if plan.keep_mask[level.index].any()]
    examples: list[Example] = []
    for level in reached:
        rows = {row: each for row, each in enumerate(specs) if plan.keep_mask[level.index, row]}
        examples += complete_targets(denoiser, conditions, level, rows, by_student)
    return examples


@torch.no_grad()
def complete_targets(
    denoiser: Denoiser,
    conditions: Mapping[str, Condition],
    level: TrajectoryStep,
    specs: Mapping[int, TargetSpec],
    by_student: bool,
) -> list[Example]:
    """Return the examples of one level for the rows of its batch in `specs`; ask the base what sampling did not.

    All missing predictions of the level are one network call.
    """
    known = {
        (row, prompt): raw[row]
        for row, each in specs.items()
        for prompt, raw in ((NULL_PROMPT, level.uncond), (each.prompt, level.cond))
        if raw is not None and not by_student
    }
    missing = [(r, p) for r, each in specs.items() for p in dict.fromkeys(each.prompts) if (r, p) not in known]
    if missing:
        x = torch.stack([level.x[row] for row, _ in missing])
        sigma = torch.stack([level.sigma[row] for row, _ in missing])
        answers = predict(denoiser, x, sigma, batched([conditions[p] for _, p in missing]))
        known.update(zip(missing, answers, strict=True))
    return [
        Example(
            level.x[row].cpu(), float(level.sigma[row]), each.prompt, _target_of(known, row, each).cpu(), each.weight
        )
        for row, each in specs.items()
    ]


def _target_of(known: Mapping[tuple[int, str], Tensor], row: int, each: TargetSpec) -> Tensor:
    if not each.eta:
        return known[row, each.anchor]
    return target(known[row, each.anchor], known[row, each.erase], known[row, each.null], each.eta)
