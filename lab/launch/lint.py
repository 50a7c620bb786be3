"""`run.py lint`: ruff over everything, mypy over esd/ and nodes/."""

from __future__ import annotations

import os
import subprocess
import sys

from lab.paths import ROOT, RUN

TYPED = RUN / "typed" / "esd_pack"
"""The pack under the name that it imports itself by: a ComfyUI names it after its folder."""


def main() -> int:
    """Run both tools and say what they find; 0 where they find nothing."""
    TYPED.parent.mkdir(parents=True, exist_ok=True)
    TYPED.unlink(missing_ok=True)
    TYPED.symlink_to(ROOT, target_is_directory=True)
    packages = os.pathsep.join(path for path in sys.path if path.endswith("packages"))
    environment = {**os.environ, "PYTHONPATH": packages}
    tools = (("ruff", "check", "--output-format", "concise"), ("ruff", "format", "--check", "--quiet"), ("mypy",))
    ends = [
        subprocess.run([sys.executable, "-m", *line], cwd=ROOT, env=environment, check=False).returncode
        for line in tools
    ]
    return max(ends)
