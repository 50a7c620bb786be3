"""What the tests tried and what came of it: `record(...)` in a test is one row of docs/robustness.json.

    from support.outcomes import record

    record("memory runs out in step 3", 40, "the error names the cure, the MODEL is as it was")
    record("damaged safetensors files", 900, {"opened": 200, "refused in one sentence": 700})

Each call leaves its row in .run/outcomes; `python tests/support/outcomes.py` brings docs/robustness.json up to date
(rows of tests that were not run since stay as they are), and tests/repo/test_robustness.py holds the file against the
tests that there are.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".run" / "outcomes"
LOG = ROOT / "docs" / "robustness.json"
DOUBTFUL = re.compile(r"\b(unknown|unclear|not sure|crash\w*|hang\w*|hung|todo|other error\w*)\b|\?", re.IGNORECASE)
"""Words of an outcome that nobody has understood yet."""


@dataclass(frozen=True)
class Row:
    """A row of the log; `test` is `tests/room/test_x.py::test_y`."""

    what: str
    times: str
    happened: str
    test: str


_written: set[str] = set()


def record(what: str, times: int, happened: str | Mapping[str, int]) -> None:
    """Keep a row of the running test: what was tried, how often, and what happened (words, or a count of each).

    Call it at the end of the test, once what happened is known; several calls are several rows.
    """
    if isinstance(happened, Mapping):
        assert sum(happened.values()) == times, f"{times} times, but {dict(happened)}"
        happened = ", ".join(f"{words}: {count:,}" for words, count in sorted(happened.items()) if count)
    row = Row(_cell(what), f"{times:,}", _cell(happened), _running().partition("[")[0])
    assert times > 0 and row.what and row.happened and not DOUBTFUL.search(row.happened), row
    file = KEPT / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', _running())[:150]}.json"
    earlier = json.loads(file.read_text("utf-8")) if str(file) in _written else []
    _written.add(str(file))
    KEPT.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([*earlier, vars(row)], indent=1), "utf-8")


def _running() -> str:
    """The test that runs now, `tests/room/test_x.py::test_y[parameters]`, as pytest tells it."""
    return os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def testing() -> dict[str, None]:
    """The tests that make rows, `tests/room/test_x.py::test_y` or with the class between, in the order of files."""
    return {name: None for path in sorted((ROOT / "tests").rglob("test_*.py")) for name in _callers(path)}


def _callers(path: Path) -> Iterator[str]:
    def inside(body: list[ast.stmt], start: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.ClassDef):
                yield from inside(node.body, f"{start}::{node.name}")
            elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                calls = [n.func for n in ast.walk(node) if isinstance(n, ast.Call)]
                if any(isinstance(c, ast.Name) and c.id == "record" for c in calls):
                    yield f"{start}::{node.name}"

    yield from inside(ast.parse(path.read_text("utf-8")).body, path.relative_to(ROOT).as_posix())


def in_docs() -> list[Row]:
    """Return the rows of docs/robustness.json."""
    return [Row(**row) for row in json.loads(LOG.read_text("utf-8"))]


def kept() -> list[Row]:
    """The rows that tests have left since .run was made."""
    return [Row(**row) for file in sorted(KEPT.glob("*.json")) for row in json.loads(file.read_text("utf-8"))]


def main() -> int:
    """Bring the log up to date."""
    new = kept()
    fresh = {row.test for row in new}
    order = list(testing())
    rows = [row for row in [*(row for row in in_docs() if row.test not in fresh), *new] if row.test in order]
    rows.sort(key=lambda row: order.index(row.test))
    LOG.write_text(json.dumps([vars(row) for row in rows], indent=1, ensure_ascii=False) + "\n", "utf-8")
    missing = [name for name in order if name not in {row.test for row in rows}]
    sys.stdout.write(f"{len(rows)} rows; not run yet: {', '.join(missing) or 'none'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
