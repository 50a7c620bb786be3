"""What is checked of a PyTorch zip file before PyTorch opens it: records, their sizes, and the pickle among them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import EsdError
from .pickle_scan import MOST_PICKLE, check_pickle

MOST_UNPACKED = 16
"""How many times its own size a zip file may unpack to: PyTorch does not squeeze, and weights hardly can be."""


def check_torch_zip(path: Path) -> bool:
    """Refuse a zip file that is not PyTorch's, claims far more than it has, or whose pickle names strangers.

    Returns whether its records lie there plainly, so that they can be memory-mapped.
    """
    with _archive(path) as archive:
        return _checked(path, archive)


def refuse_bomb(path: Path) -> None:
    """Refuse a zip file that claims far more than it has; any other file passes."""
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    if is_zip:
        with _archive(path) as archive:
            _is_plain(path, archive)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except EsdError:
        raise
    except Exception as error:  # of bad names, methods, passwords and streams: the zip reader raises many types
        raise EsdError(f"{path.name} is damaged ({error or type(error).__name__}): download it again.") from error


def _is_plain(path: Path, archive: zipfile.ZipFile) -> bool:
    size, records = path.stat().st_size, archive.infolist()
    total = sum(r.file_size for r in records)
    plain = all(r.compress_type == zipfile.ZIP_STORED for r in records)
    if total > size * (1 if plain else MOST_UNPACKED):
        raise EsdError(f"{path.name} would unpack to {total} bytes from {size} (a zip bomb): do not use this file.")
    return plain


def _checked(path: Path, archive: zipfile.ZipFile) -> bool:
    records, plain = archive.infolist(), _is_plain(path, archive)
    pickles = [r for r in records if r.filename.count("/") == 1 and r.filename.endswith("/data.pkl")]
    if len(pickles) != 1 or pickles[0].file_size > MOST_PICKLE:
        raise EsdError(f"{path.name} is a zip file without PyTorch weights in it: unpack it and choose the weights.")
    folder = pickles[0].filename.removesuffix("data.pkl")
    _require_one_folder(path, [r.filename for r in records], folder)
    with archive.open(pickles[0]) as file:
        storages = check_pickle(path, file)
    _require_storages(path, storages, {r.filename.removeprefix(folder): r.file_size for r in records})
    return plain


def _require_one_folder(path: Path, names: list[str], folder: str) -> None:
    """PyTorch's own reader takes the first folder and disregards case: what it finds must be what was checked."""
    if not all(n.startswith(folder) for n in names) or len({n.lower() for n in names}) < len(names):
        raise EsdError(f"{path.name} is damaged: its records are not those of one set of weights; download it again.")


def _require_storages(path: Path, storages: dict[str, int], sizes: dict[str, int]) -> None:
    for key, claimed in storages.items():
        found = sizes.get(f"data/{key}", -1)
        if found != claimed:
            raise EsdError(
                f"{path.name} is damaged: its weights claim {claimed} bytes of a record of {max(found, 0)}; "
                "download it again."
            )
