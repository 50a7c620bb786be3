"""The size of the pictures that a checkpoint was made for, where its file says it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from ....esd.errors import EsdError
from ....esd.files.lazy import open_tensors
from ....esd.settings import FIELDS, Settings

RESOLUTION = "modelspec.resolution"
"""The key of the metadata (SAI Model Spec 1.0.0): "1024x1024"."""

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


def stated_size(file: Path | None) -> tuple[int, int]:
    """Return width and height in pixels; 0, 0 where there is no file, or none that says a size one can use."""
    if file is None:
        return 0, 0
    try:
        with open_tensors(file) as found:
            said = _SIZE.fullmatch(found.metadata.get(RESOLUTION, "").strip())
    except EsdError:  # the host has read it; what it is for is left to the family
        return 0, 0
    width, height = (int(each) for each in said.groups()) if said else (0, 0)
    usable = all(each % 8 == 0 and 0 < each <= (FIELDS["width"].high or 0) for each in (width, height))
    return (width, height) if usable else (0, 0)


def sized(settings: Settings, file: Path | None) -> Settings:
    """Return the settings with the file's own size, where they leave it to the model."""
    if settings.width or settings.height:
        return settings
    width, height = stated_size(file)
    return replace(settings, width=width, height=height)
