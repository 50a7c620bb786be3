"""Judges on a CLIP-vision file: by prototypes from the base's own pictures, or by CLIP's words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor

from ....esd.errors import EsdError
from ....esd.evaluate import prototypes, zero_shot
from ....esd.evaluate.judge import Draw, Size, Verdicts, best_of
from ....esd.evaluate.metrics import Rate, rate_words
from ..model.fingerprint import digest_of

BATCH = 8
"""Pictures in the encoder at once."""

CHECKED = 16
"""Pictures that CLIP's self-test takes at least."""


def features(encoder: Any, pictures: Tensor) -> Tensor:
    """Return a vision encoder's features "b d" of pictures "b h w 3", the mean over patches where it has no pooling."""
    parts = []
    for batch in pictures.split(BATCH):
        made: Tensor = encoder.encode_image(batch)["image_embeds"].float().cpu()
        parts.append(made if made.ndim == 2 else reduce(made, "b n d -> b d", "mean"))
    return torch.cat(parts)


def require_encoder(encoder: Any) -> None:
    """Raise EsdError where no CLIP vision arrived."""
    if not hasattr(encoder, "encode_image"):
        raise EsdError("No CLIP vision arrived: connect Load CLIP Vision with a file that it can open.")


@dataclass(frozen=True)
class PrototypeJudge:
    """Learns the labels from pictures that the base draws of them."""

    encoder: Any
    each: int
    learnt: prototypes.Prototypes | None = None

    @property
    def card(self) -> str:
        """What it is, and how far it can be trusted."""
        trust = f", right in {rate_words(self.learnt.right)} of the base's own pictures" if self.learnt else ""
        return (
            f"prototypes on CLIP vision, {self.each} pictures of the base a label{trust} (leave-one-out); the score is "
            "the label's softmax among the set's labels"
        )

    @cached_property
    def identity(self) -> str:
        """The encoder and the means."""
        learnt = [self.learnt.labels, self.learnt.means, self.learnt.sharpness] if self.learnt else []
        return digest_of(self.encoder.model, learnt)

    def check(self, labels: Sequence[str], sizes: Collection[Size] = ()) -> None:
        """Raise EsdError for labels that cannot be told apart."""
        require_encoder(self.encoder)
        if len(labels) < 2:
            raise EsdError(
                "Prototypes tell labels apart, and there is one: write kept prompts or alternatives into the set."
            )

    def ready(self, labels: Sequence[str], draw: Draw) -> PrototypeJudge:
        """Return one that has learnt the labels."""
        made = rearrange(features(self.encoder, draw(labels, self.each)), "(n m) d -> n m d", m=self.each)
        return PrototypeJudge(self.encoder, self.each, prototypes.learn(labels, made))

    def judge(self, pictures: Tensor, labels: Sequence[str]) -> Verdicts:
        """Judge pictures "b h w 3" in 0 ... 1."""
        if self.learnt is None:
            raise EsdError("This judge has learnt no labels yet: connect it to Evaluate.")
        return best_of(labels, self.learnt.logits(features(self.encoder, pictures)))


@dataclass(frozen=True)
class ZeroShotJudge:
    """CLIP's own words for the labels; its two towers must be those of one CLIP."""

    encoder: Any
    clip: Any
    right: Rate | None = None

    @property
    def card(self) -> str:
        """What it is, and what the self-test found."""
        trust = f", right in {rate_words(self.right)} of the base's own pictures" if self.right else ""
        return f"CLIP zero-shot among the set's labels{trust}; the score is the label's softmax"

    @cached_property
    def identity(self) -> str:
        """Both towers."""
        return digest_of(self.encoder.model, self.clip.cond_stage_model)

    def check(self, labels: Sequence[str], sizes: Collection[Size] = ()) -> None:
        """Raise EsdError where one of the towers has no projection, or not into one space."""
        require_encoder(self.encoder)
        if self.clip is None:
            raise EsdError("No CLIP arrived: connect Load CLIP with the whole CLIP file that the vision file is of.")
        weights = [_projection(self.encoder.model, "visual_projection"), _projection(_text_tower(self.clip))]
        for weight, tower in zip(weights, ("CLIP vision", "text encoder"), strict=True):
            zero_shot.require_projection(weight, tower)
        widths = [weight.shape[0] for weight in weights if weight is not None]
        if widths[0] != widths[1]:
            raise EsdError(
                f"CLIP vision ends in {widths[0]} numbers and the text encoder in {widths[1]}, so they are not of one "
                "CLIP: load both from one CLIP."
            )

    def ready(self, labels: Sequence[str], draw: Draw) -> ZeroShotJudge:
        """Return one that has passed the self-test; raise EsdError where it fails."""
        each = max(2, -(-CHECKED // len(labels)))
        verdicts = self.judge(draw(labels, each), labels)
        return ZeroShotJudge(self.encoder, self.clip, zero_shot.self_test(verdicts.scores, labels, each))

    def judge(self, pictures: Tensor, labels: Sequence[str]) -> Verdicts:
        """Judge pictures "b h w 3" in 0 ... 1."""
        words = torch.stack([self._words(label) for label in labels])
        return best_of(labels, zero_shot.logits(features(self.encoder, pictures), words))

    def _words(self, label: str) -> Tensor:
        """Return the projected feature of a label, the mean over templates of length 1 each."""
        parts = []
        for template in zero_shot.TEMPLATES:
            tokens = self.clip.tokenize(template.format(label))
            (_, pooled) = self.clip.encode_from_tokens(tokens, return_pooled=True)
            part = pooled[..., -_width(self.clip) :].float().cpu().flatten()
            parts.append(part / part.norm())
        return torch.stack(parts).mean(0)


def _text_tower(clip: Any) -> Any:
    """Return the text model whose pooled output the host hands out: of two towers the wider, SDXL's."""
    towers = [each for each in clip.cond_stage_model.modules() if hasattr(each, "text_projection")]
    return max(towers, key=lambda each: each.text_projection.weight.shape[0], default=None)


def _width(clip: Any) -> int:
    return int(_text_tower(clip).text_projection.weight.shape[0])


def _projection(model: Any, name: str = "text_projection") -> Tensor | None:
    return getattr(getattr(model, name, None), "weight", None)
