"""Figures with names beside them, as a picture of bars."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .grid import INK, MARGIN, PAPER

BAR = (70, 110, 180)
LINE, WIDTH = 18, 720


def bar_chart(title: str, values: Mapping[str, float]) -> Tensor:
    """One picture ("1 h w 3") with a horizontal bar a value, the longest one filling the width."""
    font = ImageFont.load_default(13)
    side = int(max((font.getlength(name) for name in values), default=0)) + 2 * MARGIN
    room = WIDTH - side - int(font.getlength("0.00e+00")) - 3 * MARGIN
    sheet = Image.new("RGB", (WIDTH, (len(values) + 1) * LINE + 3 * MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), title, INK, font)
    longest = max(filter(math.isfinite, values.values()), default=0.0) or 1.0
    for row, (name, value) in enumerate(values.items()):
        top = 2 * MARGIN + (row + 1) * LINE
        end = side + max(1, round(room * value / longest) if math.isfinite(value) else 0)
        pen.text((MARGIN, top), name, INK, font)
        pen.rectangle((side, top + 2, end, top + LINE - 5), BAR)
        pen.text((end + MARGIN, top), f"{value:.2e}", INK, font)
    return torch.from_numpy(np.asarray(sheet).astype(np.float32) / 255.0)[None]
