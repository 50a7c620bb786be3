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
    "e2e",
    "host",
    "nodes",
    "reference/test_exact.py",
    "stress/test_other_plugins.py",
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
    """Return the tests of this list with what was given, or that alone where it names tests itself."""
    return given if named_tests(given) else [*(f"tests/{name}" for name in TESTS), *given]


def named_tests(given: list[str]) -> list[str]:
    """Return those of pytest's arguments that name files or folders."""
    return [each for each in given if (ROOT / each.partition("::")[0]).exists()]
