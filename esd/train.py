"""The training loop: one for every model family, method and source of examples."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from .concepts import Concept, Keep
from .denoiser import Condition, Denoiser, stack
from .errors import EsdError
from .examples import Example, Pool, Standing, keep_lessons, lesson
from .objective import loss
from .settings import Settings


@dataclass(frozen=True)
class Step:
    """What one optimiser step reports; `loss` is the mean over its examples, `sigma` the first one's noise level."""

    index: int
    total: int
    loss: float
    sigma: float
    prompt: str


Report = Callable[[Step], bool]
"""Called after each step; answering True ends the run there with what has been learnt.  It may raise to cancel."""


@dataclass(frozen=True)
class Snapshot:
    """A run after a completed step: all that the rest of it depends on beside its inputs."""

    losses: Sequence[float]
    student: Mapping[str, Tensor]
    optimizer: Mapping[int, Mapping[str, Any]]
    streams: Sequence[Standing]


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
    ) -> None:
        """Nothing is computed before the first step."""
        self.denoiser, self.conditions, self.settings = denoiser, conditions, settings
        self.streams = streams(denoiser, conditions, concepts, keeps, settings)
        self.optimizer = make_optimizer(settings, list(denoiser.trainable.values()))
        self.losses: list[float] = []
        self._at: Sequence[Standing] | None = self._standings()

    def __iter__(self) -> Iterator[Step]:
        """Make the steps that are left."""
        for index in range(len(self.losses), self.settings.steps):
            micro = draw(self.streams, self.settings)
            value = gradients(self.denoiser, self.conditions, self.optimizer, micro, index)
            self._at = None  # an optimiser that fails half-way leaves no state to go on from
            self.optimizer.step()
            self.losses.append(value)
            self._at = self._standings()
            yield Step(index, self.settings.steps, value, micro[0][0].sigma, micro[0][0].prompt)

    def _standings(self) -> Sequence[Standing]:
        return [stream.standing for stream in self.streams]

    def snapshot(self) -> Snapshot | None:
        """The state after the last completed step, also in the middle of the next one; None before the first."""
        if self._at is None or not self.losses:
            return None
        state = self.optimizer.state_dict()["state"]
        return Snapshot(list(self.losses), self.denoiser.trainable, state, self._at)

    def resume(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot of a run with the same inputs, bit for bit as if it had not been stopped."""
        with torch.no_grad():
            for name, parameter in self.denoiser.trainable.items():
                parameter.copy_(snapshot.student[name])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": dict(snapshot.optimizer), "param_groups": groups})
        for stream, standing in zip(self.streams, snapshot.streams, strict=True):
            stream.standing = standing
        self.losses = list(snapshot.losses)
        self._at = self._standings()


def erase(
    denoiser: Denoiser,
    conditions: Mapping[str, Condition],
    concepts: Sequence[Concept],
    keeps: Sequence[Keep],
    settings: Settings,
    report: Report,
) -> list[float]:
    """Train the denoiser's student until it predicts the targets; returns the loss of every step."""
    training = Training(denoiser, conditions, concepts, keeps, settings)
    for step in training:
        if report(step):
            break
    return training.losses


def fit(
    denoiser: Denoiser,
    conditions: Mapping[str, Condition],
    batches: Iterable[list[list[Example]]],
    settings: Settings,
) -> list[float]:
    """One optimiser step for each list of micro-batches of given examples; returns the losses."""
    optimizer = make_optimizer(settings, list(denoiser.trainable.values()))
    losses: list[float] = []
    for index, micro in enumerate(batches):
        losses.append(gradients(denoiser, conditions, optimizer, micro, index))
        optimizer.step()
    return losses


def gradients(
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
        largest = _largest(parameter.grad for parameter in denoiser.trainable.values())
        if math.isfinite(largest) or scale <= 1.0:
            break
        scale /= 16.0
    _finite("gradient", largest, index)
    if scale != 1.0:
        for parameter in denoiser.trainable.values():
            if parameter.grad is not None:
                parameter.grad /= scale
    return value


def _largest(gradients: Iterable[Tensor | None]) -> float:
    """The largest magnitude among all values; one that is not finite shows, and one answer waits for the device."""
    found = [torch.linalg.vector_norm(each, float("inf")) for each in gradients if each is not None and each.numel()]
    return float(torch.stack(found).max()) if found else 0.0


def streams(
    denoiser: Denoiser,
    conditions: Mapping[str, Condition],
    concepts: Sequence[Concept],
    keeps: Sequence[Keep],
    settings: Settings,
) -> list[Pool]:
    """The examples of the concepts and, where there are keeps, those of the keeps."""
    erased = [(lesson(c, settings), c.weight) for c in concepts]
    kept = [(each, 1.0) for each in keep_lessons(keeps)]
    return [
        Pool(denoiser, conditions, lessons, settings, settings.points, _generator(settings.seed, stream))
        for stream, lessons in enumerate((erased, kept))
        if lessons
    ]


def draw(pools: Sequence[Pool], settings: Settings) -> list[list[Example]]:
    """The micro-batches of one optimiser step; each holds the concept's examples and as many keep examples.

    Their weights make the batch's mean the sum of both means: mean(concept) + weight * mean(keep).
    """
    return [
        [
            replace(example, weight=example.weight * len(pools))
            for pool in pools
            for example in islice(pool, settings.batch_size)
        ]
        for _ in range(settings.accumulate)
    ]


def _generator(seed: int, stream: int) -> torch.Generator:
    """Independent streams of one seed: keeps never move what the concepts draw."""
    return torch.Generator().manual_seed((seed + stream * 0x9E3779B97F4A7C15) % 2**63)


def backward(denoiser: Denoiser, conditions: Mapping[str, Condition], batch: list[Example], share: float) -> float:
    """Accumulate the gradients of one micro-batch; returns its loss, the weighted mean over its examples."""
    x, wanted = (torch.stack(each).to(denoiser.device) for each in ([e.x for e in batch], [e.target for e in batch]))
    sigma = torch.tensor([e.sigma for e in batch], device=denoiser.device)
    condition = stack([conditions[e.prompt] for e in batch])
    with torch.enable_grad(), denoiser.student():
        value = loss(denoiser.predict(x, sigma, condition), wanted, _weights(batch, denoiser.device))
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


def make_optimizer(settings: Settings, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of the settings with torch's default betas and no weight decay (then AdamW is the paper's Adam)."""
    return _OPTIMIZERS[settings.optimizer](parameters, settings.learning_rate)


def _adamw(parameters: list[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0, foreach=False)


def _adafactor(parameters: list[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Adafactor whose rate means the same as Adam's: torch's multiplies it with each tensor's root mean square."""
    groups = [{"params": [each], "lr": lr / max(SMALLEST_SCALE, _root_mean_square(each))} for each in parameters]
    return torch.optim.Adafactor(groups, lr=lr, eps=(None, SMALLEST_SCALE), weight_decay=0.0, foreach=False)


SMALLEST_SCALE = 1e-3
"""The least root mean square that Adafactor takes a tensor to have."""


def _root_mean_square(tensor: Tensor) -> float:
    return float(tensor.detach().square().mean().sqrt())


def _adamw8bit(parameters: list[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
    try:
        bitsandbytes = importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise EsdError(
            "The optimiser adamw8bit needs the bitsandbytes package, which is not installed: "
            "install it into ComfyUI's Python, or choose adamw or adafactor."
        ) from error
    optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(parameters, lr=lr, weight_decay=0.0)
    return optimizer


_OPTIMIZERS = {"adamw": _adamw, "adafactor": _adafactor, "adamw8bit": _adamw8bit}
