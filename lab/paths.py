"""Where the repository is, and what is made in it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / ".run"
OWN_HOST = RUN / "ComfyUI"
