"""The host inside this Python process: for benches and tests that need its modules, not its server."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "esd_pack"


def as_package() -> None:
    """Make the pack importable as `esd_pack`, whatever its folder is called, without running its `__init__`."""
    if PACKAGE not in sys.modules:
        package = types.ModuleType(PACKAGE)
        package.__path__ = [str(ROOT)]
        sys.modules[PACKAGE] = package


def start(comfy: Path, base: Path, cpu: bool = True) -> None:
    """Prepare the host at `comfy` with its models and outputs below `base`; call it before importing from it.

    It computes on the CPU, or on the device that it would take by itself.  The host wants its own folder first on the
    path and as the working folder.
    """
    as_package()
    sys.path.insert(0, str(comfy))
    os.chdir(comfy)
    from comfy.cli_args import args

    args.cpu = cpu
    args.base_directory = str(base)
    import utils.extra_config  # noqa: F401  before `nodes`, whose import makes `utils` mean another module

    import nodes  # noqa: F401
