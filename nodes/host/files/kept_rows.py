"""Pictures and scores of evaluations in output/esd/evaluations, where a stopped run goes on and models share rows."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import folder_paths
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ....esd.errors import EsdError
from ....esd.evaluate.kept_rows import ScoreFile
from ....esd.evaluate.metrics import Score
from ....esd.files.atomic import write_atomically
from .folders import require_own

SCORES, PICTURES = "scores.jsonl", "pictures"


class KeptRows:
    """A `Keeper` of one folder: a PNG a picture, named after its key, and a line a score."""

    def __init__(self) -> None:
        """Read the scores that are there; raise EsdError where the folder cannot be used."""
        self.folder = Path(folder_paths.get_output_directory()) / "esd" / "evaluations"
        require_own(self.folder)
        try:
            (self.folder / PICTURES).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EsdError(
                f"The folder output/esd/evaluations could not be made ({error.strerror or error}): allow writing in "
                "the output folder, or switch resume off."
            ) from error
        self.file = ScoreFile(self.folder / SCORES)
        self.scores = self.file.read()

    def picture(self, key: str) -> Tensor | None:
        """Return the picture that was kept; none where its file is gone or broken."""
        try:
            with Image.open(self._path(key)) as file:
                return torch.from_numpy(np.array(file.convert("RGB")))
        except (OSError, SyntaxError, ValueError):
            return None

    def keep_picture(self, key: str, picture: Tensor) -> None:
        """Write a picture; a killed process leaves a whole file or none."""
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, partial(Image.fromarray(picture.numpy()).save, format="PNG"))

    def score(self, key: str) -> Score | None:
        """Return the score that was kept."""
        return self.scores.get(key)

    def keep_score(self, key: str, score: Score) -> None:
        """Add a score to the file."""
        self.file.add(key, score)
        self.scores[key] = score

    def _path(self, key: str) -> Path:
        return self.folder / PICTURES / key[:2] / f"{key}.png"
