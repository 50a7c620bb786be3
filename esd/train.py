"""The training loop: one for every model family, method and sampler of examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .concepts import Concept, Keep
from .denoiser import Condition, Denoiser, batched, predict
from .drift import Drift, KeepGauge, shares_by_drift
from .errors import EsdError
from .examples import Example, StreamState
from .objective import loss
from .optimizers import make_optimizer
from .robust import Adversary, level_of
from .settings import WHEN_GONE, Settings
from .step_size import Pace, StepSize, first_rate
from .streams import make_streams, next_micro_batches
from .until_gone import CHECK_EVERY, LOOK_EVERY, GoneGauge, Left, shares_by_left


@dataclass(frozen=True)
class Step:
    """What one optimiser step reports; `loss` is the mean over its examples, `sigma` the first one's noise level.

    `left` is what was last measured of each concept, `drifts` of each keep; `total` is the most steps there can be.
    """

    index: int
    total: int
    loss: float
    sigma: float
    prompt: str
    left: Sequence[Left] = ()
    drifts: Sequence[Drift] = ()


StepCallback = Callable[[Step], bool]
"""Called after each step; answering True ends the run there with what has been learnt.  It may raise to cancel."""


@dataclass(frozen=True)
class Snapshot:
    """A run after a completed step: all that the rest of it depends on beside its inputs."""

    losses: Sequence[float]
    student: Mapping[str, Tensor]
    optimizer: Mapping[int, Mapping[str, Any]]
    streams: Sequence[StreamState]
    worst: Sequence[float] = ()
    """The worst residual before the first step, and at each check after it."""
    adversary: Mapping[str, Tensor] = field(default_factory=dict)
    """The attacks of a robust run."""
    pace: Pace | None = None
    """Where the run finds its learning rate."""


_Point = tuple[Sequence[StreamState], Mapping[str, Tensor]]
"""What a run goes on from beside its weights: its streams, and the attacks of a robust one."""


class Training:
    """A run, step by step: iterate over it, look at it between two steps, leave it, and go on from a snapshot.

    The random state is the run's own (torch's global generators are neither read nor moved), so equal inputs give
    equal weights, stopped and resumed or not.  Raises EsdError at the first loss or gradient that is not finite.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        conditions: Mapping[str, Condition],
        concepts: Sequence[Concept],
        keeps: Sequence[Keep],
        settings: Settings,
        start_over: Callable[[], object] = lambda: None,
    ) -> None:
        """Nothing is computed before the first step.

        `start_over` begins without styles where the closed-form start leaves one in the pictures.
        """
        self.denoiser, self.conditions, self.concepts, self.settings = denoiser, conditions, concepts, settings
        self._start_over = start_over
        self.streams = make_streams(denoiser, conditions, concepts, keeps, settings)
        self.optimizer = make_optimizer(settings.optimizer, list(denoiser.trainable.values()), first_rate(settings))
        self.step_size = None if settings.learning_rate else StepSize(self.optimizer, settings)
        self.losses: list[float] = []
        self.worst: list[float] = []
        self.left: Sequence[Left] = ()
        self.drifts: Sequence[Drift] = ()
        self.is_gone = False
        self._gauge: GoneGauge | None = None
        robust = level_of(settings)
        self.adversary = Adversary(denoiser, conditions, concepts, settings, robust) if robust else None
        self._keeps = KeepGauge(denoiser, conditions, keeps, settings) if len(self.streams) > 1 else None
        self._resume_point: _Point | None = self._point()

    def __iter__(self) -> Iterator[Step]:
        """Make the steps that are left, or as many as it takes."""
        self._check_when_due()  # a snapshot is taken before a check, or after it
        while not self.is_complete:
            index = len(self.losses)
            micro, conditions = next_micro_batches(self.streams, self.settings), self.conditions
            if self.adversary:
                micro, conditions = self.adversary.joined(micro, index)
            value = accumulate_gradients(self.denoiser, conditions, self.optimizer, micro, index)
            self._resume_point = None  # an optimiser that fails half-way leaves no state to go on from
            self.optimizer.step()
            self.losses.append(value)
            self._resume_point = self._point()
            self._check_when_due()
            yield Step(index, self.settings.steps, value, micro[0][0].sigma, micro[0][0].prompt, self.left, self.drifts)

    @property
    def is_complete(self) -> bool:
        """Whether there is nothing left to do: all steps are made, or every concept is gone."""
        return self.is_gone or len(self.losses) >= self.settings.steps

    def _check_when_due(self) -> None:
        if len(self.losses) % CHECK_EVERY:
            return
        if self._keeps and self.adversary:
            self.drifts = self._keeps.measure()
            self.streams[1].share(shares_by_drift(self.drifts))
            self._resume_point = self._point()
        if self.settings.stop != WHEN_GONE and not self.step_size:
            return
        if self.losses or self.settings.closed_form:
            self._check()
        else:
            self.worst = [1.0]

    def _check(self) -> None:
        """Measure what is left, let what is left most be drawn most, and see whether all is gone.

        It draws from streams of its own and depends on nothing but the student, so a resumed run repeats it.
        """
        if self._gauge is None:
            self._gauge = GoneGauge(self.denoiser, self.conditions, self.concepts, self.settings)
        until_gone = self.settings.stop == WHEN_GONE  # else it measures for the rate's sake
        self.left, is_gone = self._gauge.check(len(self.losses)) if until_gone else (self._gauge.measure(), False)
        if not self.losses and any(each.shown for each in self.left):
            self._start_over()
            self.left = self._gauge.measure(is_trained=False)
        check = len(self.losses) // CHECK_EVERY
        if self.step_size and check >= len(self.worst):  # a resumed run may repeat one
            self.step_size.measured(self.left, len(self.losses))
        self.worst[check:] = [max(each.worst for each in self.left)]
        if until_gone:
            self.streams[0].share(shares_by_left(self.concepts, self.left))
        self.is_gone = self.adversary.is_enough(is_gone, len(self.losses)) if self.adversary else is_gone
        if self._keeps and not self.adversary and (self.is_complete or len(self.losses) % LOOK_EVERY == 0):
            self.drifts = self._keeps.measure()
        self._resume_point = self._point()

    def _point(self) -> _Point:
        streams = [stream.state for stream in self.streams]
        return streams, self.adversary.state() if self.adversary else {}

    def snapshot(self) -> Snapshot | None:
        """Return the state after the last completed step, also in the middle of the next one; None before the first."""
        if self._resume_point is None or not self.losses:
            return None
        state = self.optimizer.state_dict()["state"]
        streams, adversary = self._resume_point
        pace, worst = self.step_size.pace if self.step_size else None, list(self.worst)
        return Snapshot(list(self.losses), self.denoiser.trainable, state, streams, worst, adversary, pace)

    def resume(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot of a run with the same inputs, bit for bit as if it had not been stopped."""
        with torch.no_grad():
            for name, parameter in self.denoiser.trainable.items():
                parameter.copy_(snapshot.student[name])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": dict(snapshot.optimizer), "param_groups": groups})
        for stream, state in zip(self.streams, snapshot.streams, strict=True):
            stream.state = state
        if self.adversary:
            self.adversary.restore(snapshot.adversary)
        if self.step_size and snapshot.pace:
            self.step_size.set(snapshot.pace)
        self.losses, self.worst = list(snapshot.losses), list(snapshot.worst)
        self._resume_point = self._point()


def erase(
    denoiser: Denoiser,
    conditions: Mapping[str, Condition],
    concepts: Sequence[Concept],
    settings: Settings,
    keeps: Sequence[Keep] = (),
    on_start: Callable[[Training], object] = lambda training: None,
    on_step: StepCallback = lambda step: False,
    start_over: Callable[[], object] = lambda: None,
) -> Training:
    """Train the denoiser's student until it predicts the targets; its `difference()` is then the erasure.

    `conditions` has every prompt of `concepts.prompts_of`.  `on_start` may resume the training from a snapshot,
    `start_over` has the student begin without styles.
    Returns the training with the loss of every step.  Raises EsdError where a loss or a gradient is not finite.
    """
    training = Training(denoiser, conditions, concepts, keeps, settings, start_over)
    on_start(training)
    for step in training:
        if on_step(step):
            break
    return training


def fit(
    denoiser: Denoiser,
    conditions: Mapping[str, Condition],
    batches: Iterable[list[list[Example]]],
    settings: Settings,
) -> list[float]:
    """Take one optimiser step for each list of micro-batches of given examples; return the losses."""
    optimizer = make_optimizer(settings.optimizer, list(denoiser.trainable.values()), first_rate(settings))
    losses: list[float] = []
    for index, micro in enumerate(batches):
        losses.append(accumulate_gradients(denoiser, conditions, optimizer, micro, index))
        optimizer.step()
    return losses


def accumulate_gradients(
    denoiser: Denoiser,
    conditions: Mapping[str, Condition],
    optimizer: torch.optim.Optimizer,
    micro: list[list[Example]],
    index: int,
) -> float:
    """Leave the mean of the micro-batches' gradients on the student's weights; returns the mean of their losses.

    The loss is multiplied by the denoiser's `loss_scale`, and the gradients are divided by it (Micikevicius et al.,
    "Mixed Precision Training", ICLR 2018).  Where they overflow it is done again with less; each step begins anew.
    """
    scale = denoiser.loss_scale
    while True:
        optimizer.zero_grad(set_to_none=True)
        values = [backward(denoiser, conditions, batch, scale / len(micro)) for batch in micro]
        value = _finite("loss", sum(values) / len(values), index)
        largest = _max_abs(parameter.grad for parameter in denoiser.trainable.values())
        if math.isfinite(largest) or scale <= 1.0:
            break
        scale /= 16.0
    _finite("gradient", largest, index)
    if scale != 1.0:
        for parameter in denoiser.trainable.values():
            if parameter.grad is not None:
                parameter.grad /= scale
    return value


def _max_abs(gradients: Iterable[Tensor | None]) -> float:
    """Return the largest magnitude of all values, which shows one that is not finite, in one wait for the device."""
    found = [torch.linalg.vector_norm(each, float("inf")) for each in gradients if each is not None and each.numel()]
    return float(torch.stack(found).max()) if found else 0.0


def backward(denoiser: Denoiser, conditions: Mapping[str, Condition], batch: list[Example], share: float) -> float:
    """Accumulate the gradients of one micro-batch; returns its loss, the weighted mean over its examples."""
    x, wanted = (torch.stack(each).to(denoiser.device) for each in ([e.x for e in batch], [e.target for e in batch]))
    sigma = torch.tensor([e.sigma for e in batch], device=denoiser.device)
    told = batched([conditions[e.prompt] for e in batch])
    with torch.enable_grad(), denoiser.student():
        value = loss(predict(denoiser, x, sigma, told), wanted, _weights(batch, denoiser.device))
        (value * share).backward()
    return float(value.detach())


def _weights(batch: list[Example], device: torch.device) -> Tensor | None:
    if all(e.weight == 1.0 for e in batch) and len(batch) == 1:
        return None
    return torch.tensor([e.weight for e in batch], device=device)


def _finite(what: str, value: float, index: int) -> float:
    if value != value or value in (float("inf"), float("-inf")):
        raise EsdError(
            f"The {what} became {value} at step {index + 1}, so training stopped and the MODEL is as it was: "
            "lower the learning rate, or set the precision to fp32."
        )
    return value
