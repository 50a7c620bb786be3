"""Prompt sets out of the input folder, and reports into the output folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import folder_paths

from ....esd.errors import EsdError
from ....esd.evaluate.prompt_set import PromptRow, rows_of_csv
from ....esd.evaluate.report import PicturePair, Report, to_csv, to_html, to_json, to_text
from ....esd.evaluate.study import to_study
from ....esd.files.atomic import write_atomically
from .save import files_told, output_path

NO_FILE = "(none)"
MOST_BYTES = 64 * 2**20


def prompt_files() -> list[str]:
    """Return the names of the CSV files that lie in the input folder itself, and a name for none."""
    folder = Path(folder_paths.get_input_directory())
    names = [path.name for path in folder.iterdir() if path.suffix.lower() == ".csv"] if folder.is_dir() else []
    return [NO_FILE, *sorted(names)]


def prompt_rows(name: str, role: str) -> tuple[PromptRow, ...]:
    """Read a listed file; no rows for none; raise EsdError for what is not there or cannot be used."""
    if name == NO_FILE:
        return ()
    try:
        path = _path(name)
        if path.stat().st_size > MOST_BYTES:
            raise EsdError(f'"{name:.100}" is larger than {MOST_BYTES >> 20} MB: split it into several files.')
        return rows_of_csv(path.read_bytes(), name, role)
    except OSError as error:
        raise EsdError(f'"{name:.100}" cannot be read ({error.strerror or error}): allow reading it.') from error


def fingerprint(name: str) -> str:
    """Return what changes when the file does."""
    if name == NO_FILE:
        return name
    status = _path(name).stat()
    return f"{name}:{status.st_size}:{status.st_mtime_ns}"


def _path(name: str) -> Path:
    """Return the file of a name that is listed, which leads out of no folder."""
    if name not in prompt_files():
        raise EsdError(
            f'There is no prompt set "{name!s:.100}": put the CSV file into the input folder and refresh (R).'
        )
    return Path(folder_paths.get_input_directory()) / name


@dataclass(frozen=True)
class BlindSheet:
    """What a blind sheet is called, its pairs, and the seed of its lots."""

    title: str
    pairs: Sequence[PicturePair]
    seed: int


def save_report(prefix: str, report: Report, pairs: Sequence[PicturePair], sheet: BlindSheet | None) -> list[Path]:
    """Write a page, its data, a table of every picture and a blind sheet, under one name with the next free counter."""
    page = output_path(prefix, ".html")
    texts = {".html": to_html(report, pairs), ".json": to_json(report), ".csv": to_csv(report.scores)}
    if sheet and sheet.pairs:
        texts[".blind.html"] = to_study(sheet.title, sheet.pairs, sheet.seed)
    paths = [page.with_suffix(ending) for ending in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_atomically(path, partial(Path.write_bytes, data=text.encode("utf-8", "replace")))
    return paths


def told(
    report: Report, prefix: str, pairs: Sequence[PicturePair] = (), sheet: BlindSheet | None = None
) -> tuple[str, dict[str, list[Any]]]:
    """Return a report's text and what a node tells of it; its files are written where they have a name."""
    text = to_text(report)
    paths = save_report(prefix, report, pairs, sheet) if prefix else []
    if paths:
        endings = [path.name.removeprefix(paths[0].stem) for path in paths[1:]]
        text += f"\nSaved {paths[0].name}, {', '.join(endings[:-1])} and {endings[-1]}"
    return text, {"text": [text], "esd_files": files_told(paths)}
