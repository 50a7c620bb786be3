"""Make torchvision and torchaudio from the package index import beside a CPU-only torch ("2.13.0+cpu").

Runs with the environment's own Python after the installation, and may run again; with other builds it does nothing.
torchvision: its native library wants CUDA and is skipped without an error, but then `_meta_registrations` names
torchvision::nms, whose schema only that library declares: declaring two schemas is all that is missing.
torchaudio: a native library that cannot be loaded is fatal, one that is absent is normal: the files are removed.
"""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

SHIM = """

# added by fix_cpu_wheels.py: the native library cannot be loaded beside a CPU torch
if not _has_ops():
    _schemas = torch.library.Library("torchvision", "FRAGMENT")
    _schemas.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _schemas.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def folder(package: str) -> Path:
    """Where a package is installed, found without importing it."""
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def needs_fix(package: str) -> bool:
    """Whether torch is a CPU build and the package is not."""
    return version("torch").endswith("+cpu") and not version(package).endswith("+cpu")


def fix_torchvision() -> None:
    """Append the two schemas; the file may be hard-linked to uv's cache, so it is replaced, not written through."""
    path = folder("torchvision") / "extension.py"
    text = path.read_text(encoding="utf-8")
    if "fix_cpu_wheels" not in text:
        path.unlink()
        path.write_text(text + SHIM, encoding="utf-8")


def fix_torchaudio() -> None:
    """Remove the native libraries that cannot be loaded."""
    for library in (folder("torchaudio") / "lib").glob("*.so"):
        library.unlink()


def check() -> None:
    """Run one operation of each package."""
    import torch
    import torchaudio
    import torchvision

    assert torchvision.transforms.functional.resize(torch.zeros(1, 1, 8, 8), [4, 4]).shape[-1] == 4
    assert torchaudio.functional.resample(torch.zeros(1, 160), 16000, 8000).shape[-1] == 80


if __name__ == "__main__":
    if needs_fix("torchvision"):
        fix_torchvision()
    if needs_fix("torchaudio"):
        fix_torchaudio()
    check()
