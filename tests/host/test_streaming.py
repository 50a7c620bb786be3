"""Blocks that visit the device: which ones, said how; and, on the second device, equal bits, two at a time, no race."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from support.paths import ROOT, for_a_process

COUNT = 6


@pytest.mark.full
def test_on_the_second_device() -> None:
    """In a process of its own, since autograd knows only devices that were there at its first backward."""
    cases = ROOT / "tests" / "support" / "second_device" / "streaming_cases.py"
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)]
    ended = subprocess.run(
        line, cwd=ROOT, env=for_a_process(), capture_output=True, text=True, timeout=900, check=False
    )
    assert ended.returncode == 0 and "8 passed" in ended.stdout, ended.stdout[-3000:] + ended.stderr[-3000:]


class Block(nn.Module):
    """A layer."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(2, 2)


class Network(nn.Module):
    """Blocks in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(COUNT))


def offload(sizes: dict[str, int], others: int, free: int) -> Any:
    from esd_pack.nodes.host.model.offload import plan_offload

    host = SimpleNamespace(network=Network(), family=SimpleNamespace(backward=SimpleNamespace(blocks=("Block",))))
    return plan_offload(host, sizes, others, free)


def test_as_few_blocks_as_are_needed_visit_and_stand_apart(comfy: Any) -> None:
    sizes = {f"blocks.{index}.up.weight": 100 for index in range(COUNT)} | {"first.weight": 50}
    found = offload(sizes, 100, 100 + 650 - 100)
    assert found.streamed == ("blocks.0", "blocks.2", "blocks.4") and found.kept == 50 + 3 * 100 + 2 * 100
    assert (found.blocks, found.model) == (COUNT, 650)
    assert len(offload(sizes, 100, 100 + 450).streamed) == 4
    assert len(offload(sizes, 100, 10).streamed) == COUNT, "what does not fit then is refused"


def test_weights_that_the_model_has_on_the_device_do_not_visit(comfy: Any) -> None:
    """As where the host never takes them off it."""
    sizes = {f"blocks.{index}.up.weight": 0 for index in range(COUNT)}
    assert offload(sizes, 100, 10).streamed == ()


def test_the_plan_is_said_in_words(comfy: Any) -> None:
    from esd_pack.nodes.host.model.offload import Offload

    plan = Offload(("a", "b", "c"), 30, int(12.3 * 2**30), 0, int(9.6 * 2**30))
    assert str(plan) == "12.30 GB model, 9.60 GB free: 3 of 30 blocks will be streamed"
    assert str(Offload()) == ""
