"""A denoiser of ten lines: what the method asks of a host, with nothing behind it but two small matrices."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from esd_pack.esd.denoiser import Condition

WIDTH = 3


@dataclass(frozen=True)
class Call:
    """One network call: which face answered, whether autograd watched, and what came in."""

    student: bool
    training: bool
    x: Tensor
    sigma: Tensor
    text: Tensor

    @property
    def samples(self) -> int:
        """The passes that the call counts for."""
        return self.x.shape[0]


class FakeDenoiser:
    """Predicts epsilon from x and one vector of text, (mixed x) * (1 + text) + text, on a exploding schedule."""

    latent_shape = (2, 4, 4)
    device = torch.device("cpu")

    def __init__(self, before_call: Callable[[Call], None] = lambda call: None) -> None:
        """`before_call` hears of every network call, as a host's progress bar does, and may raise."""
        random = torch.Generator().manual_seed(7)
        shapes = {"text.weight": (2, WIDTH), "image.weight": (2, 2), "image.bias": (2,)}
        self.base = {name: torch.randn(shape, generator=random) * 0.5 for name, shape in shapes.items()}
        self.trainable = {name: torch.nn.Parameter(weight.clone()) for name, weight in self.base.items()}
        self.answering, self.before_call = self.base, before_call
        self.calls: list[Call] = []

    @contextmanager
    def student(self) -> Iterator[None]:
        """The trained face, for as long as it is open."""
        self.answering = self.trainable
        try:
            yield
        finally:
            self.answering = self.base

    def predict(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Epsilon by whichever face is open."""
        weights, text = self.answering, condition.tensors["text"]
        self.calls.append(Call(weights is not self.base, torch.is_grad_enabled(), x.clone(), sigma.clone(), text))
        self.before_call(self.calls[-1])
        scaled = x / (sigma.square() + 1).sqrt()[:, None, None, None]
        mixed = torch.einsum("dc,bchw->bdhw", weights["image.weight"], scaled) + weights["image.bias"][:, None, None]
        told = (text @ weights["text.weight"].T)[:, :, None, None]
        return mixed * (1 + told) + told

    def denoised(self, raw: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """x0 of an epsilon."""
        return x - sigma[:, None, None, None] * raw

    loss_scale = 1.0

    def pure_noise(self, noise: Tensor, sigma: Tensor) -> Tensor:
        """Noise with the variance of the first level."""
        return noise * (sigma.square() + 1).sqrt()[:, None, None, None]

    def sigmas(self, steps: int) -> Tensor:
        """Even in the logarithm, from 14.6 down to 0.03, and a last 0."""
        return torch.cat([torch.linspace(2.68, -3.5, steps).exp(), torch.zeros(1)])

    def difference(self) -> dict[str, Tensor]:
        """Student minus base."""
        return {name: (weight.detach() - self.base[name]) for name, weight in self.trainable.items()}

    @property
    def passes(self) -> int:
        """How many samples went through the network."""
        return sum(call.samples for call in self.calls)


def told(prompt: str) -> Condition:
    """What the network is told for a prompt: a vector of its own, the same in every run."""
    random = torch.Generator().manual_seed(zlib.crc32(prompt.encode()))
    return Condition({"text": torch.randn((1, WIDTH), generator=random)})


class FakeConditions(dict):
    """The condition of any prompt, by prompt."""

    def __missing__(self, prompt: str) -> Condition:
        """Encode a prompt when it is asked for."""
        self[prompt] = told(prompt)
        return self[prompt]


def prompt_of(text: Tensor, prompts: tuple[str, ...]) -> str:
    """Which of the prompts a row of text stands for."""
    return next(prompt for prompt in prompts if torch.equal(told(prompt).tensors["text"][0], text))


TOKENS = 8
"""Of a prompt of `TokenConditions`."""


class TokenDenoiser(FakeDenoiser):
    """The same, told a sequence of tokens "1 n d", of which it hears the mean."""

    def predict(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Epsilon by whichever face is open."""
        return super().predict(x, sigma, Condition({"text": condition.tensors["text"].mean(1)}))


class TokenConditions(dict):
    """The condition of any prompt, a token a word and the empty prompt's behind them."""

    def __missing__(self, prompt: str) -> Condition:
        """Encode a prompt when it is asked for."""
        words = [*prompt.split(), *[""] * TOKENS][:TOKENS]
        self[prompt] = Condition({"text": torch.stack([told(word).tensors["text"] for word in words], dim=1)})
        return self[prompt]
