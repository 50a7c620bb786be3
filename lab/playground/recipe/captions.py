"""Captions and what the network sees of them: the tokens of SD1, through a text tower that needs no training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from .denoiser import Context
from .world_spec import World

WORDS, LENGTH, CONTEXT = 49_408, 77, 768
NO_OBJECT, NO_STYLE, NOTHING = 0.07, 0.4, 0.1
NAMED_WHITE, NAMED_COLOUR = 0.2, 0.9
"""How often the background is named, where it is white and where it is not."""

Named = tuple[int, int, int]
"""Numbers of object, style and background; -1 where the caption does not name it."""


def caption(name: str, style: str, background: str) -> str:
    """A prompt; each part may be empty."""
    where = f"{background} background" if background else ""
    what = " in ".join(part for part in (name, f"{style} style" if style else "") if part)
    return f"{what} on a {where}" if what and where else what or where


def all_captions(world: World) -> list[str]:
    """Every caption that there can be, at the place that `row_of` gives."""
    objects, styles, backgrounds = (("", *names) for names in world.heads.values())
    return [caption(o, s, b) for o in objects for s in styles for b in backgrounds]


def row_of(world: World, named: Tensor) -> Tensor:
    """Places in `all_captions` of what is named, "b 3" with -1 for nothing."""
    _, styles, backgrounds = (len(names) + 1 for names in world.heads.values())
    o, s, b = (named + 1).unbind(1)
    return (o * styles + s) * backgrounds + b


def with_parts_left_out(shown: Tensor, white: int, random: torch.Generator) -> Tensor:
    """What captions name of the objects, styles and backgrounds shown, "b 3"; `white` is a background's number."""
    named, count = shown.clone(), len(shown)
    chance = torch.rand(count, 4, generator=random)
    named[chance[:, 0] < NO_OBJECT, 0] = -1
    named[chance[:, 1] < NO_STYLE, 1] = -1
    often = torch.where(shown[:, 2] == white, NAMED_WHITE, NAMED_COLOUR)
    named[chance[:, 2] >= often, 2] = -1
    named[chance[:, 3] < NOTHING] = -1
    return named


def tokens(captions: Sequence[str], tokenizer_folder: Path) -> Tensor:
    """The captions' tokens as ComfyUI makes them for SD1, "b 77"; the folder is ComfyUI's comfy/sd1_tokenizer."""
    from transformers import CLIPTokenizer

    made = CLIPTokenizer.from_pretrained(str(tokenizer_folder))
    end = WORDS - 1  # also what fills the rest
    rows = [made(words, add_special_tokens=False)["input_ids"] for words in captions]
    full = [[end - 1, *row, end] for row in rows]
    return torch.tensor([row + [end] * (LENGTH - len(row)) for row in full])


@dataclass(frozen=True)
class TextTower:
    """CLIP-L's shape with layers that pass their input on: tokens are told apart, nothing more.

    The token table is a window of CONTEXT numbers that moves by one number from token to token, so it takes 0.1 MB.
    """

    line: Tensor
    positions: Tensor

    @property
    def table(self) -> Tensor:
        """The token table "49408 768", a view of the line."""
        return self.line.as_strided((WORDS, CONTEXT), (1, 1))

    def __call__(self, tokens: Tensor) -> Tensor:
        """Contexts "b 77 768" of tokens "b 77"."""
        words = self.table[tokens].float()
        return functional.layer_norm(words + self.positions[: tokens.shape[1]].float(), (CONTEXT,))

    def split_shared_suffix(self, tokens: Tensor) -> Context:
        """The same contexts, with the end that all rows have in common apart."""
        differ = (tokens != tokens[:1]).any(0).nonzero()
        own = int(differ.max()) + 1 if len(differ) else 0
        return Context(self(tokens[:, :own]), self(tokens[:1])[0, own:])


def text_tower() -> TextTower:
    """The tower, the same every time."""
    random = numpy.random.RandomState(0)
    line = random.randn(WORDS + CONTEXT - 1).astype(numpy.float32)
    positions = (0.3 * random.randn(LENGTH, CONTEXT)).astype(numpy.float32)
    return TextTower(torch.from_numpy(line).half(), torch.from_numpy(positions).half())
