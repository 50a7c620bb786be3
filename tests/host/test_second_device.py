"""Erase on a GPU, in every state of the host's memory manager: the CPU's bits, nothing left behind.

There is no GPU here: `second_device/` makes a second device of ordinary memory and tells the host that it is its GPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support.paths import ROOT, for_a_process

sys.path.append(str(ROOT / "tests" / "support" / "second_device"))
from states import ALLOWED_TO_DIFFER, FORETOLD, RESIDENCY, STATES  # noqa: E402

pytestmark = pytest.mark.full

SECONDS = 7200
SCRIPT = ROOT / "tests" / "support" / "second_device" / "states.py"
DOCUMENT = ROOT / "docs" / "devices.md"


def arm(name: str, host: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """All states in a process of its own, since a host takes its device once, on a thread of its own."""
    out = folder / f"{name}.json"
    line = [sys.executable, str(SCRIPT), name, str(host), str(out)]
    ended = subprocess.run(line, env=for_a_process(), capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found: dict[str, dict[str, Any]] = json.loads(out.read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def arms(comfy_path, tmp_path_factory):
    """The results of an arm; all that this host has run side by side."""
    names = ("cpu", "device", "dynamic") if has_dynamic_vram(comfy_path) else ("cpu", "device")
    with ThreadPoolExecutor() as pool:
        begun = {name: pool.submit(arm, name, comfy_path, tmp_path_factory.mktemp("arms")) for name in names}
        yield lambda name: begun[name].result()


def has_dynamic_vram(host: Path) -> bool:
    """Whether the host knows DynamicVRAM."""
    return (host / "comfy" / "memory_management.py").is_file()


def check(cpu: dict[str, Any], device: dict[str, Any], name: str) -> None:
    """What must hold after a state."""
    assert "error" not in cpu and "error" not in device, (cpu.get("error"), device.get("error"))
    assert device["left"] == 0, "something of ours is still on the device"
    assert not device["changed"], "the host's own weights have changed"
    assert device["model drawn"] == cpu["model drawn"], "the MODEL draws another picture"
    assert device["digest"] == cpu["digest"] or name in ALLOWED_TO_DIFFER


@pytest.mark.parametrize("name", STATES)
def test_on_the_device_as_on_the_cpu(arms, name):
    check(arms("cpu")[name], arms("device")[name], name)


@pytest.mark.parametrize("name", FORETOLD)
def test_the_peak_is_as_foretold(arms, name):
    row = arms("device")[name]
    assert 0.85 <= row["peak"] / row["foretold"] <= 1.15, (row["peak"] >> 20, row["foretold"] >> 20)


@pytest.mark.parametrize("residency", RESIDENCY)
@pytest.mark.parametrize("name", STATES)
def test_under_dynamic_vram_as_on_the_cpu(arms, comfy_path, residency, name):
    if not has_dynamic_vram(comfy_path):
        pytest.skip("this host has no DynamicVRAM")
    check(arms("cpu")[name], arms("dynamic")[f"{residency}: {name}"], name)


def test_every_state_is_a_row_of_the_document():
    text = DOCUMENT.read_text("utf-8")
    assert [name for name in STATES if f"| {name} |" not in text] == []
