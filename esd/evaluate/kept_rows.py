"""What is kept of an evaluation on the way: every picture and every score, so that none is made twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Protocol

from torch import Tensor

from ..errors import EsdError
from .metrics import Score


class Keeper(Protocol):
    """Where pictures "h w 3" in bytes and scores are kept, by keys that name all that they depend on."""

    def picture(self, key: str) -> Tensor | None:
        """Return the picture that was kept."""

    def keep_picture(self, key: str, picture: Tensor) -> None:
        """Keep a picture as soon as it is drawn."""

    def score(self, key: str) -> Score | None:
        """Return the score that was kept."""

    def keep_score(self, key: str, score: Score) -> None:
        """Keep a score as soon as it is given."""


class NoKeeper:
    """Keeps nothing."""

    def picture(self, key: str) -> None:
        """None is there."""

    def keep_picture(self, key: str, picture: Tensor) -> None:
        """Forget it."""

    def score(self, key: str) -> None:
        """None is there."""

    def keep_score(self, key: str, score: Score) -> None:
        """Forget it."""


@dataclass(frozen=True)
class ScoreFile:
    """Scores in a file to which lines are only ever added, so that a killed process loses none that it wrote.

    A last line that was cut off is passed over, and does not spoil the next one.
    """

    path: Path

    def read(self) -> dict[str, Score]:
        """Return all scores by their keys; none where there is no file yet; raise EsdError where it cannot be read."""
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise EsdError(f"{self.path.name} cannot be read ({error.strerror or error}): allow reading it.") from error
        return dict(_scores(text))

    def add(self, key: str, score: Score) -> None:
        """Add one score, on the disk when this returns."""
        line = json.dumps({"key": key, **asdict(score)}, ensure_ascii=True)
        try:
            with self.path.open("a+b") as file:
                file.seek(0, os.SEEK_END)
                begin = b"" if not file.tell() or _ends_a_line(file.fileno(), file.tell()) else b"\n"
                file.write(begin + line.encode("ascii") + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise EsdError(
                f"{self.path.name} could not be written ({error.strerror or error}): free space on the disk, or allow "
                "writing in the output folder."
            ) from error


def _ends_a_line(file: int, size: int) -> bool:
    os.lseek(file, size - 1, os.SEEK_SET)
    return os.read(file, 1) == b"\n"


_FIELDS = {field.name for field in fields(Score)}


def _scores(text: bytes) -> Iterator[tuple[str, Score]]:
    for line in text.split(b"\n"):
        try:
            found = json.loads(line)
            key = found.pop("key")
        except (ValueError, LookupError, AttributeError, TypeError):
            continue
        if isinstance(key, str) and isinstance(found, dict) and set(found) == _FIELDS:
            yield key, Score(**found)
