"""Pictures of the world: icons as vectors, made to pixels once, then placed at random and laid on backgrounds."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from . import icons
from .world_spec import World

SIDE, LARGE = 64, 256
SCALES, SHIFT, TURN = (0.80, 0.90), 0.05, 0.1  # of the frame, of the frame, rad
BACKGROUNDS = {
    "white": (255, 255, 255),
    "yellow": (250, 215, 70),
    "green": (80, 180, 90),
    "blue": (70, 130, 235),
    "pink": (250, 150, 190),
}
SEPIA = ((58, 34, 14), (248, 228, 192))
LUMINANCE = (0.299, 0.587, 0.114)
RECOLOURED = {"sepia": "noto"}
"""Styles that are a colouring of another."""

Sets = Mapping[str, Mapping[str, Any]]


def large_icons(world: World, sets: Sets, progress: Callable[[int, int], None]) -> Tensor:
    """Every object in every style at 256 pixels: "object style 4 256 256", bytes, colours multiplied by alpha."""
    drawn = []
    for number, icon in enumerate(world.objects.values()):
        progress(number, len(world.objects))
        drawn.append(torch.stack([_in_style(style, icon, sets) for style in world.styles]))
    return torch.stack(drawn)


def _in_style(style: str, icon: str, sets: Sets) -> Tensor:
    drawn = rasterised(icons.svg(sets[RECOLOURED.get(style, style)], icon))
    drawn = sepia(drawn) if style == "sepia" else drawn
    return (drawn * 255).round().to(torch.uint8)


def rasterised(svg: str) -> Tensor:
    """An SVG picture as pixels, "4 256 256" in 0..1, colours multiplied by alpha."""
    import numpy
    import resvg_py
    from PIL import Image

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=LARGE, height=LARGE))
    with Image.open(io.BytesIO(png)) as picture:
        straight = torch.from_numpy(numpy.array(picture.convert("RGBA"))).permute(2, 0, 1).float() / 255
    return torch.cat([straight[:3] * straight[3:], straight[3:]])


def sepia(drawn: Tensor) -> Tensor:
    """The luminance of a picture "4 h w" on a ramp from dark brown to cream."""
    alpha = drawn[3:]
    light = (drawn[:3] * torch.tensor(LUMINANCE)[:, None, None]).sum(0, keepdim=True)
    dark, cream = (torch.tensor(colour)[:, None, None] / 255 for colour in SEPIA)
    return torch.cat([dark * alpha + (cream - dark) * light, alpha])


def placed(drawn: Tensor, random: torch.Generator) -> Tensor:
    """Pictures "b 4 256 256" (bytes) scaled, shifted and turned at random, at 64 pixels: "b 4 64 64" (bytes)."""
    count = len(drawn)
    low, high = SCALES
    zoom = 1 / (low + (high - low) * torch.rand(count, generator=random))
    turn = TURN * (2 * torch.rand(count, generator=random) - 1)
    shift = 2 * SHIFT * (2 * torch.rand(count, 2, generator=random) - 1)
    cos, sin = zoom * turn.cos(), zoom * turn.sin()
    theta = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).view(count, 2, 3)
    grid = functional.affine_grid(theta, [count, 4, LARGE, LARGE], align_corners=False)
    moved = functional.grid_sample(drawn.float(), grid, align_corners=False)
    return functional.avg_pool2d(moved, LARGE // SIDE).round().to(torch.uint8)


def laid_on(placements: Tensor, colours: Tensor) -> Tensor:
    """Placements "b 4 64 64" (bytes) on plain colours "b 3" in 0..1: pictures "b 3 64 64" in 0..1."""
    pixels = placements.float() / 255
    return pixels[:, :3] + (1 - pixels[:, 3:]) * colours[:, :, None, None]


def colours_of(world: World) -> Tensor:
    """The backgrounds' colours, "background 3" in 0..1."""
    return torch.tensor([BACKGROUNDS[name] for name in world.backgrounds]) / 255


@dataclass(frozen=True)
class Pool:
    """Many placements of every object in every style."""

    placements: Tensor
    """ "object style many 4 64 64", bytes. """

    colours: Tensor
    """ "background 3" in 0..1. """

    def draw(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pictures at random, "b 3 64 64" in 0..1, and the numbers of their object, style and background, "b 3"."""
        sizes = (*self.placements.shape[:3], len(self.colours))
        chosen = [torch.randint(size, (count,), generator=random) for size in sizes]
        pictures = laid_on(self.placements[chosen[0], chosen[1], chosen[2]], self.colours[chosen[3]])
        return pictures, torch.stack([chosen[0], chosen[1], chosen[3]], dim=1)


def pool(large: Tensor, many: int, seed: int, progress: Callable[[int, int], None]) -> Tensor:
    """`many` placements of each picture of "object style 4 256 256": "object style many 4 64 64"."""
    random = torch.Generator().manual_seed(seed)
    made = []
    for number, styles in enumerate(large):
        progress(number, len(large))
        made.append(torch.stack([placed(each.expand(many, -1, -1, -1), random) for each in styles]))
    return torch.stack(made)


def psnr(pictures: Tensor, reconstructed: Tensor) -> float:
    """Decibels of 1 over the root of the mean squared error of pictures in 0..1."""
    return -10 * math.log10((pictures - reconstructed).square().mean().item())
