"""Pictures by the narrow network: the stock KSampler's walk (ddim, ddim_uniform) in a fifth of its time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from commands.playground import world as shipped

from .autoencoder import Autoencoder
from .captions import TextTower
from .denoiser import LATENT, Context, Denoiser
from .diffusion import LEVELS, signal

SIDE, LATENT_SIDE = 64, 8
STEPS, GUIDANCE = 20, shipped.MODELS["sd1"].cfg


@dataclass(frozen=True)
class Painter:
    """Narrow networks and the text tower."""

    denoiser: Denoiser
    autoencoder: Autoencoder
    tower: TextTower

    @torch.inference_mode()
    def draw(self, tokens: Tensor, nothing: Tensor, seed: int) -> Tensor:
        """One picture for each row of tokens "b 77", "b 64 64 3" in 0..1; `nothing` holds the empty prompt's, "77"."""
        count = len(tokens)
        noise = torch.randn(count, LATENT, LATENT_SIDE, LATENT_SIDE, generator=torch.Generator().manual_seed(seed))
        context = self.tower.split_shared_suffix(torch.cat([tokens, nothing.expand(count, -1)]))
        latents = self._walk(noise, context)
        return self.autoencoder.decode(latents).clamp(0, 1).permute(0, 2, 3, 1)

    def _walk(self, noise: Tensor, context: Context) -> Tensor:
        levels = uniform_levels(STEPS)
        sigmas = torch.cat([sigma_of(levels), torch.zeros(1)])
        x = noise * (1 + sigmas[0].square()).sqrt()
        for level, now, following in zip(levels, sigmas, sigmas[1:], strict=False):
            x = x + self._noise(x / (1 + now.square()).sqrt(), level, context) * (following - now)
        return x

    def _noise(self, x: Tensor, level: Tensor, context: Context) -> Tensor:
        asked, empty = self.denoiser(x.repeat(2, 1, 1, 1), level.expand(2 * len(x)), context).chunk(2)
        return empty + GUIDANCE * (asked - empty)


def uniform_levels(steps: int) -> Tensor:
    """Levels at equal distances, high to low, as the host's ddim_uniform has them."""
    return torch.arange(1, LEVELS, LEVELS // steps).flip(0)


def sigma_of(levels: Tensor) -> Tensor:
    """Noise over signal."""
    left = signal(levels)
    return ((1 - left) / left).sqrt()
