"""A real server whose GPU is the second device, with its memory counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.launch.server import Server

from .paths import ROOT

ATTACHED = f"""
import sys
sys.path.append({str(ROOT / "tests" / "support" / "second_device")!r})
import comfy.model_management
import second_device
gpu = second_device.attach(comfy.model_management)
gpu.fp16 = gpu.bf16 = False
comfy.model_management.get_torch_device_name = str
"""
"""Before the host's own start; half precision takes minutes."""


@contextmanager
def gpu_server(comfy_path: Path, base: Path) -> Iterator[Server]:
    """Start it in a base folder of its own, ready to be asked."""
    extension = base / "custom_nodes" / "second_device"
    extension.mkdir(parents=True)
    (extension / "prestartup_script.py").write_text(ATTACHED, encoding="utf-8")
    (extension / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n", encoding="utf-8")
    with Server(comfy_path, base, arguments=["--cpu", "--use-pytorch-cross-attention"]) as server:
        yield server.wait()
