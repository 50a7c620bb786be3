"""The metadata of a result: its settings, and the file its base was loaded from."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ....esd.concepts import Concept, Keep
from ....esd.examples import eta_of
from ....esd.settings import Settings
from ....version import VERSION
from ..families.family import Family

log = logging.getLogger("esd")


def sha256(path: Path) -> str:
    """Return the hash of a file, read a mebibyte at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class Origin:
    """The name and hash of the file that a MODEL was loaded from; both are empty where there is none any more."""

    name: str = ""
    digest: str = ""


def origin_of(base: Path | None) -> Origin:
    """Read before a training: the file may be gone, or be another one, when that is done."""
    try:
        return Origin(base.name, sha256(base)) if base else Origin()
    except OSError as error:
        log.warning("ESD: the base file cannot be read any more, so the result will not name it: %s", str(error))
        return Origin()


def run_metadata(
    concepts: Sequence[Concept],
    keeps: Sequence[Keep],
    settings: Settings,
    family: Family,
    base: Origin,
    steps_done: int,
) -> dict[str, str]:
    """Return the `esd.*` metadata of a result; every value is text, as safetensors asks."""
    etas = {eta_of(concept, settings) for concept in concepts}
    return {
        "esd.format": "esd-concept-erasure-1",
        "esd.version": VERSION,
        "esd.family": family.name,
        "esd.concepts": json.dumps([asdict(c) for c in concepts]),
        "esd.keeps": json.dumps([asdict(k) for k in keeps]),
        "esd.method": settings.method,
        "esd.eta": repr(etas.pop() if len(etas) == 1 else settings.eta),
        "esd.steps": str(steps_done),
        "esd.seed": str(settings.seed),
        "esd.learning_rate": repr(settings.learning_rate),
        "esd.settings": json.dumps(asdict(settings)),
        "esd.base_file": base.name,
        "esd.base_sha256": base.digest,
    }
