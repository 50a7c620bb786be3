"""Where the repository is, the playground checkpoint in it, and what a process of its own needs to run tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = "emoji-world.ckpt"
CHECKPOINT = ROOT / "workflows" / "models" / NAME


def for_a_process() -> dict[str, str]:
    """Return the environment of a process on one thread, with the packages of tests where the host has a Python."""
    packages = os.pathsep.join(each for each in sys.path if each.endswith("test-packages"))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": packages}
