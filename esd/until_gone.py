"""Erase until it is gone: what is left of each concept decides what is drawn, and when the run ends.

Each concept has held-out trajectories under its own words and under a few of its contexts (esd/residual.py).
It counts as gone when the signed residual of each is down to `GONE`, and is still so on trajectories never used before.
A style is looked at instead (esd/drawn.py): its words may still do what those of any style do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch

from .closed_form import fits, is_style
from .concepts import Concept, without
from .contexts import by_kind, kind_of
from .denoiser import Condition, Denoiser
from .drawn import PASSES, shown
from .examples import TargetSpec, context_specs, target_spec
from .random_streams import CONFIRMING, DOUBTING, DOUBTING_LAST, LOOKING, MEASURING, stream_generator
from .residual import HeldOut, hold_out, percent_left, residuals_and_drifts
from .settings import BY_KIND, WHEN_GONE, Settings

CHECK_EVERY = 10
"""Optimiser steps between two measurements."""

FEW = 4
"""Up to so many concepts each is measured more closely: together they make up for it.

Of more, these few are measured so once the coarse measurement finds no others left: it is off by more than `SLACK`.
"""


@dataclass(frozen=True)
class Closeness:
    """Noise levels measured under a concept's own words, and under each of so many contexts; 2 passes a level."""

    own: int
    context: int
    contexts: int


CLOSE, COARSE = Closeness(3, 2, 2), Closeness(2, 1, 1)

GONE = {"object": (-0.03, 0.2), "style": (-0.15, -0.03), "attribute": (0.0, 0.15)}
INSTEAD, UNTRAINED = (0.02, 0.15), (0.05, 0.2)
"""The residuals at which a concept of each kind is no longer drawn, under its own words and in its contexts.

`INSTEAD` is for what is measured against a prompt that is drawn instead: without an attribute's words, or another.
`UNTRAINED` is for all but styles at the start in closed form, which puts other tokens in the place of their words':
near 0 these do nothing, where training that has come to 0 may have made up for what they do at some points by others.

docs/quality.md has what judges found there.
"""

BUFFERED = 40
"""Examples made at a time for each concept: what is left decides which ones the next buffer has."""

PICTURES, LOOKS = 4, (4, 16)
"""So many of a style's own words are looked at; so many of its contexts at the first look, and at a second one."""

LOOK_EVERY = 50
"""Optimiser steps between two looks at a style; after a training a second one must show none either."""

SLACK = 0.1
"""By how much more a residual may be on the trajectories that confirm: one trajectory differs from another by that."""

LEAST_SHARE = 0.1
"""The part of the examples that is divided evenly; the rest goes by what is left, so what is gone is not forgotten."""


@dataclass(frozen=True)
class Left:
    """What is left of one concept: the residual of each of its measured prompts, and the one at which that is gone."""

    prompt: str
    residuals: Mapping[str, float]
    limits: Mapping[str, float]
    shown: float | None = None
    """The share of the student's pictures that show it, where those were looked at."""
    drift: float = 0.0
    """How far the prompts without it have drifted, at most, as a share of what it did."""

    @property
    def worst(self) -> float:
        """The residual of the prompt that still does most."""
        return max(self.residuals.values())

    @property
    def is_gone(self) -> bool:
        """Whether no picture shows it; where none was looked at, whether no measured prompt does more than it may."""
        return self.is_within(0.0) if self.shown is None else not self.shown

    def is_within(self, slack: float) -> bool:
        """Whether no measured prompt does more than that beyond what it may."""
        return all(rho <= self.limits[prompt] + slack for prompt, rho in self.residuals.items())

    @property
    def percent(self) -> int:
        """What people are shown: 100 at the start, 0 when it is gone."""
        if self.shown is not None:
            return round(100 * self.shown)
        return max(percent_left(rho, self.limits[prompt]) for prompt, rho in self.residuals.items())

    def need(self, prompts: Sequence[str]) -> float:
        """How much of the way is still to go under these prompts, on average: 1 at the start, 0 when they are gone."""
        ways = [max(0.0, (self.residuals[p] - self.limits[p]) / (1.0 - self.limits[p])) for p in prompts]
        return sum(ways) / max(len(ways), 1)


@dataclass(frozen=True)
class _Measured:
    """One trajectory, and the concept (by its place) that it measures."""

    concept: int
    points: HeldOut


class GoneGauge:
    """Measures what is left of several concepts in the student."""

    def __init__(
        self,
        denoiser: Denoiser,
        conditions: Mapping[str, Condition],
        concepts: Sequence[Concept],
        settings: Settings,
        seed_stream: int = MEASURING,
    ) -> None:
        """Sample the held-out trajectories; they depend on the seed, and on how many concepts there are."""
        self.denoiser, self.conditions, self.concepts, self.settings = denoiser, conditions, concepts, settings
        generator = stream_generator(settings.seed, seed_stream)
        close = closeness(concepts)
        measured = [(i, spec, levels) for i, c in enumerate(concepts) for spec, levels in _measured(c, settings, close)]
        self.measured: list[_Measured] = []
        for levels, group in groupby(sorted(measured, key=lambda each: -each[2]), key=lambda each: each[2]):
            rows = list(group)
            points = hold_out(denoiser, conditions, [spec for _, spec, _ in rows], settings, generator, levels)
            self.measured += [_Measured(i, p) for (i, _, _), p in zip(rows, points, strict=True)]
        self._closer: dict[int, GoneGauge] = {}

    def measure(self, is_trained: bool = True) -> list[Left]:
        """Return what is left of each concept, of a student that has been trained or not; `measuring_passes` a time."""
        points, at_most = [each.points for each in self.measured], 2 * self.settings.trajectory_batch
        found = zip(self.measured, residuals_and_drifts(self.denoiser, self.conditions, points, at_most), strict=True)
        rows = [(m.concept, m.points.prompt, float(rho.mean()), drift) for m, (rho, drift) in found]
        left = []
        for index, concept in enumerate(self.concepts):
            residuals = {prompt: rho for i, prompt, rho, _ in rows if i == index}
            limits = {prompt: gone_at(concept, prompt, is_trained) for prompt in residuals}
            drift = max(d for i, *_, d in rows if i == index)
            left.append(Left(concept.student_prompt, residuals, limits, drift=drift))
        return left

    def check(self, done: int) -> tuple[list[Left], bool]:
        """Return what is left of each concept after so many steps, and whether all of them are gone for sure.

        Styles are looked at once nothing else is left; every `LOOK_EVERY` steps whatever their residuals are.
        """
        is_trained = done > 0
        left = self._measured_again(self.measure(is_trained), is_trained)
        styles = [is_style(concept) for concept in self.concepts]
        if not all(
            each.is_gone or (style and done % LOOK_EVERY == 0) for each, style in zip(left, styles, strict=True)
        ):
            return left, False
        generator = stream_generator(self.settings.seed, LOOKING)
        for index, concept in enumerate(self.concepts):
            if styles[index]:
                found = self._look(concept, LOOKS if done else LOOKS[:1], generator)
                left[index] = replace(left[index], shown=sum(found) / len(found))
        return left, all(each.is_gone for each in left) and self.confirmed(is_trained)

    def _measured_again(self, left: list[Left], is_trained: bool) -> list[Left]:
        """Return the same with the few that are left of many measured closely, on trajectories of their own."""
        doubtful = [index for index, each in enumerate(left) if not (each.is_gone or is_style(self.concepts[index]))]
        if closeness(self.concepts) == CLOSE or len(doubtful) > FEW:
            return left
        again = list(left)
        for index in doubtful:
            if index not in self._closer:
                self._closer[index] = self._other([self.concepts[index]], DOUBTING + index)
            (again[index],) = self._closer[index].measure(is_trained)
        return again

    def _look(self, concept: Concept, looks: Sequence[int], generator: torch.Generator) -> list[bool]:
        """Return which pictures of a style show it; a look is only for what the one before does not show."""
        found: list[bool] = []
        for contexts in looks:
            specs = _looked_at(concept, self.settings, contexts)
            found += shown(self.denoiser, self.conditions, specs, self.settings, generator)
            if any(found):
                break
        return found

    def confirmed(self, is_trained: bool = True) -> bool:
        """Whether all but styles are gone on other trajectories, too, within what trajectories differ by."""
        measured = [concept for concept in self.concepts if not is_style(concept)]
        if not measured:
            return True
        left = self._other(measured, CONFIRMING).measure(is_trained)
        doubtful = [index for index, each in enumerate(left) if not each.is_within(SLACK)]
        if closeness(measured) == CLOSE or len(doubtful) > FEW:
            return not doubtful
        closer = (self._other([measured[index]], DOUBTING_LAST + index).measure(is_trained) for index in doubtful)
        return all(each.is_within(SLACK) for (each,) in closer)

    def _other(self, concepts: Sequence[Concept], seed_stream: int) -> GoneGauge:
        """Return a gauge of some of these concepts, on trajectories of its own."""
        return GoneGauge(self.denoiser, self.conditions, concepts, self.settings, seed_stream)


def closeness(concepts: Sequence[Concept]) -> Closeness:
    """Return how closely each of so many concepts is measured."""
    return CLOSE if len(concepts) <= FEW else COARSE


def _measured(concept: Concept, settings: Settings, close: Closeness) -> list[tuple[TargetSpec, int]]:
    """Return the specs that stand for a concept, each with how many noise levels of its trajectory are measured."""
    around = context_specs(concept, settings)
    chosen = around[:: max(1, len(around) // close.contexts)][: close.contexts]
    measured = [(target_spec(concept, settings), close.own), *((spec, close.context) for spec in chosen)]
    return [(_against_what_is_drawn(spec, concept), levels) for spec, levels in measured]


def _looked_at(concept: Concept, settings: Settings, contexts: int) -> list[TargetSpec]:
    """Return a spec for each picture of a style: of its own words, and of at most so many contexts."""
    around = context_specs(concept, settings)
    return [target_spec(concept, settings)] * PICTURES + around[:: max(1, len(around) // contexts)][:contexts]


def _against_what_is_drawn(spec: TargetSpec, concept: Concept) -> TargetSpec:
    """Return what measures a concept: what its words still do that those drawn instead do not."""
    if not (concept.silent_prompt or concept.replace_with):
        return spec
    instead = without(spec.prompt, concept.erase) if concept.silent_prompt else spec.anchor
    return replace(spec, anchor=instead, erase=spec.prompt, null=instead)


def gone_at(concept: Concept, prompt: str, is_trained: bool = True) -> float:
    """Return the residual at which a concept counts as gone under its own words, or in a context."""
    own, around = INSTEAD if concept.silent_prompt or concept.replace_with else GONE[kind_of(concept)]
    if not (is_trained or is_style(concept)):
        own, around = UNTRAINED
    return own if prompt == concept.student_prompt else around


def measuring_passes(concepts: Sequence[Concept], settings: Settings) -> int:
    """Network passes of one measurement."""
    return _passes(concepts, settings, closeness(concepts))


def measuring_again_passes(concepts: Sequence[Concept], settings: Settings) -> int:
    """Network passes of measuring a few of many concepts again, at most."""
    return 0 if closeness(concepts) == CLOSE else _passes(concepts[:FEW], settings, CLOSE)


def _passes(concepts: Sequence[Concept], settings: Settings, close: Closeness) -> int:
    return sum(2 * levels for concept in concepts for _, levels in _measured(concept, settings, close))


def looking_passes(concepts: Sequence[Concept], settings: Settings) -> int:
    """Network passes of looking at the styles, at most."""
    looks = [(concept, contexts) for concept in concepts if is_style(concept) for contexts in LOOKS]
    return sum(PASSES * len(_looked_at(concept, settings, contexts)) for concept, contexts in looks)


def shares_by_left(concepts: Sequence[Concept], left: Sequence[Left]) -> list[float]:
    """Return the share of each spec of `concept_specs`: by what is left under its own words, and in its contexts.

    Concepts together have their weights' sum; a part of it, `LEAST_SHARE`, is theirs whatever is left of them.
    """
    needs = []
    for concept, found in zip(concepts, left, strict=True):
        around = [prompt for prompt in found.residuals if prompt != concept.student_prompt]
        needs.append((found.need([concept.student_prompt]), found.need(around)))
    total = sum(c.weight * sum(need) for c, need in zip(concepts, needs, strict=True))
    weights, shares = sum(concept.weight for concept in concepts), []
    for concept, need in zip(concepts, needs, strict=True):
        own, around_it = (LEAST_SHARE / 2 + (1 - LEAST_SHARE) * weights * (n / total if total else 0.5) for n in need)
        contexts = len(concept.contexts or ())
        shares += [concept.weight * own, *(concept.weight * around_it / contexts for _ in range(contexts))]
    return shares


def settled(concepts: Sequence[Concept], settings: Settings) -> tuple[list[Concept], Settings]:
    """Return the concepts with their contexts, and the settings with the whole run's steps and buffer."""
    chosen = by_kind(concepts) if settings.contexts == BY_KIND else list(concepts)
    settings = replace(settings, closed_form=settings.closed_form and any(fits(each) for each in chosen))
    if settings.stop != WHEN_GONE:
        return chosen, settings
    buffer = settings.buffer_size
    if not buffer and settings.sampler_model == "base":
        buffer = min(settings.examples_per_buffer, BUFFERED * len(concepts))
    return chosen, replace(settings, steps=settings.steps * len(concepts), buffer_size=buffer)
