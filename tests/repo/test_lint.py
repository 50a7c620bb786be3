"""The linter and the type checker have nothing to say, of the settings in pyproject.toml."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(tool: str, *arguments: str) -> None:
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed")
    line = [sys.executable, "-m", tool, *arguments]
    paths = os.pathsep.join(path for path in sys.path if path.endswith("packages"))
    found = subprocess.run(
        line, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_ruff_has_nothing_to_say():
    run("ruff", "check", "--output-format", "concise")


def test_mypy_has_nothing_to_say():
    """Strictly, over esd/ and nodes/ as one package, so that what nodes/ takes from esd/ is checked as well."""
    link = ROOT / ".run" / "typed" / "esd_pack"
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(ROOT, target_is_directory=True)
    except OSError:
        pytest.skip("this system makes no links without leave")
    run("mypy")
