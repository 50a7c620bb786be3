"""How many network passes a run takes, by arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

from .concepts import Concept, Keep
from .drift import drift_passes
from .examples import keep_specs
from .robust import attack_passes, level_of
from .settings import WHEN_GONE, Settings
from .step_plan import MIN_STEPS
from .until_gone import CHECK_EVERY, LOOK_EVERY, looking_passes, measuring_again_passes, measuring_passes


def streams_of(keeps: Sequence[Keep]) -> int:
    """How many streams of examples a run draws from: one of the concepts, and one of the keeps where they teach."""
    return 2 if keep_specs(keeps) else 1


def together_of(settings: Settings, keeps: Sequence[Keep]) -> int:
    """How many examples go through the student together, in batches: of each stream one, and one under attack."""
    return streams_of(keeps) + (level_of(settings) is not None)


def planned_passes(settings: Settings, concepts: Sequence[Concept], keeps: Sequence[Keep]) -> int:
    """Estimate the most network passes of a run: trajectories of two prompts, the student's forward, and measuring."""
    drawn = settings.examples
    if settings.draws_per_buffer:
        drawn = -(-drawn // settings.draws_per_buffer) * settings.examples_per_buffer
    each = min(settings.samples_per_trajectory, settings.num_inference_steps)
    if settings.strided:
        levels: float = max(each, MIN_STEPS) + 1
    else:  # the mean of the last of so many random levels
        levels = settings.num_inference_steps * each / (each + 1)
    checks = settings.steps // CHECK_EVERY + 3
    robust = level_of(settings)
    measuring, until_gone = 0, settings.stop == WHEN_GONE
    if until_gone or not settings.learning_rate:
        measuring += checks * measuring_passes(concepts, settings)
        measuring += (settings.steps // LOOK_EVERY + 3) * drift_passes(keeps)
    if until_gone:
        measuring += checks * (looking_passes(concepts, settings) + measuring_again_passes(concepts, settings))
    if robust:
        measuring += settings.examples * attack_passes(robust) + checks * drift_passes(keeps)
    return round(streams_of(keeps) * (drawn / each * 2 * levels + settings.examples) + measuring)
