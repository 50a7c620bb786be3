"""What the transformer learns: the velocity from the world's pictures to noise; and how it draws by it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from commands.playground import world as shipped

from .autoencoder import Autoencoder
from .diffusion import Shown
from .summary_tower import SummaryTower
from .training import Plan
from .transformer import LATENT, Prompts, Transformer
from .walk import LATENT_SIDE

SHIFT = 3.0
"""How much later noise levels come than their times: SD3's, as hosts have it."""

PLAN = Plan(steps=6000, batch=64, rate=1.5e-3, warm_up=200, betas=(0.9, 0.99), average=0.998, seed=3)
STEPS, GUIDANCE = 20, shipped.MODELS["sd35"].cfg
LAST_TIME = 1e-3


def shifted(times: Tensor) -> Tensor:
    """Noise levels of times in 0..1 (Esser et al. 2024, eq. 23)."""
    return SHIFT * times / (1 + (SHIFT - 1) * times)


@dataclass(frozen=True)
class FlowLessons:
    """Latents with their captions, through the tower."""

    shown: Shown
    tower: SummaryTower

    def loss(self, network: Transformer, batch: int, random: torch.Generator) -> Tensor:
        """The mean squared error of the velocity, at times of a logit-normal density."""
        clean, tokens = self.shown.draw(batch, random)
        sigma = shifted(torch.randn(batch, generator=random).sigmoid())
        noise = torch.randn(clean.shape, generator=random)
        levels = sigma[:, None, None, None]
        predicted = network((1 - levels) * clean + levels * noise, sigma, self.tower.shortened(tokens))
        return (predicted - (noise - clean)).square().mean()


@dataclass(frozen=True)
class FlowPainter:
    """Networks and tower, to draw as the stock KSampler does with euler and sgm_uniform."""

    denoiser: Transformer
    autoencoder: Autoencoder
    tower: SummaryTower

    @torch.inference_mode()
    def draw(self, tokens: Tensor, nothing: Tensor, seed: int) -> Tensor:
        """One picture for each row of tokens "b 77", "b 64 64 3" in 0..1; `nothing` holds the empty prompt's, "77"."""
        count = len(tokens)
        x = torch.randn(count, LATENT, LATENT_SIDE, LATENT_SIDE, generator=torch.Generator().manual_seed(seed))
        prompts, levels = self.tower.shortened(torch.cat([tokens, nothing.expand(count, -1)])), sgm_uniform(STEPS)
        for now, following in zip(levels, levels[1:], strict=False):
            x = x + self._velocity(x, now, prompts) * (following - now)
        return self.autoencoder.decode(x).clamp(0, 1).permute(0, 2, 3, 1)

    def _velocity(self, x: Tensor, sigma: Tensor, prompts: Prompts) -> Tensor:
        asked, empty = self.denoiser(x.repeat(2, 1, 1, 1), sigma.expand(2 * len(x)), prompts).chunk(2)
        return empty + GUIDANCE * (asked - empty)


def sgm_uniform(steps: int) -> Tensor:
    """Noise levels of equally distant times, high to low, and a last 0, as the host's sgm_uniform has them."""
    last = shifted(torch.tensor(LAST_TIME))  # the lowest level is taken for a time
    return torch.cat([shifted(torch.linspace(1.0, float(last), steps + 1)[:-1]), torch.zeros(1)])
