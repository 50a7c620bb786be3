"""Pictures with words beside them, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

COLUMNS = 8
MARGIN = 8
SMALLEST_CELL = 128
INK, PAPER = (32, 32, 32), (255, 255, 255)


def labelled_grid(prompts: Sequence[str], rows: Mapping[str, Tensor]) -> Tensor:
    """One picture ("1 h w 3") of several batches ("b h w 3"): a column a prompt, a labelled row a batch.

    More prompts than `COLUMNS` wrap into further blocks; pictures smaller than `SMALLEST_CELL` are enlarged.
    """
    first = next(iter(rows.values()))
    scale = max(1, -(-SMALLEST_CELL // min(first.shape[1:3])))
    cell = (first.shape[2] * scale, first.shape[1] * scale)
    font = ImageFont.load_default(max(12, cell[0] // 10))
    line, side = font.size + 6, font.size * 4
    columns = min(COLUMNS, len(prompts))
    block = line + len(rows) * (cell[1] + MARGIN)
    blocks = -(-len(prompts) // columns)
    sheet = Image.new("RGB", (side + columns * (cell[0] + MARGIN), blocks * block + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    for index, prompt in enumerate(prompts):
        left = side + index % columns * (cell[0] + MARGIN)
        top = index // columns * block + MARGIN // 2
        pen.text((left, top), _fitting(prompt, font, cell[0]), INK, font)
        for row, (label, batch) in enumerate(rows.items()):
            y = top + line + row * (cell[1] + MARGIN)
            sheet.paste(_picture(batch[index], cell), (left, y))
            if index % columns == 0:
                pen.text((MARGIN, y + cell[1] // 2), label, INK, font)
    return torch.from_numpy(np.asarray(sheet).astype(np.float32) / 255.0)[None]


def _picture(image: Tensor, cell: tuple[int, int]) -> Image.Image:
    values = (image.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.numpy()).resize(cell, Image.Resampling.NEAREST)


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
