"""The two judges: how they are trained, and the second one, of another shape, that only checks the first."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from commands.playground.judge import Network

from .autoencoder import Autoencoder
from .pictures import Pool
from .training import Plan, Progress

PLAN = Plan(steps=930, batch=64, rate=2e-3, warm_up=50, seed=2)
SECOND_PLAN = Plan(steps=930, batch=64, rate=3e-3, warm_up=50, seed=12)
NOISE, SHIFT = 0.06, 4  # of the pixels' range, pixels
SECOND_WIDTHS = (32, 64, 96, 128, 192)


class _Residual(nn.Module):
    """A 3 x 3 convolution for each channel by itself, two that mix the channels, added to what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        alone = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        wide, back = nn.Conv2d(channels, 2 * channels, 1), nn.Conv2d(2 * channels, channels, 1)
        self.layers = nn.Sequential(alone, nn.GroupNorm(1, channels), wide, nn.GELU(), back)

    def forward(self, x: Tensor) -> Tensor:
        """Returns "b c h w"."""
        return x + self.layers(x)


class SecondJudge(Network):
    """Patches of 4 x 4 pixels, four residual stages with pooling between them, and the mean over what is left."""

    def __init__(self, heads: Mapping[str, Sequence[str]]) -> None:
        super().__init__(heads)
        self.stem = nn.Conv2d(3, SECOND_WIDTHS[0], 4, stride=4)
        stages = []
        for channels, following in itertools.pairwise(SECOND_WIDTHS):
            stages += [_Residual(channels), _Residual(channels), nn.Conv2d(channels, following, 1), nn.MaxPool2d(2)]
        self.body = nn.Sequential(*stages[:-1])
        self.norm = nn.LayerNorm(SECOND_WIDTHS[-1])
        self.obj, self.sty, self.bg = (nn.Linear(SECOND_WIDTHS[-1], len(names)) for names in heads.values())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of object, style and background for images "b 3 64 64" in 0..1."""
        hidden = self.norm(self.body(self.stem(images * 2 - 1)).mean((2, 3)))
        return self.obj(hidden), self.sty(hidden), self.bg(hidden)


@dataclass(frozen=True)
class Examples:
    """Pictures and their reconstructions by the autoencoder, half and half."""

    pool: Pool
    reconstructed: Tensor
    """ "n 3 64 64", bytes. """

    named: Tensor
    """ "n 3": numbers of object, style and background. """

    def loss(self, judge: Network, batch: int, random: torch.Generator) -> Tensor:
        """The cross entropy of the three heads, summed, on pictures with noise and shifts."""
        pictures, named = self.draw(batch, random)
        logits = judge(augmented(pictures, random))
        return torch.stack([functional.cross_entropy(head, named[:, i]) for i, head in enumerate(logits)]).sum()

    def draw(self, batch: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """As `Pool.draw`; the second half is reconstructed."""
        pictures, named = self.pool.draw(batch - batch // 2, random)
        chosen = torch.randint(len(self.named), (batch // 2,), generator=random)
        both = torch.cat([pictures, self.reconstructed[chosen].float() / 255])
        return both, torch.cat([named, self.named[chosen]])


def augmented(pictures: Tensor, random: torch.Generator) -> Tensor:
    """Pictures "b 3 64 64" moved by a few pixels, each eighth of the batch another way, with noise."""
    strength = NOISE * torch.rand(len(pictures), 1, 1, 1, generator=random)
    noisy = pictures + strength * torch.randn(pictures.shape, generator=random)
    parts = noisy.chunk(8)
    across, down = (torch.randint(-SHIFT, SHIFT + 1, (len(parts),), generator=random).tolist() for _ in range(2))
    return torch.cat([_shifted(part, *by) for part, *by in zip(parts, across, down, strict=True)])


def _shifted(pictures: Tensor, across: int, down: int) -> Tensor:
    side = pictures.shape[-1]
    larger = functional.pad(pictures, [SHIFT] * 4, mode="replicate")
    return larger[:, :, SHIFT + down : SHIFT + down + side, SHIFT + across : SHIFT + across + side]


def examples(autoencoder: Autoencoder, pool: Pool, count: int, seed: int, progress: Progress) -> Examples:
    """Examples with about `count` reconstructions of random pictures."""
    random = torch.Generator().manual_seed(seed)
    pictures, named = [], []
    for done in range(0, count, 64):
        progress(done, count)
        drawn, names = pool.draw(64, random)
        pictures.append((autoencoder.reconstruct(drawn) * 255).round().to(torch.uint8))
        named.append(names)
    return Examples(pool, torch.cat(pictures), torch.cat(named))


@torch.inference_mode()
def agreement(judge: Network, pictures: Tensor, named: Tensor) -> list[float]:
    """The share of pictures that each head names right."""
    logits = judge(pictures)
    return [(head.argmax(1) == named[:, i]).float().mean().item() for i, head in enumerate(logits)]
