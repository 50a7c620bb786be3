"""Pictures of an evaluation: shares with intervals, residuals by noise level, and all of it under each other."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .grid import INK, MARGIN, PALE, PAPER

LINE, WIDTH, ROOM = 22, 720, 300
COLOURS = {"before": (150, 150, 150), "after": (70, 110, 180)}
THERE, GONE, REVERSED = (200, 80, 60), (255, 255, 255), (70, 110, 180)
CELL = 78
QUALITY = 88
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Bar:
    """A share with the ends of its interval, 0 ... 1, under a label; `kind` is before or after."""

    label: str
    kind: str
    share: float
    low: float
    high: float
    words: str


def interval_bars(title: str, bars: Sequence[Bar]) -> Tensor:
    """One picture ("1 h w 3"): a bar a share, the full width being 1, with a whisker over its interval."""
    font = ImageFont.load_default(13)
    side = round(max((font.getlength(bar.label) for bar in bars), default=0)) + 2 * MARGIN
    width = max(WIDTH, side + ROOM + 2 * MARGIN + round(max((font.getlength(bar.words) for bar in bars), default=0)))
    sheet, pen = _sheet(width, (len(bars) + 1) * LINE + 2 * MARGIN, title, font)
    for row, bar in enumerate(bars, 1):
        top = MARGIN + row * LINE
        low, share, high = (side + round(ROOM * value) for value in (bar.low, bar.share, bar.high))
        pen.text((MARGIN, top + 2), bar.label, INK, font)
        pen.rectangle((side, top + 3, side + ROOM, top + LINE - 5), outline=(225, 225, 225))
        pen.rectangle((side, top + 3, max(share, side + 1), top + LINE - 5), COLOURS[bar.kind])
        middle = top + LINE // 2 - 1
        pen.line((low, middle, high, middle), INK)
        for end in (low, high):
            pen.line((end, middle - 4, end, middle + 4), INK)
        pen.text((side + ROOM + MARGIN, top + 2), bar.words, INK, font)
    return _tensor(sheet)


def heat_strip(title: str, rows: Mapping[str, Sequence[tuple[float, float]]]) -> Tensor:
    """One picture ("1 h w 3"): a row a prompt, a cell a pair (noise level, residual), red 1, white 0, blue below."""
    font = ImageFont.load_default(13)
    names = [name if len(name) < 40 else name[:37] + "..." for name in rows]
    side = round(max((font.getlength(name) for name in names), default=0)) + 2 * MARGIN
    most = max(map(len, rows.values()), default=0)
    sheet, pen = _sheet(max(WIDTH, side + most * CELL + MARGIN), (2 * len(rows) + 1) * LINE + 2 * MARGIN, title, font)
    for row, (name, cells) in enumerate(zip(names, rows.values(), strict=True)):
        top = MARGIN + LINE + 2 * row * LINE
        pen.text((MARGIN, top + 2), name, INK, font)
        for place, (sigma, residual) in enumerate(cells):
            left = side + place * CELL
            pen.rectangle((left, top, left + CELL - 2, top + LINE - 2), _heat(residual))
            pen.text((left + 4, top + 2), f"{residual:.2f}", INK, font)
            pen.text((left + 4, top + LINE), f"sigma {sigma:.3g}", PALE, font)
    return _tensor(sheet)


def under_each_other(pictures: Sequence[Tensor]) -> Tensor:
    """One picture ("1 h w 3") of several, all from the left edge, on paper."""
    width = max(picture.shape[2] for picture in pictures)
    rows = []
    for picture in pictures:
        row = torch.ones((1, picture.shape[1], width, 3))
        row[:, :, : picture.shape[2]] = picture
        rows.append(row)
    return torch.cat(rows, dim=1)


def jpeg(picture: Tensor) -> bytes:
    """Return a picture "h w 3" in 0 ... 1 as a JPEG file."""
    file = io.BytesIO()
    values = (picture.detach().cpu().float().nan_to_num(0).clamp(0, 1) * 255).round().to(torch.uint8)
    Image.fromarray(values.numpy()).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _heat(residual: float) -> Colour:
    if not math.isfinite(residual):
        return PALE
    share, end = min(1.0, abs(residual)), THERE if residual > 0 else REVERSED
    red, green, blue = (round(paper + share * (ink - paper)) for paper, ink in zip(GONE, end, strict=True))
    return red, green, blue


def _sheet(
    width: int, height: int, title: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), title, INK, font)
    return sheet, pen


def _tensor(sheet: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(sheet).astype(np.float32) / 255.0)[None]
