"""How far the keeps have drifted: what the student answers to a prompt that should stay, against what the base does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .concepts import Keep
from .denoiser import Condition, Denoiser, batched, predict
from .examples import keep_specs
from .random_streams import DRIFTING, stream_generator
from .residual import HeldOut, as_spec, hold_out
from .settings import Settings

LEVELS = 2
"""Noise levels at which the drift of a keep is measured; a pass each."""


@dataclass(frozen=True)
class Drift:
    """How far a kept prompt has moved: the root mean square of eps_student(k) - eps_base(k) over a few held-out points.

    `effect` is that of eps_base(k) - eps_base(null), what the prompt does in the base; 0 for the empty prompt.
    """

    prompt: str
    moved: float
    effect: float


class KeepGauge:
    """Measures how far the keeps have drifted."""

    def __init__(
        self, denoiser: Denoiser, conditions: Mapping[str, Condition], keeps: Sequence[Keep], settings: Settings
    ) -> None:
        """Nothing is sampled before the first measurement."""
        self.denoiser, self.conditions, self.settings = denoiser, conditions, settings
        self.prompts = [spec.prompt for spec in keep_specs(keeps)]
        self._held: list[tuple[HeldOut, Tensor]] = []

    @torch.no_grad()
    def measure(self) -> list[Drift]:
        """Return the drift of each keep, in their order; `drift_passes` a time."""
        if not self._held:
            specs = [as_spec(prompt) for prompt in self.prompts]
            draw = stream_generator(self.settings.seed, DRIFTING)
            held = hold_out(self.denoiser, self.conditions, specs, self.settings, draw, LEVELS)
            self._held = [(each, self._answers(each)) for each in held]
        found = []
        with self.denoiser.student():
            for points, base in self._held:
                found.append(Drift(points.prompt, _rms(self._answers(points) - base), _rms(points.base)))
        return found

    def _answers(self, points: HeldOut) -> Tensor:
        told = batched([self.conditions[points.prompt]])
        pairs = zip(points.x.split(1), points.sigma.split(1), strict=True)
        return torch.cat([predict(self.denoiser, x, sigma, told) for x, sigma in pairs])


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def shares_by_drift(drifts: Sequence[Drift]) -> list[float]:
    """Return the share of each keep: exp(d / T), T the median drift; even where nothing has moved."""
    moved = torch.tensor([each.moved for each in drifts], dtype=torch.float64)
    usual = moved.median().clamp(min=1e-12)
    found: list[float] = (moved / usual).clamp(max=4).exp().tolist()
    return found


def percents(drifts: Sequence[Drift]) -> dict[str, int]:
    """Return how much of what each prompt does has moved, without those that do nothing."""
    return {each.prompt: round(100 * each.moved / each.effect) for each in drifts if each.effect}


def drift_passes(keeps: Sequence[Keep]) -> int:
    """Network passes of one measurement of the keeps."""
    return LEVELS * len(keep_specs(keeps))
