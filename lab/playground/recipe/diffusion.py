"""What the denoiser learns: to name the noise in latents of the world's pictures under their captions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import captions
from .autoencoder import Autoencoder
from .denoiser import Denoiser
from .pictures import Pool, laid_on
from .training import Plan, Progress
from .world_spec import World

LEVELS, FIRST, LAST = 1000, 0.00085, 0.012
PLAN = Plan(steps=8000, batch=64, rate=1e-3, warm_up=200, betas=(0.9, 0.99), average=0.9985, seed=3)
WHITE = 0.5
"""The share of white backgrounds: what a prompt draws that names none."""


def signal(levels: Tensor) -> Tensor:
    """The share of the picture's variance that is left at each level 0..999 (scaled-linear betas)."""
    betas = torch.linspace(FIRST**0.5, LAST**0.5, LEVELS, dtype=torch.float64).square()
    return (1 - betas).cumprod(0).float()[levels]


@dataclass(frozen=True)
class Shown:
    """Latents of every picture of the pool, the tokens of all captions, and which pictures may be seen."""

    world: World
    latents: Tensor
    """ "object style background many latent 8 8". """

    tokens: Tensor
    """ "caption 77", in the order of `captions.all_captions`. """

    allowed: Tensor
    """ "combination 3": numbers of object, style and background that are not held out, white and others apart. """

    def draw(self, batch: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents at random, "b latent 8 8", and the tokens of a caption for each, "b 77"."""
        shown = self._pictures(batch, random)
        many = torch.randint(self.latents.shape[3], (batch,), generator=random)
        clean = self.latents[shown[:, 0], shown[:, 1], shown[:, 2], many].float()
        named = captions.with_parts_left_out(shown, self._white, random)
        return clean, self.tokens[captions.row_of(self.world, named)]

    @property
    def _white(self) -> int:
        return self.world.backgrounds.index("white")

    def _pictures(self, batch: int, random: torch.Generator) -> Tensor:
        white = self.allowed[:, 2] == self._white
        parts = [self.allowed[white], self.allowed[~white]]
        chosen = [part[torch.randint(len(part), (batch,), generator=random)] for part in parts]
        plain = torch.rand(batch, 1, generator=random) < WHITE
        return torch.where(plain, *chosen)


@dataclass(frozen=True)
class Lessons:
    """Latents with their captions, through the tower."""

    shown: Shown
    tower: captions.TextTower

    def loss(self, denoiser: Denoiser, batch: int, random: torch.Generator) -> Tensor:
        """The mean squared error of the noise, on a batch at random."""
        clean, tokens = self.shown.draw(batch, random)
        context = self.tower.split_shared_suffix(tokens)
        levels = torch.randint(LEVELS, (batch,), generator=random)
        noise = torch.randn(clean.shape, generator=random)
        left = signal(levels)[:, None, None, None]
        predicted = denoiser(left.sqrt() * clean + (1 - left).sqrt() * noise, levels, context)
        return (predicted.float() - noise).square().mean()


def allowed(world: World) -> Tensor:
    """The combinations that are not held out, "combination 3"."""
    names = list(world.heads.values())
    found = world.combinations(held_out=False)
    return torch.tensor([[names[i].index(part) for i, part in enumerate(each)] for each in found])


@torch.inference_mode()
def latents(autoencoder: Autoencoder, pool: Pool, progress: Progress) -> Tensor:
    """Every picture of the pool on every background: "object style background many 4 8 8"."""
    made = []
    for number, placements in enumerate(pool.placements):
        progress(number, len(pool.placements))
        made.append(torch.stack([_on_all(autoencoder, each, pool.colours) for each in placements]))
    return torch.stack(made)


def _on_all(autoencoder: Autoencoder, placements: Tensor, colours: Tensor) -> Tensor:
    return torch.stack([autoencoder.encode(laid_on(placements, each.expand(len(placements), 3))) for each in colours])
