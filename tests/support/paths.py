"""Where the repository is, and the playground checkpoint in it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = "emoji-world.ckpt"
CHECKPOINT = ROOT / "workflows" / "models" / NAME
