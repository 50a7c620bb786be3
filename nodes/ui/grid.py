"""Pictures with words beside them, as one picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

COLUMNS = 8
MARGIN = 8
SMALLEST_CELL = 128
SMALLEST_FONT = 12
MOST_PIXELS = 60_000_000
INK, PALE, PAPER = (32, 32, 32), (120, 120, 120), (255, 255, 255)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
"""Pillow's own font: one of a fixed size where Pillow was built without FreeType."""


@dataclass(frozen=True)
class Column:
    """What stands above the pictures of one prompt and seed."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class Row:
    """A label, a batch of pictures "b h w 3" in 0 ... 1, and a few words below each of them, if any."""

    label: str
    pictures: Tensor
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class _Layout:
    """Where everything lies, in pixels: blocks of at most `columns` pictures below each other."""

    cell: tuple[int, int]
    font: Font
    side: int
    columns: int
    tops: tuple[int, ...]
    block: int

    @property
    def line(self) -> int:
        """The height of a line of words."""
        return _line(self.font)

    def corner(self, index: int) -> tuple[int, int]:
        """Return the left upper corner of a column's words."""
        return (
            self.side + index % self.columns * (self.cell[0] + MARGIN),
            index // self.columns * self.block + MARGIN // 2,
        )


def labelled_grid(columns: Sequence[Column], rows: Sequence[Row], together: int = 1) -> Tensor:
    """One picture ("1 h w 3"): a column a prompt and seed, a labelled row a batch.

    More than `COLUMNS` wrap into further blocks, `together` of one prompt staying side by side where they fit.
    Pictures smaller than `SMALLEST_CELL` are enlarged; all are shrunk where the whole would pass `MOST_PIXELS`.
    """
    layout = _layout(len(columns), rows, together)
    blocks = -(-len(columns) // layout.columns)
    size = (layout.side + layout.columns * (layout.cell[0] + MARGIN), blocks * layout.block + MARGIN)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    _write_prompts(pen, layout, columns)
    for index, column in enumerate(columns):
        left, top = layout.corner(index)
        seed = _fitting(f"seed {column.seed}", layout.font, layout.cell[0])
        pen.text((left, top + layout.line), seed, PALE, layout.font)
        for row, below in zip(rows, layout.tops, strict=True):
            sheet.paste(_picture(row.pictures[index], layout.cell), (left, top + below))
            if index % layout.columns == 0:
                pen.text((MARGIN, top + below + layout.cell[1] // 2), row.label, INK, layout.font)
            if row.notes:
                pen.text((left, top + below + layout.cell[1]), row.notes[index], PALE, layout.font)
    return torch.from_numpy(np.asarray(sheet).astype(np.float32) / 255.0)[None]


def difference(before: Tensor, after: Tensor, gain: float) -> Row:
    """|after - before| times `gain`, with each picture's mean difference (before the gain) below it."""
    apart = (after - before).abs()
    means = [f"mean {mean:.3f}" for mean in apart.mean(dim=(1, 2, 3)).tolist()]
    return Row(f"difference x {gain:g}", (apart * gain).clamp(0, 1), means)


def _layout(count: int, rows: Sequence[Row], together: int) -> _Layout:
    height, width = rows[0].pictures.shape[1:3]
    columns = min(count, COLUMNS // together * together or COLUMNS)
    scale = float(max(1, -(-SMALLEST_CELL // min(height, width))))
    pixels = -(-count // columns) * columns * len(rows) * height * width * scale**2
    scale = min(scale, scale * (MOST_PIXELS / pixels) ** 0.5)
    cell = (max(1, round(width * scale)), max(1, round(height * scale)))
    font = ImageFont.load_default(max(SMALLEST_FONT, cell[0] // 10))
    side = round(max(font.getlength(row.label) for row in rows)) + 2 * MARGIN
    tops, below = [], 2 * _line(font)
    for row in rows:
        tops.append(below)
        below += cell[1] + MARGIN + (_line(font) if row.notes else 0)
    return _Layout(cell, font, side, columns, tuple(tops), below)


def _line(font: Font) -> int:
    return round(getattr(font, "size", SMALLEST_FONT)) + 6


def _write_prompts(pen: ImageDraw.ImageDraw, layout: _Layout, columns: Sequence[Column]) -> None:
    for index, count in _runs(columns, layout.columns):
        room = count * (layout.cell[0] + MARGIN) - MARGIN
        pen.text(layout.corner(index), _fitting(columns[index].prompt, layout.font, room), INK, layout.font)


def _runs(columns: Sequence[Column], width: int) -> Iterator[tuple[int, int]]:
    """Index and number of neighbours that show one prompt with seeds in turn, within a line of `width`."""
    start = 0
    for index in range(1, len(columns) + 1):
        if index == len(columns) or index % width == 0 or columns[index].prompt != columns[start].prompt:
            yield start, index - start
            start = index


def _picture(image: Tensor, cell: tuple[int, int]) -> Image.Image:
    values = (image.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    enlarged = cell[0] >= image.shape[1]
    resampling = Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX
    return Image.fromarray(values.numpy()).resize(cell, resampling)


def _fitting(text: str, font: Font, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
