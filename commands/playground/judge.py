"""The judge: a small network that names object, style and background of a 64 x 64 picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import Conv2d, GroupNorm, Linear, Module, Sequential, SiLU
from torch.nn.functional import silu

from . import world

WIDTHS = (24, 48, 72, 96)
SIDE = 64


@dataclass(frozen=True)
class Verdict:
    """What the judge sees in each picture, by name."""

    objects: list[str]
    styles: list[str]
    backgrounds: list[str]

    def names(self, head: str) -> list[str]:
        """The names that one head ("object", "style", "background") gave, in the order of the pictures."""
        return {"object": self.objects, "style": self.styles, "background": self.backgrounds}[head]

    def hits(self, expected: Sequence[world.Judged]) -> list[bool]:
        """Whether each picture was given the name that is expected of it."""
        return [self.names(judged.head)[i] == judged.name for i, judged in enumerate(expected)]


def _block(channels_in: int, channels: int) -> list[Module]:
    halve = Conv2d(channels_in, channels, 3, stride=2, padding=1)
    same = Conv2d(channels, channels, 3, padding=1)
    return [halve, GroupNorm(8, channels), SiLU(), same, GroupNorm(8, channels), SiLU()]


class Network(Module):
    """A network with a head for each kind of name, whose verdict can be asked for."""

    def __init__(self, heads: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.heads = {kind: tuple(names) for kind, names in heads.items()}

    @torch.inference_mode()
    def judge(self, images: Tensor) -> Verdict:
        """The verdict on images "b 3 64 64" or "b 64 64 3" in 0..1; raises ValueError for another shape."""
        pictures = _channels_first(images).float()
        heads = [logits.argmax(1).tolist() for logits in self(pictures)]
        return Verdict(*([names[i] for i in head] for names, head in zip(self.heads.values(), heads, strict=True)))

    def load(self, path: Path) -> Network:
        """The same network with the weights of a file, in fp32 on the CPU."""
        self.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
        return self.eval().requires_grad_(False)


class Judge(Network):
    """Four convolution blocks, one hidden layer, and one linear head for each kind of name."""

    def __init__(self, heads: Mapping[str, Sequence[str]] = world.HEADS) -> None:
        super().__init__(heads)
        pairs = zip((3, *WIDTHS), WIDTHS, strict=False)
        self.body = Sequential(*[layer for pair in pairs for layer in _block(*pair)])
        self.fc = Linear(WIDTHS[-1] * (SIDE // 2 ** len(WIDTHS)) ** 2, 192)
        self.obj, self.sty, self.bg = (Linear(192, len(names)) for names in heads.values())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of object, style and background for images "b 3 64 64" in 0..1."""
        hidden = silu(self.fc(self.body(images * 2 - 1).flatten(1)))
        return self.obj(hidden), self.sty(hidden), self.bg(hidden)


def _channels_first(images: Tensor) -> Tensor:
    if images.shape[1:] == (SIDE, SIDE, 3):
        return images.permute(0, 3, 1, 2)
    if images.shape[1:] == (3, SIDE, SIDE):
        return images
    raise ValueError(f"The judge looks at RGB pictures of {SIDE} x {SIDE}, not {tuple(images.shape)}: resize them.")


def load_judge(path: Path = world.JUDGE) -> Network:
    """The trained judge, in fp32 on the CPU."""
    return Judge().load(path)


def rates(verdict: Verdict, expected: Sequence[world.Judged]) -> dict[str, tuple[int, int]]:
    """For each expected name: how many of its pictures the judge gave that name, and of how many."""
    found: dict[str, tuple[int, int]] = {}
    for judged, hit in zip(expected, verdict.hits(expected), strict=True):
        hits, count = found.get(judged.name, (0, 0))
        found[judged.name] = (hits + hit, count + 1)
    return found


def found_rate(verdict: Verdict, expected: Sequence[world.Judged]) -> float:
    """The share, 0..1, of pictures to which the judge gave the expected name."""
    return sum(verdict.hits(expected)) / max(1, len(expected))
