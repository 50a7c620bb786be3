"""Which blocks of a network visit the device where it has no room for all of them: planned before a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from .backward import block_paths
from .host_model import HostModel
from .loaded import unload
from .memory import MARGIN, MemoryEstimate, copied_bytes, gb, with_room
from .weights import is_within

VISITING = 2
"""Blocks that are on the device at a time beside those that stay: the one that computes, and the next."""

SHARED_MEMORY = ("cpu", "mps")
"""Devices whose memory is the CPU's: nothing is gained there by moving weights."""


@dataclass(frozen=True)
class Offload:
    """Paths of the blocks that visit the device, how many blocks there are, and bytes.

    `model` is all weights that a run would have copied to the device, `kept` those that stay there and the room of
    visitors, `free` what there is.
    """

    streamed: tuple[str, ...] = ()
    blocks: int = 0
    model: int = 0
    kept: int = 0
    free: int = 0

    def __str__(self) -> str:
        """For the node and the log; empty where no block visits."""
        if not self.streamed:
            return ""
        have = f"{gb(self.model)} model, {gb(self.free)} free"
        return f"{have}: {len(self.streamed)} of {self.blocks} blocks will be streamed"


def with_streaming(
    need: MemoryEstimate, host: HostModel, device: torch.device, dtype: torch.dtype
) -> tuple[MemoryEstimate, int, Offload]:
    """Take the MODEL itself off the device, and plan which of its blocks visit it in turn; returns as `with_room`."""
    unload(host.patcher)
    need, free = with_room(need, host, device, dtype)
    found = plan_offload(host, copied_bytes(host, device, dtype), MARGIN * (need.student + need.activations), free)
    return (replace(need, copies=found.kept) if found.streamed else need), free, found


def plan_offload(host: HostModel, copied: Mapping[str, int], others: float, free: int) -> Offload:
    """Return the fewest blocks, evenly spread, whose streaming lets the network fit beside `others` bytes.

    Between two of them one that stays computes while the next is copied.  Where even all are too few, all are taken.
    """
    paths = block_paths(host.network, host.family.backward.blocks)
    sizes = {path: sum(size for name, size in copied.items() if is_within(name, (path,))) for path in paths}
    movable = [path for path in paths if sizes[path]]
    total, found = sum(copied.values()), Offload()
    for count in range(VISITING + 1, len(movable) + 1):
        streamed = tuple(movable[i * len(movable) // count] for i in range(count))
        bytes_of = [sizes[path] for path in streamed]
        kept = total - sum(bytes_of) + VISITING * max(bytes_of)
        found = Offload(streamed, len(paths), total, kept, free)
        if kept + others <= free:
            break
    return found


def has_memory_of_its_own(device: torch.device) -> bool:
    """Whether weights in the CPU's memory take nothing of the device's."""
    return device.type not in SHARED_MEMORY
