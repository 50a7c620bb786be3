"""The autoencoder: TAESD's shape with half of its channels, and two blocks of 32 x 32 pixels left out on each side.

What is missing is exactly what zeros do in TAESD: it has no norms, and a residual block of zeros passes its input on.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from .pictures import Pool
from .training import Plan

WIDTH, LIVE = 64, 32
LATENT = 4
PREFIX = "first_stage_model."
WRITES, READS = "taesd_encoder.14.", "taesd_decoder.1.weight"
SCALE = 0.18215  # of SD1's latents: the denoiser then sees ours as they are
NOISE, PULL = 0.06, 0.1
FINE = 0.7  # the deviation of the first channel beyond LATENT
PLAN = Plan(steps=9600, batch=16, rate=2e-3, warm_up=100, seed=1)
WIDER_PLAN = Plan(steps=300, batch=16, rate=1e-3, warm_up=20, seed=1)  # of the decoder alone
EXAMPLES = 1024  # pictures that further channels are found on


def _conv(channels: int, live: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(channels, live, 3, stride=stride, padding=1, bias=bias)


class Block(nn.Module):
    """Three convolutions, added to what came in."""

    def __init__(self, live: int) -> None:
        super().__init__()
        first, second, third = (_conv(live, live) for _ in range(3))
        self.conv = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)

    def forward(self, x: Tensor) -> Tensor:
        """Returns "b c h w"."""
        return functional.relu(self.conv(x) + x)


class Soft(nn.Module):
    """Keeps latents within -3..3."""

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return torch.tanh(x / 3) * 3


def _encoder(live: int, latent: int) -> nn.Sequential:
    def half() -> nn.Conv2d:
        return _conv(live, live, stride=2, bias=False)

    at_32 = [half(), Block(live), nn.Identity(), nn.Identity()]
    smaller = [layer for _ in range(2) for layer in (half(), Block(live), Block(live), Block(live))]
    return nn.Sequential(_conv(3, live), Block(live), *at_32, *smaller, _conv(live, latent))


def _decoder(live: int, latent: int) -> nn.Sequential:
    def double() -> list[nn.Module]:
        return [nn.Upsample(scale_factor=2), _conv(live, live, bias=False)]

    smaller = [layer for _ in range(2) for layer in (Block(live), Block(live), Block(live), *double())]
    at_32 = [Block(live), nn.Identity(), nn.Identity(), *double()]
    return nn.Sequential(Soft(), _conv(latent, live), nn.ReLU(), *smaller, *at_32, Block(live), _conv(live, 3))


class Autoencoder(nn.Module):
    """Pictures "b 3 h w" in 0..1 to latents "b latent h/8 w/8" and back; names of parameters are the checkpoint's."""

    def __init__(self, live: int = LIVE, latent: int = LATENT) -> None:
        super().__init__()
        self.taesd_encoder, self.taesd_decoder = _encoder(live, latent), _decoder(live, latent)

    @classmethod
    def of(cls, learnt: Mapping[str, Tensor]) -> Autoencoder:
        """One that has learnt, and learns no more."""
        made = cls(latent=learnt[READS].shape[1]).to(memory_format=torch.channels_last)
        made.load_state_dict(learnt)
        return made.eval().requires_grad_(False)

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents."""
        return self.taesd_encoder(pictures)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures."""
        return self.taesd_decoder(latents)

    @torch.inference_mode()
    def reconstruct(self, pictures: Tensor) -> Tensor:
        """There and back, within 0..1."""
        return self.decode(self.encode(pictures)).clamp(0, 1)


def loss(autoencoder: Autoencoder, pool: Pool, batch: int, random: torch.Generator) -> Tensor:
    """How far noisy latents decode from the pictures, and how far the latents are from mean 0 and deviation 1."""
    pictures, _ = pool.draw(batch, random)
    latents = autoencoder.encode(pictures)
    noisy = latents + NOISE * torch.randn(latents.shape, generator=random)
    deviation, mean = torch.std_mean(latents, dim=(0, 2, 3))
    return difference(autoencoder.decode(noisy), pictures) + PULL * (mean.square() + (deviation - 1).square()).mean()


def difference(made: Tensor, wanted: Tensor) -> Tensor:
    """L1 of the pixels, of their steps to the right and down, and of the means of 8 x 8 pixels."""
    error = made - wanted
    right, down = error.diff(dim=3).abs().mean(), error.diff(dim=2).abs().mean()
    return error.abs().mean() + right + down + functional.avg_pool2d(error, 8).abs().mean()


@torch.inference_mode()
def with_more_channels(learnt: Mapping[str, Tensor], latent: int, pictures: Tensor) -> dict[str, Tensor]:
    """What an autoencoder has learnt, for `latent` channels: the new ones hold what its latents leave of its features.

    They are the principal components, over `pictures` "b 3 h w", of the features "c" before the last convolution less
    their regression on the latents; the largest gets the deviation FINE, the others keep their proportion to it. The
    decoder does not read them yet.
    """
    encoder = Autoencoder.of(learnt).taesd_encoder
    features = torch.cat([encoder[:-1](some) for some in pictures.split(64)])
    weight, bias = learnt[f"{WRITES}weight"], learnt[f"{WRITES}bias"]
    given = _rows(functional.conv2d(features, weight, bias, padding=1))
    with_one = torch.cat([given, torch.ones(len(given), 1, dtype=given.dtype)], dim=1)
    regression = torch.linalg.lstsq(with_one, _rows(features)).solution
    left = _rows(features) - with_one @ regression
    sizes, directions = torch.linalg.eigh(left.T @ left / len(left))
    more = latent - len(weight)
    read = (directions.flip(1)[:, :more] * FINE / sizes[-1].sqrt()).T
    known, constant = (read @ part.T for part in (regression[:-1], regression[-1:]))
    centre = functional.pad(read[:, :, None, None], (1, 1, 1, 1))
    written = centre - torch.einsum("ml,lchw->mchw", known, weight.double())
    offset = -(constant[:, 0] + known @ bias.double())
    return {
        **learnt,
        f"{WRITES}weight": torch.cat([weight, written.float()]),
        f"{WRITES}bias": torch.cat([bias, offset.float()]),
        READS: functional.pad(learnt[READS], (0, 0, 0, 0, 0, more)),
    }


def _rows(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1).flatten(0, 2).double()
