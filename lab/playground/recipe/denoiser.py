"""The denoiser: Stable Diffusion 1's UNet with two levels, in as many channels as are live.

The checkpoint pads it with zeros to WIDTH channels, so that loaders recognise it. Padded and narrow networks compute
the same: groups of GroupNorm are whole, heads of attention too, and LayerNorm counts the missing channels as zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, LIVE = 320, 120
GROUP = 10  # channels in a group of GroupNorm, of the 320
HEAD = 40  # channels in a head of attention
CONTEXT = 768
LATENT = 4


class PaddedLayerNorm(nn.LayerNorm):
    """LayerNorm over the live channels and WIDTH - live zeros."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis; x: "... live"."""
        mean = x.sum(-1, keepdim=True) / WIDTH
        variance = x.square().sum(-1, keepdim=True) / WIDTH - mean.square()
        return (x - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias


class Context(NamedTuple):
    """Contexts that end alike, as those of padded prompts do: "b n 768", and the end of all of them, "m 768"."""

    own: Tensor
    shared: Tensor


def _projected(layer: nn.Linear, context: Tensor | Context) -> Tensor:
    """The layer's output for the whole contexts, "b n+m c": what they share is computed once."""
    if isinstance(context, Tensor):
        return layer(context)
    own, shared = layer(context.own), layer(context.shared)
    return torch.cat([own, shared.expand(len(own), *shared.shape)], dim=1)


class Attention(nn.Module):
    """Attention of "b n c" to itself, or to a context "b m 768"."""

    def __init__(self, live: int, context: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(live, live, bias=False)
        self.to_k = nn.Linear(context, live, bias=False)
        self.to_v = nn.Linear(context, live, bias=False)
        self.to_out = nn.Sequential(nn.Linear(live, live))

    def forward(self, x: Tensor, context: Tensor | Context) -> Tensor:
        """Returns "b n c"."""
        k, v = (_projected(layer, context) for layer in (self.to_k, self.to_v))
        q, k, v = (self._heads(y) for y in (self.to_q(x), k, v))
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.to_out(y.transpose(1, 2).flatten(2))

    @staticmethod
    def _heads(x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, HEAD)).transpose(1, 2)


class GatedLinear(nn.Module):
    """GEGLU."""

    def __init__(self, live: int) -> None:
        super().__init__()
        self.proj = nn.Linear(live, 8 * live)

    def forward(self, x: Tensor) -> Tensor:
        """Returns "b n 4c"."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * functional.gelu(gate)


class TransformerBlock(nn.Module):
    """Self-attention, attention to the text, and a gated layer, each added to what came in."""

    def __init__(self, live: int) -> None:
        super().__init__()
        self.attn1, self.attn2 = Attention(live, live), Attention(live, CONTEXT)
        self.ff = nn.ModuleDict({"net": nn.ModuleList([GatedLinear(live), nn.Identity(), nn.Linear(4 * live, live)])})
        self.norm1, self.norm2, self.norm3 = (PaddedLayerNorm(live) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor | Context) -> Tensor:
        """Returns "b n c"."""
        y = self.norm1(x)
        x = x + self.attn1(y, y)
        x = x + self.attn2(self.norm2(x), context)
        y = self.norm3(x)
        for layer in self.ff["net"]:
            y = layer(y)
        return x + y


class SpatialTransformer(nn.Module):
    """A transformer block over the pixels of a map."""

    def __init__(self, live: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(live // GROUP, live, eps=1e-6)
        self.proj_in, self.proj_out = nn.Conv2d(live, live, 1), nn.Conv2d(live, live, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(live)])

    def forward(self, x: Tensor, context: Tensor | Context) -> Tensor:
        """Returns "b c h w"."""
        y = self.proj_in(self.norm(x))
        y = self.transformer_blocks[0](y.flatten(2).transpose(1, 2), context)
        return x + self.proj_out(y.transpose(1, 2).unflatten(2, x.shape[2:]))


class ResBlock(nn.Module):
    """Two convolutions with the time between them."""

    def __init__(self, channels: int, live: int) -> None:
        super().__init__()
        groups = live // GROUP
        conv = nn.Conv2d(channels, live, 3, padding=1)
        self.in_layers = nn.Sequential(nn.GroupNorm(groups, channels), nn.SiLU(), conv)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * live, live))
        conv = nn.Conv2d(live, live, 3, padding=1)
        self.out_layers = nn.Sequential(nn.GroupNorm(groups, live), nn.SiLU(), nn.Identity(), conv)
        self.skip_connection = nn.Conv2d(channels, live, 1) if channels != live else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Returns "b c h w"."""
        y = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(y)


class Downsample(nn.Module):
    """Half the height and width."""

    def __init__(self, live: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(live, live, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns "b c h/2 w/2"."""
        return self.op(x)


class Upsample(nn.Module):
    """Twice the height and width."""

    def __init__(self, live: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(live, live, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns "b c 2h 2w"."""
        return self.conv(functional.interpolate(x, scale_factor=2, mode="nearest"))


class Denoiser(nn.Module):
    """Predicts the noise in latents "b 4 h w" at time steps "b" under contexts "b n 768"."""

    def __init__(self, live: int = LIVE) -> None:
        super().__init__()

        def res(channels: int = live) -> ResBlock:
            return ResBlock(channels, live)

        def text() -> SpatialTransformer:
            return SpatialTransformer(live)

        self.time_embed = nn.Sequential(nn.Linear(WIDTH, 4 * live), nn.SiLU(), nn.Linear(4 * live, 4 * live))
        first = nn.Conv2d(LATENT, live, 3, padding=1)
        self.input_blocks = _steps([first], [res()], [Downsample(live)], [res(), text()])
        self.middle_block = nn.ModuleList([res(), text(), res()])
        both = 2 * live
        self.output_blocks = _steps([res(both), text()], [res(both), text(), Upsample(live)], [res(both)], [res(both)])
        last = nn.Conv2d(live, LATENT, 3, padding=1)
        self.out = nn.Sequential(nn.GroupNorm(live // GROUP, live), nn.SiLU(), last)

    def forward(self, x: Tensor, time: Tensor, context: Tensor | Context) -> Tensor:
        """The noise, "b 4 h w"."""
        emb = self.time_embed(time_waves(time).to(x.dtype))
        kept = []
        for step in self.input_blocks:
            x = _through(step, x, emb, context)
            kept.append(x)
        x = _through(self.middle_block, x, emb, context)
        for step in self.output_blocks:
            x = _through(step, torch.cat([x, kept.pop()], dim=1), emb, context)
        return self.out(x)


def time_waves(time: Tensor) -> Tensor:
    """Cosines and sines of time steps "b" at 160 frequencies each, "b 320"."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(WIDTH // 2) / (WIDTH // 2))
    angles = time[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _steps(*steps: list[nn.Module]) -> nn.ModuleList:
    return nn.ModuleList(nn.ModuleList(step) for step in steps)


def _through(layers: nn.ModuleList, x: Tensor, emb: Tensor, context: Tensor | Context) -> Tensor:
    for layer in layers:
        extra = {ResBlock: (emb,), SpatialTransformer: (context,)}.get(type(layer), ())
        x = layer(x, *extra)
    return x


def start_at_zero(denoiser: Denoiser) -> None:
    """Zero the last layer of every residual branch and of the network, as is usual for a fresh one."""
    for layer in _last_layers(denoiser):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def _last_layers(denoiser: Denoiser) -> Iterator[nn.Conv2d]:
    yield denoiser.out[-1]
    for module in denoiser.modules():
        if isinstance(module, ResBlock):
            yield module.out_layers[-1]
        elif isinstance(module, SpatialTransformer):
            yield module.proj_out
