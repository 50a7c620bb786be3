"""The training loop: one for every model family, method and source of examples."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from .concepts import Concept, Keep
from .denoiser import Condition, Denoiser, stack
from .errors import EsdError
from .examples import Example, Pool, keep_lessons, lesson
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


def erase(
    denoiser: Denoiser,
    conditions: Mapping[str, Condition],
    concepts: Sequence[Concept],
    keeps: Sequence[Keep],
    settings: Settings,
    report: Report,
) -> list[float]:
    """Train the denoiser's student until it predicts the targets; returns the loss of every step.

    The random state is the run's own (torch's global generators are neither read nor moved), so equal inputs give
    equal weights.  Raises EsdError at the first loss that is not finite.
    """
    return fit(denoiser, conditions, run_batches(denoiser, conditions, concepts, keeps, settings), settings, report)


def fit(
    denoiser: Denoiser,
    conditions: Mapping[str, Condition],
    batches: Iterable[list[list[Example]]],
    settings: Settings,
    report: Report,
    optimizer: torch.optim.Optimizer | None = None,
) -> list[float]:
    """One optimiser step for each list of micro-batches, whose gradients are averaged; returns the losses.

    Pass an optimiser to go on with its state; without one a new one is made.
    """
    optimizer = optimizer or make_optimizer(settings, list(denoiser.trainable.values()))
    losses: list[float] = []
    for index, micro in enumerate(batches):
        optimizer.zero_grad(set_to_none=True)
        values = [backward(denoiser, conditions, batch, 1.0 / len(micro)) for batch in micro]
        losses.append(_finite(sum(values) / len(values), index))
        optimizer.step()
        first = micro[0][0]
        if report(Step(index, settings.steps, losses[-1], first.sigma, first.prompt)):
            break
    return losses


def run_batches(
    denoiser: Denoiser,
    conditions: Mapping[str, Condition],
    concepts: Sequence[Concept],
    keeps: Sequence[Keep],
    settings: Settings,
) -> Iterator[list[list[Example]]]:
    """For every optimiser step its micro-batches; each holds the concept's examples and as many keep examples.

    Their weights make the batch's mean the sum of both means: mean(concept) + weight * mean(keep).
    """
    erased = [(lesson(c, settings), c.weight) for c in concepts]
    kept = [(each, 1.0) for each in keep_lessons(keeps)]
    streams = [
        iter(Pool(denoiser, conditions, lessons, settings, settings.points, _generator(settings.seed, stream)))
        for stream, lessons in enumerate((erased, kept))
        if lessons
    ]
    for _ in range(settings.steps):
        yield [
            [
                replace(example, weight=example.weight * len(streams))
                for stream in streams
                for example in islice(stream, settings.batch_size)
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


def _finite(value: float, index: int) -> float:
    if value != value or value in (float("inf"), float("-inf")):
        raise EsdError(
            f"The loss became {value} at step {index + 1}, so training stopped and the MODEL is as it was: "
            "lower the learning rate, or set the precision to fp32."
        )
    return value


def make_optimizer(settings: Settings, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of the settings with torch's default betas and no weight decay (then AdamW is the paper's Adam)."""
    return _OPTIMIZERS[settings.optimizer](parameters, settings.learning_rate)


def _adamw(parameters: list[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0, foreach=False)


def _adafactor(parameters: list[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(parameters, lr=lr, weight_decay=0.0, foreach=False)


def _adamw8bit(parameters: list[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
    try:
        bitsandbytes = importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise EsdError(
            "The optimiser adamw8bit needs the bitsandbytes package, which is not installed: "
            "install it into ComfyUI's Python, or choose adamw or adafactor."
        ) from error
    return bitsandbytes.optim.AdamW8bit(parameters, lr=lr, weight_decay=0.0)


_OPTIMIZERS = {"adamw": _adamw, "adafactor": _adafactor, "adamw8bit": _adamw8bit}
