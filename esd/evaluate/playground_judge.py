"""The playground's own judge: a small network that names object, style and background of its 64 x 64 pictures."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import conv2d, group_norm, linear, silu

from ..errors import EsdError
from .judge import Draw, Size, Verdicts

SIDE, GROUPS, BLOCKS = 64, 8, 4
KINDS = {"obj": ("objects", ""), "sty": ("styles", " style"), "bg": ("backgrounds", " background")}
"""The network's heads: where their names stand in the world's file, and what a prompt adds to a name."""


class PlaygroundJudge:
    """A judge that knows the playground's names, alone or as prompts have them ("ink" or "ink style")."""

    card = (
        "the playground's judge: what its network sees first among all objects, styles or backgrounds; the score is "
        "the label's softmax"
    )

    identity = "playground"

    def __init__(self, folder: Path) -> None:
        """Read the network and the names from the playground's folder; raise EsdError where they are not there."""
        try:
            self.weights = {name: tensor.float() for name, tensor in load_file(folder / "judge.safetensors").items()}
            world = json.loads((folder / "world.json").read_text("utf-8"))
        except OSError as error:
            raise EsdError(
                "The playground's judge is not there: install the plugin anew, with all its files."
            ) from error
        self.names = {head: tuple(world[kind]) for head, (kind, _) in KINDS.items()}
        self.places = {
            words: (head, place)
            for head, (_, ending) in KINDS.items()
            for place, name in enumerate(self.names[head])
            for words in (name, name + ending)
        }

    def check(self, labels: Sequence[str], sizes: Collection[Size] = ()) -> None:
        """Raise EsdError for what the playground does not draw."""
        for width, height in sizes:
            if (width, height) != (SIDE, SIDE):
                size = f"{width} x {height}"
                raise EsdError(
                    f"The playground's judge looks at pictures of {SIDE} x {SIDE}, not {size}: draw them so."
                )
        for label in labels:
            if label not in self.places:
                raise EsdError(
                    f"The playground's judge does not know \"{label:.100}\": write one of the playground's names, such "
                    "as cat or ink style, as the label, or use another judge."
                )

    def ready(self, labels: Sequence[str], draw: Draw) -> PlaygroundJudge:
        """Return itself: it was trained before."""
        return self

    @torch.no_grad()
    def judge(self, pictures: Tensor, labels: Sequence[str]) -> Verdicts:
        """Judge pictures "b 64 64 3" in 0 ... 1; raise EsdError for another size."""
        self.check(labels, [(pictures.shape[2], pictures.shape[1])])
        logits = self.logits(pictures)
        heads, places = zip(*(self.places[label] for label in labels), strict=True)
        scores = torch.stack([logits[h].softmax(1)[:, p] for h, p in zip(heads, places, strict=True)], dim=1)
        best = torch.stack([logits[h].argmax(1) for h in heads], dim=1)
        answers = tuple(tuple(self.names[h][i] for h, i in zip(heads, row, strict=True)) for row in best.tolist())
        return Verdicts(tuple(labels), scores, best == torch.tensor(places), answers)

    def logits(self, pictures: Tensor) -> dict[str, Tensor]:
        """Return each head's logits "b n" for pictures "b 64 64 3"."""
        x = rearrange(pictures.float().cpu(), "b h w c -> b c h w") * 2 - 1
        for block in range(BLOCKS):
            for layer, stride in ((0, 2), (3, 1)):
                first = 6 * block + layer
                x = conv2d(x, *_of(self.weights, f"body.{first}"), stride=stride, padding=1)
                x = silu(group_norm(x, GROUPS, *_of(self.weights, f"body.{first + 1}")))
        hidden = silu(linear(x.flatten(1), *_of(self.weights, "fc")))
        return {head: linear(hidden, *_of(self.weights, head)) for head in KINDS}


def _of(weights: Mapping[str, Tensor], layer: str) -> tuple[Tensor, Tensor]:
    return weights[f"{layer}.weight"], weights[f"{layer}.bias"]
