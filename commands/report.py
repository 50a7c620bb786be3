"""The check's screen and its JSON, which names no folder of the user's (standard library only)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .findings import Finding, mb

Json = dict[str, Any]

MARKS = {True: "yes", False: "NO", None: "-"}
COLUMNS = ("what", "found", "should be", "is")


def screen(figures: Json, found: Sequence[Finding]) -> str:
    """All that was found, in one screen."""
    rows = [COLUMNS, *((each.name, each.found, each.wanted, MARKS[each.good]) for each in found)]
    widths = [min(48, max(len(row[i]) for row in rows)) for i in range(len(COLUMNS))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    table.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*_about(figures), "", *table, "", *_seconds(figures), *_left(figures), figures["verdict"]])


def _about(figures: Json) -> list[str]:
    device, system = figures["device"], figures["system"]
    free = figures["memory"]["before"]["vram_free"]
    return [
        f"ESD Concept Erasure {figures['pack']} in ComfyUI {system['host']}",
        f"  {device['name']}: {mb(device['vram_total'])}, {mb(free)} free, {mb(_least(figures))} at the least",
        f"  PyTorch {system['torch']}, Python {system['python']}, {system['platform']}",
        f"  arguments: {' '.join(system['arguments']) or 'none'}",
    ]


def _least(figures: Json) -> int:
    return int(figures["memory"]["least"]["vram_free"])


def _seconds(figures: Json) -> list[str]:
    parts = [
        f"{name} {run['seconds']} (loading and drawing too: {run['whole_seconds']})" for name, run in _timed(figures)
    ]
    cpu = [f"CPU {figures['cpu']['seconds']}"] if figures["cpu"] else []
    return ["Seconds: " + ", ".join([*parts, *cpu]) + f"; all in all {figures['seconds']:.0f}", ""]


def _timed(figures: Json) -> Iterable[tuple[str, Json]]:
    return [(name, run) for name, run in figures["runs"].items() if run.get("seconds") is not None]


def _left(figures: Json) -> list[str]:
    left = figures["left"]
    return [f"Left in ComfyUI's output folder, for you to remove: {', '.join(left)}", ""] if left else []


def fenced(text: str) -> str:
    """JSON as it can be pasted into an issue."""
    return f"\nPlease report it (with this block) at {ISSUES}\n\n```json\n{text}\n```"


ISSUES = "https://github.com/esd-concept-erasure/esd-concept-erasure/issues"


def as_text(figures: Json, folders: Iterable[Path]) -> str:
    """Return the figures as JSON without paths."""
    return json.dumps(_cleaned(figures, known_folders(folders)), indent=1)


def known_folders(folders: Iterable[Path]) -> list[str]:
    """Folders whose names are taken out whole, spaces and all, the longest first."""
    found = {form for folder in (*folders, Path.home()) for form in (str(folder), folder.as_posix())}
    return sorted((each for each in found if len(Path(each).parts) > 1), key=len, reverse=True)


def _cleaned(value: Any, folders: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {key: _cleaned(each, folders) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(each, folders) for each in value]
    return without_paths(value, folders) if isinstance(value, str) else value


_PATH = re.compile(r"""(?:[A-Za-z]:|~)?(?:[\\/]+[^\\/\s'",:;()<>|]+){2,}""")


def without_paths(words: str, folders: Sequence[str]) -> str:
    """Return the words with known folders as dots, and every other path cut down to its last two parts."""
    for folder in folders:
        words = words.replace(folder, "...")
    return _PATH.sub(lambda found: ".../" + "/".join(re.split(r"[\\/]+", found.group())[-2:]), words)


_PRIVATE = re.compile("director|path|config|url|file|listen|origin|header")
"""Options whose values are nobody else's business."""


def arguments_shown(argv: Sequence[str]) -> list[str]:
    """Return a command line with dots for what is personal: folders, files and addresses."""
    shown, last = [], ""
    for word in argv[1:]:
        is_option = word.startswith("--")
        option, equals, value = word.partition("=") if is_option else (last, "", word)
        private = _PRIVATE.search(option) or not re.fullmatch(r"[\w.,-]*", value)
        value = "..." if value and private else value
        shown.append(option + equals + value if is_option else value)
        last = option
    return shown
