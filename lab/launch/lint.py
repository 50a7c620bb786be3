"""`run.py lint`: ruff over everything, mypy over esd/, nodes/ and commands/."""

from __future__ import annotations

import os
import subprocess
import sys

from lab.paths import ROOT, RUN

TYPED = RUN / "typed"
LINKS = {"esd_pack": ROOT, "commands": ROOT / "commands"}
"""The pack under the name that it imports itself by, since a ComfyUI names it after its folder, and its commands."""


def main() -> int:
    """Run both tools and say what they find; 0 where they find nothing."""
    TYPED.mkdir(parents=True, exist_ok=True)
    for name, target in LINKS.items():
        (TYPED / name).unlink(missing_ok=True)
        (TYPED / name).symlink_to(target, target_is_directory=True)
    packages = os.pathsep.join(path for path in sys.path if path.endswith("packages"))
    environment = {**os.environ, "PYTHONPATH": packages}
    tools = (("ruff", "check", "--output-format", "concise"), ("ruff", "format", "--check", "--quiet"), ("mypy",))
    ends = [
        subprocess.run([sys.executable, "-m", *line], cwd=ROOT, env=environment, check=False).returncode
        for line in tools
    ]
    return max(ends)
