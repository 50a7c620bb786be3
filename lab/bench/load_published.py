"""A published full UNet (SD1.x, fp32 pickle of 3.44 GB, random numbers): seconds and memory of opening it.

`python lab/bench/load_published.py [--json FILE]` prints a table: a plain read of the file, Load Erasure's reader
against a base in memory, and the writers that stream.  "cold" has the file dropped from the system's cache first.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from _playground_run import write_json  # noqa: E402

from commands.inprocess import as_package  # noqa: E402
from lab.paths import RUN  # noqa: E402

as_package()

from esd_pack.esd.files.safetensors_write import write_stream  # noqa: E402
from esd_pack.esd.formats.diffusers import UnetShape, config, write_unet  # noqa: E402
from esd_pack.esd.formats.load import Base, load_erasure  # noqa: E402
from esd_pack.esd.formats.network import Network  # noqa: E402
from esd_pack.esd.formats.official import official_tensors  # noqa: E402

SD15 = UnetShape(4, 4, (320, 640, 1280, 1280), (2, 2, 2, 2), (1, 1, 1, 0), 1, (0, 1, 1, 1), 768, False, 8, 0)
CHUNK = 16 * 2**20


@dataclass(frozen=True)
class Row:
    """One measurement: seconds, and the most bytes beyond the start: allocated, and with mapped pages of files."""

    what: str
    seconds: float
    allocated: int
    resident: int


class Memory:
    """The most this process holds while the block runs (Linux; zeros elsewhere)."""

    def __enter__(self) -> Memory:
        gc.collect()
        self.start = self.most = self.now()
        self.running = True
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.running = False
        self.thread.join()

    def watch(self) -> None:
        """Look every few milliseconds."""
        while self.running:
            self.most = tuple(map(max, self.most, self.now()))
            time.sleep(0.005)

    @staticmethod
    def now() -> tuple[int, ...]:
        """Bytes allocated, and bytes resident."""
        try:
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        except OSError:
            return (0, 0)
        found = {
            line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "VmRSS"))
        }
        return (found["RssAnon"], found["VmRSS"])


def measure(what: str, work: Callable[[], Any], cold: Path | None = None) -> Row:
    """Run it once; `cold` names a file to drop from the system's cache first."""
    if cold is not None:
        _forget(cold)
    with Memory() as memory:
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
    allocated, resident = (most - first for most, first in zip(memory.most, memory.start, strict=True))
    return Row(what, seconds, allocated, resident)


def _forget(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def random_network() -> dict[str, torch.Tensor]:
    """SD1.x's 686 tensors of the UNet by diffusers name, of random numbers."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config(SD15))
    torch.manual_seed(0)
    return {name: torch.randn(t.shape).mul_(0.03) for name, t in unet.named_parameters()}


def published(weights: dict[str, torch.Tensor], path: Path) -> Path:
    """The file of the project site: the whole UNet, fp32, its text attention trained."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({n: t + 0.001 * torch.randn(t.shape) if "attn2.to" in n else t for n, t in weights.items()}, path)
    return path


def read_plainly(path: Path) -> None:
    """Every byte, into one buffer."""
    buffer = bytearray(CHUNK)
    with path.open("rb") as file:
        while file.readinto(buffer):
            pass


def rows(folder: Path) -> list[Row]:
    """All measurements."""
    weights = random_network()
    path = published(weights, folder / "diffusers-Random-ESDx1-UNET.pt")
    network = Network(
        "SD1.x", {n: tuple(t.shape) for n, t in weights.items()}, weights.__getitem__, {n: n for n in weights}
    )
    made: dict[str, Any] = {}

    def load() -> None:
        made["found"] = load_erasure(path, Base(network))

    found = [measure("plain read, cold", lambda: read_plainly(path), path)]
    found.append(measure("plain read, cached", lambda: read_plainly(path)))
    found.append(measure("Load Erasure, cold", load, path))
    made.clear()
    found.append(measure("Load Erasure, cached", load))
    erased = made["found"].weights
    target = folder / "unet"
    target.mkdir(exist_ok=True)
    found.append(measure("write diffusers unet", lambda: write_unet(target, erased, network, SD15)))
    tensors = official_tensors(erased, network)
    found.append(measure("write official", lambda: write_stream(target / "official.safetensors", tensors, {})))
    return found


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    given = parser.parse_args()
    folder = RUN / "load_published"
    try:
        with torch.no_grad():
            found = rows(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{'':34}{'seconds':>9}{'allocated':>12}{'with mapped':>13}")
    for row in found:
        print(f"{row.what:34}{row.seconds:9.2f}{row.allocated / 1e9:9.2f} GB{row.resident / 1e9:10.2f} GB")
    write_json(given.json, [asdict(row) for row in found])


if __name__ == "__main__":
    main()
