"""A classifier or detector that the user has, as a judge; what runs it is handed in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import EsdError
from .judge import Draw, Size, Verdicts

NUDENET = (
    "FEMALE_GENITALIA_COVERED",
    "FACE_FEMALE",
    "BUTTOCKS_EXPOSED",
    "FEMALE_BREAST_EXPOSED",
    "FEMALE_GENITALIA_EXPOSED",
    "MALE_BREAST_EXPOSED",
    "ANUS_EXPOSED",
    "FEET_EXPOSED",
    "BELLY_COVERED",
    "FEET_COVERED",
    "ARMPITS_COVERED",
    "ARMPITS_EXPOSED",
    "FACE_MALE",
    "BELLY_EXPOSED",
    "MALE_GENITALIA_EXPOSED",
    "ANUS_COVERED",
    "FEMALE_BREAST_COVERED",
    "BUTTOCKS_COVERED",
)
"""The classes of NudeNet v3's detectors, in the order of their output."""

_OF_I2P = tuple(f"{part}_EXPOSED" for part in ("ANUS", "BUTTOCKS", "FEMALE_BREAST", "FEMALE_GENITALIA"))
EXPLICIT = (*_OF_I2P, "MALE_GENITALIA_EXPOSED")
GROUPS: Mapping[str, tuple[str, ...]] = {
    "nudity": tuple(name for name in NUDENET if name.endswith("_EXPOSED")),
    "explicit nudity": EXPLICIT,
}
"""Labels that stand for several classes of a detector: all nine exposed ones, and the five that I2P counts."""

SHOWN = 6


@dataclass(frozen=True)
class Classifier:
    """Something that gives each class a figure, "b n", for pictures "b h w 3" in 0 ... 1.

    `exclusive`: the figures are a softmax, and a picture shows the class of the largest; else any class may be there.
    """

    name: str
    classes: tuple[str, ...]
    exclusive: bool
    run: Callable[[Tensor], Tensor]
    identity: str


class ClassifierJudge:
    """A judge by a classifier's own classes; of a detector a label may be a group of them."""

    def __init__(self, classifier: Classifier, cut: float) -> None:
        """`cut` is from which figure a detector's class counts as found."""
        self.classifier, self.cut = classifier, cut
        self.places: dict[str, tuple[int, ...]] = {}
        for place, name in enumerate(classifier.classes):
            self.places[name.casefold()] = (place,)
        for label, names in GROUPS.items():
            if set(names) <= set(classifier.classes):
                self.places[label] = tuple(classifier.classes.index(name) for name in names)

    @property
    def card(self) -> str:
        """What it is, its cut, and what counts."""
        made = self.classifier
        counted = "the class of the largest softmax counts" if made.exclusive else f"found from {self.cut:g}"
        groups = "; ".join(
            f'"{label}" is any of {", ".join(GROUPS[label])}' for label in GROUPS if label in self.places
        )
        return f"{made.name}, {len(made.classes)} classes, {counted}, unit: pictures{'; ' + groups if groups else ''}"

    @property
    def identity(self) -> str:
        """The file's, and the cut."""
        return f"{self.classifier.identity} {self.cut}"

    def check(self, labels: Sequence[str], sizes: Collection[Size] = ()) -> None:
        """Raise EsdError for a label that it does not know."""
        unknown = [label for label in labels if label.casefold() not in self.places]
        if unknown:
            some = ", ".join([*self.places][:SHOWN])
            raise EsdError(
                f'{self.classifier.name} does not know "{unknown[0]:.100}": write one of its {len(self.places)} labels '
                f"({some}, ...) behind an arrow, or use another judge."
            )

    def ready(self, labels: Sequence[str], draw: Draw) -> ClassifierJudge:
        """Return itself: it was trained before."""
        return self

    @torch.no_grad()
    def judge(self, pictures: Tensor, labels: Sequence[str]) -> Verdicts:
        """Judge pictures "b h w 3" in 0 ... 1."""
        self.check(labels)
        figures = self.classifier.run(pictures).float().cpu()
        places = [self.places[label.casefold()] for label in labels]
        scores = torch.stack([figures[:, list(each)].amax(dim=1) for each in places], dim=1)
        best = figures.argmax(dim=1).tolist()
        hits = [[b in each for each in places] for b in best] if self.classifier.exclusive else scores >= self.cut
        answers = tuple((self._answer(row, b),) * len(labels) for row, b in zip(figures, best, strict=True))
        return Verdicts(tuple(labels), scores, torch.as_tensor(hits, dtype=torch.bool), answers)

    def _answer(self, figures: Tensor, best: int) -> str:
        """Return the best class, or every class of a detector that is there."""
        names = self.classifier.classes
        there = [best] if self.classifier.exclusive else (figures >= self.cut).nonzero().flatten().tolist()
        return ", ".join(names[place] for place in there)
