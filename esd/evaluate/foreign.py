"""What another pack's node says of pictures - a text, a number, yes or no, a mask - as scores of rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import EsdError

AT_LEAST, BELOW = "at least", "below"
DIRECTIONS = (AT_LEAST, BELOW)


@dataclass(frozen=True)
class Finding:
    """What was said of one picture: the answer for the report, its figure, and whether the label was found."""

    answer: str
    score: float
    found: bool


@dataclass(frozen=True)
class Rule:
    """When a label counts as found: by words, or a /pattern/, in a text; by a number's side of a threshold."""

    words: str = ""
    threshold: float = 0.5
    direction: str = AT_LEAST

    def of_text(self, text: str, label: str) -> Finding:
        """Look for the words, or else the label, as whole words whatever their case and underscores."""
        found = self._pattern(label).search(text.replace("_", " ")) is not None
        return Finding(text, float(found), found)

    def _pattern(self, label: str) -> re.Pattern[str]:
        wanted = self.words.strip() or label
        try:
            if len(wanted) > 2 and wanted.startswith("/") and wanted.endswith("/"):
                return re.compile(wanted[1:-1], re.IGNORECASE)
        except re.error as error:
            raise EsdError(
                f'"{wanted:.100}" is no pattern ({error}): correct it, or write words without "/".'
            ) from error
        return re.compile(rf"(?<!\w){re.escape(wanted.replace('_', ' '))}(?!\w)", re.IGNORECASE)

    def of_number(self, number: float, label: str) -> Finding:
        """Hold a number against the threshold."""
        found = number >= self.threshold if self.direction == AT_LEAST else number < self.threshold
        return Finding(f"{number:.3f}", float(number), bool(found))

    def of_boolean(self, said: bool, label: str) -> Finding:
        """Take yes as found."""
        return Finding("yes" if said else "no", float(said), bool(said))

    def of_mask(self, mask: Tensor, label: str) -> Finding:
        """Take any area as found; the figure is the share of the picture that it covers."""
        share = float((mask > 0).float().mean()) if mask.numel() else 0.0
        return Finding(f"{100 * share:.1f} % of the picture", share, share > 0)

    def card(self, kind: str) -> str:
        """Say in one line what counts."""
        rules = {
            "text": f"a text with {self.words.strip() or 'the label'} in it",
            "number": f"a number {self.direction} {self.threshold:g}",
            "boolean": "yes",
            "mask": "a mask that is not empty",
        }
        return f"another node's {kind}: found is {rules[kind]}"


def one_a_picture(values: Sequence[Any], kind: str, pictures: int) -> list[Any]:
    """Return one value a picture, batches of masks and lines taken apart; raise EsdError for another number of them."""
    found = list(values)
    if kind == "mask":
        found = [each for value in values for each in (value if value.ndim == 3 else [value])]
    if kind == "text" and len(found) == 1 and isinstance(found[0], list | tuple):
        found = list(found[0])
    if len(found) != pictures:
        raise EsdError(
            f"{len(found)} values arrived for {pictures} pictures: give the other node the pictures of Sample Set one "
            "by one, and connect what it says of each."
        )
    return found
