"""Erasing on this machine's device, in seconds and GB: `python run.py bench gpu`; see commands/gpu.py.

`COMFYUI_PATH` names the ComfyUI, whose PyTorch must be the one that knows the GPU; an installed pack is measured by
`python commands/gpu.py`, with the Python that starts ComfyUI.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from commands import gpu  # noqa: E402
from lab.paths import OWN_HOST  # noqa: E402

if __name__ == "__main__":
    os.environ.setdefault("COMFYUI_PATH", str(OWN_HOST))
    sys.exit(gpu.main(sys.argv[1:]))
