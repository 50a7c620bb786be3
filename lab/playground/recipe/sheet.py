"""The contact sheet: every object in every style, drawn by the model."""

from __future__ import annotations

import os

from PIL import Image, ImageDraw
from torch import Tensor

from . import measure
from .stages import Build
from .world_spec import World

COLUMNS, GAP, TEXT = 4, 6, 14
QUALITY = 88


def main(build: Build) -> bool:
    """Draw what is not drawn yet, and write `contact-sheet.jpg` into the folder."""
    drawn = measure.pictures_of(build)
    count = len(build.world.objects) * len(build.world.styles)
    path = build.path("contact-sheet.jpg")
    unfinished = path.with_name(f"{os.getpid()}-{path.name}")
    sheet(drawn[:count], build.world).save(unfinished, quality=QUALITY, optimize=True)
    os.replace(unfinished, path)
    return True


def sheet(drawn: Tensor, world: World) -> Image.Image:
    """Pictures "object*style 64 64 3" in 0..1 with each object's name over its styles, in columns."""
    side, styles = drawn.shape[1], len(world.styles)
    width, height = styles * side + GAP, side + TEXT + GAP
    rows = -(-len(world.objects) // COLUMNS)
    made = Image.new("RGB", (COLUMNS * width + GAP, rows * height + GAP), "white")
    pencil = ImageDraw.Draw(made)
    for number, name in enumerate(world.objects):
        left, top = GAP + number // rows * width, GAP + number % rows * height
        pencil.text((left, top), name, fill="black")
        for style in range(styles):
            pixels = (drawn[number * styles + style] * 255).round().byte().numpy()
            made.paste(Image.fromarray(pixels), (left + style * side, top + TEXT))
    return made
