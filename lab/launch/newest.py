"""`run.py test --host newest`: the tests that meet the host, on a newer ComfyUI than the one that `run.py` fetches."""

from __future__ import annotations

from collections.abc import MutableMapping

from lab.paths import ROOT

FOLDER, PYTHON = "ESD_NEWEST_COMFYUI", "ESD_NEWEST_PYTHON"
SKIPPED = (
    f"The newest host is skipped: name a newer ComfyUI's folder in {FOLDER}, and in {PYTHON} the Python that starts it"
    " where that is not found by itself."
)
TESTS = (
    "test_server.py",
    "test_page.py",
    "test_live_page.py",
    "test_live_panels.py",
    "test_workflows.py",
    "test_other_plugins.py",
    "test_interchange.py",
    "test_caches.py",
    "test_families.py",
    "test_exact.py",
    "test_dynamic_vram.py",
    "test_second_device.py",
    "test_node_inputs.py",
    "test_nodes.py",
)


def choose(variables: MutableMapping[str, str]) -> bool:
    """Let the variables that name a user's ComfyUI name the newest one; False where there is none."""
    if not variables.get(FOLDER):
        return False
    variables["COMFYUI_PATH"] = variables[FOLDER]
    variables.pop("COMFYUI_PYTHON", None)
    if variables.get(PYTHON):
        variables["COMFYUI_PYTHON"] = variables[PYTHON]
    return True


def pytest_arguments(given: list[str]) -> list[str]:
    """The tests of this list and what was given, or this alone where it names tests itself."""
    named = any((ROOT / each.partition("::")[0]).exists() for each in given)
    return given if named else [*(f"tests/{name}" for name in TESTS), *given]
