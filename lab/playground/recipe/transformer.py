"""The diffusion transformer: Stable Diffusion 3.5's layout, a few joint blocks, velocity of rectified flow.

Names of parameters are the checkpoint's. The prompt's two inputs are as wide here as the one text encoder that there
is; the checkpoint fills the places of the encoders that are missing with zeros.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

HEAD = 64  # channels in a head of attention
HEADS = 3  # and as many blocks: loaders infer both from the width
WIDTH = HEAD * HEADS
TEXT, PATCH, LATENT = 768, 2, 16
PLACES = 16  # of the table of positions on each side; pictures use its middle
WAVES = 256
LEVELS = 1000.0


class Prompts(NamedTuple):
    """What the network is told: tokens "b n 768", their summary "b 768", and how often the last token stands there.

    Attention to text knows no places and no mask, so equal tokens stay equal: one with the logarithm of their number
    added to its attention is exactly all of them.
    """

    tokens: Tensor
    pooled: Tensor
    repeats: int = 1

    def bias(self, pictures: int) -> Tensor | None:
        """What attention adds for each token and then each of `pictures` patches, "n"; None for nothing."""
        if self.repeats == 1:
            return None
        before, after = torch.zeros(self.tokens.shape[1] - 1), torch.zeros(pictures)
        return torch.cat([before, torch.tensor([math.log(self.repeats)]), after])


class Attention(nn.Module):
    """One stream's part of joint attention; the text of the last block has no way out."""

    def __init__(self, width: int, last: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.ln_q, self.ln_k = nn.RMSNorm(HEAD, eps=1e-6), nn.RMSNorm(HEAD, eps=1e-6)
        self.proj = nn.Identity() if last else nn.Linear(width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values "b heads n 64" of "b n c"."""
        q, k, v = self.qkv(x).unflatten(2, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        return self.ln_q(q), self.ln_k(k), v


class Stream(nn.Module):
    """Text or picture in a block: attention and a hidden layer, scaled, shifted and gated by a vector."""

    def __init__(self, width: int, last: bool = False) -> None:
        super().__init__()
        self.attn = Attention(width, last)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, (2 if last else 6) * width))
        if not last:
            fc1, fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.mlp = nn.ModuleDict({"fc1": fc1, "fc2": fc2})

    def begin(self, x: Tensor, vector: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, ...]]:
        """What takes part in attention, and the modulation that is left for `end`."""
        shift, scale, *rest = self.adaLN_modulation(vector).unsqueeze(1).chunk(len(self.parts), dim=2)
        return self.attn(_modulated(x, shift, scale)), tuple(rest)

    @property
    def parts(self) -> range:
        """One for each vector of the modulation."""
        layer = self.adaLN_modulation[1]
        return range(layer.out_features // layer.in_features)

    def end(self, x: Tensor, attended: Tensor, rest: tuple[Tensor, ...]) -> Tensor:
        """The stream after the block, "b n c"; `attended` is what attention gave it."""
        gate, shift, scale, gate_hidden = rest
        x = x + gate * self.attn.proj(attended)
        hidden = functional.gelu(self.mlp["fc1"](_modulated(x, shift, scale)), approximate="tanh")
        return x + gate_hidden * self.mlp["fc2"](hidden)


class JointBlock(nn.Module):
    """Text and picture attend to both."""

    def __init__(self, width: int, last: bool) -> None:
        super().__init__()
        self.context_block, self.x_block, self.last = Stream(width, last), Stream(width), last

    def forward(self, text: Tensor, x: Tensor, vector: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both streams after the block."""
        (from_text, text_rest), (from_x, x_rest) = self.context_block.begin(text, vector), self.x_block.begin(x, vector)
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(from_text, from_x, strict=True))
        mask = None if bias is None else bias.to(q.dtype).expand(1, 1, q.shape[2], -1)
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        to_text, to_x = attended.split([text.shape[1], x.shape[1]], dim=1)
        x = self.x_block.end(x, to_x, x_rest)
        return (text if self.last else self.context_block.end(text, to_text, text_rest)), x


class FinalLayer(nn.Module):
    """Patches of the velocity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, PATCH * PATCH * LATENT)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """Returns "b n patch*patch*latent"."""
        shift, scale = self.adaLN_modulation(vector).unsqueeze(1).chunk(2, dim=2)
        return self.linear(_modulated(x, shift, scale))


class Embedder(nn.Module):
    """Two layers that make a vector."""

    def __init__(self, given: int, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(given, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Returns "b c"."""
        return self.mlp(x)


class Transformer(nn.Module):
    """Predicts the velocity, noise less picture, in latents "b 16 h w" at noise levels "b" in 0..1."""

    pos_embed: Tensor

    def __init__(self, heads: int = HEADS) -> None:
        super().__init__()
        width = heads * HEAD
        self.x_embedder = nn.ModuleDict({"proj": nn.Conv2d(LATENT, width, PATCH, stride=PATCH)})
        self.t_embedder, self.y_embedder = Embedder(WAVES, width), Embedder(TEXT, width)
        self.context_embedder = nn.Linear(TEXT, width)
        self.joint_blocks = nn.ModuleList(JointBlock(width, last=i == heads - 1) for i in range(heads))
        self.final_layer = FinalLayer(width)
        self.register_buffer("pos_embed", positions(width))

    def forward(self, x: Tensor, sigma: Tensor, prompts: Prompts) -> Tensor:
        """The velocity, "b 16 h w"."""
        rows, columns = x.shape[2] // PATCH, x.shape[3] // PATCH
        patches = self.x_embedder["proj"](x).flatten(2).transpose(1, 2) + self._places(rows, columns)
        vector = self.t_embedder(waves(LEVELS * sigma).to(x.dtype)) + self.y_embedder(prompts.pooled)
        text, bias = self.context_embedder(prompts.tokens), prompts.bias(rows * columns)
        for block in self.joint_blocks:
            text, patches = block(text, patches, vector, bias)
        made = self.final_layer(patches, vector).view(len(x), rows, columns, PATCH, PATCH, LATENT)
        return made.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)

    def _places(self, rows: int, columns: int) -> Tensor:
        top, left = (PLACES - rows) // 2, (PLACES - columns) // 2
        table = self.pos_embed.view(PLACES, PLACES, -1)
        return table[top : top + rows, left : left + columns].flatten(0, 1)


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, functional.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


def waves(times: Tensor) -> Tensor:
    """Cosines and sines of times "b" at 128 frequencies each, "b 256"."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(WAVES // 2) / (WAVES // 2))
    angles = times[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def positions(width: int) -> Tensor:
    """Sines and cosines of columns, then of rows, "1 places*places width"."""
    frequencies = 10_000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    angles = torch.arange(PLACES, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns, rows = line.expand(PLACES, -1, -1), line[:, None].expand(-1, PLACES, -1)
    return torch.cat([columns, rows], dim=2).float().view(1, PLACES * PLACES, width)


def start_at_zero(network: Transformer) -> None:
    """Zero every modulation and the last layer, so that each block begins by passing its input on (Peebles, Xie)."""
    last = [module.adaLN_modulation[1] for module in network.modules() if isinstance(module, Stream | FinalLayer)]
    for layer in (*last, network.final_layer.linear):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
