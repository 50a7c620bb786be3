"""What the check's figures mean: each with what it should be (standard library only)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

EXACT, UNROUNDED = "float32", ("float32", "float16")
"""A run in fp32 is exact where the host's MODEL has the file's own weights: they are fp16, and bfloat16 rounds them."""

LEAST_COSINE = {True: 0.99, False: 0.8}
"""By whether the run is exact. There only the order of sums differs, and what a device rounds by itself
(TF32). Half precision turns the signs of small gradients, of each of which Adam makes a whole step: bfloat16 that is
simulated on a CPU gives 0.91, while the same run from another seed gives 0.63."""

LENGTH_OFF = {True: 0.03, False: 0.2}
"""How much longer or shorter the change may be; simulated bfloat16 makes it 4 % shorter."""

KNOWN, GONE, KEPT = 0.75, 0.25, 0.85
"""Shares of pictures: "cat" found at least so often before and at most so often after, the others at least so often in
both. On a CPU in fp32 these are 1, 0 and 1."""

WORKSPACE = 256 * 2**20
"""Bytes that a device's libraries take for themselves, which no estimate of a small model holds."""


@dataclass(frozen=True)
class Finding:
    """A figure, what it should be, and whether it is; None where it cannot be said."""

    name: str
    found: str
    wanted: str
    good: bool | None


def findings(figures: Json) -> list[Finding]:
    """All that can be judged of the figures of a check."""
    return [
        *(Finding(where, words["words"], "no error", False) for where, words in figures["errors"].items()),
        *_same_pack(figures),
        *(each for name, run in figures["runs"].items() for each in _run(name, run, figures["device"])),
        *_judged(figures.get("judged")),
    ]


def _same_pack(figures: Json) -> Iterator[Finding]:
    for name, pair in figures["same"].items():
        here, there = pair["here"], pair["server"]
        yield Finding(f"{name} in ComfyUI", there[:12], here[:12], here == there)


def _run(name: str, run: Json, device: Json) -> Iterator[Finding]:
    kind = str(run["device"]).partition(":")[0]
    yield Finding(f"{name}: trained on", f"{run['device']}, {run['precision']}", device["type"], kind == device["type"])
    if "cosine" in run:
        exact = run["precision"] == EXACT and run["stored"] in UNROUNDED
        yield _cosine(name, run["cosine"], LEAST_COSINE[exact])
        yield _length(name, run["length"], LENGTH_OFF[exact])
    yield _memory(name, run["memory_foretold"], run["memory_peak"])


def _cosine(name: str, cosine: float | None, least: float) -> Finding:
    return Finding(
        f"{name}: cosine with the CPU's", _number(cosine, ".5f"), f"{least:g} or more", (cosine or 0) >= least
    )


def _length(name: str, length: float | None, off: float) -> Finding:
    good = length is not None and abs(length - 1) <= off
    return Finding(f"{name}: length beside the CPU's", _number(length, ".4f"), f"{1 - off:g} to {1 + off:g}", good)


def _number(value: float | None, form: str) -> str:
    return "not a number" if value is None else format(value, form)


def _memory(name: str, foretold: int | None, peak: int | None) -> Finding:
    if not foretold or peak is None:
        return Finding(f"{name}: memory", "not counted on this device", "", None)
    most = int(1.1 * foretold) + WORKSPACE
    return Finding(f"{name}: memory", f"{mb(peak)} of {mb(foretold)} foretold", f"below {mb(most)}", 0 < peak <= most)


def _judged(judged: Json | None) -> Iterator[Finding]:
    if judged is None:
        return
    erased, kept = judged["erased"], judged["kept"]
    most, least = math.floor(GONE * erased["of"]), math.ceil(KNOWN * erased["of"])
    others = math.ceil(KEPT * kept["of"])
    good = erased["after"] <= most and erased["before"] >= least
    yield Finding('"cat" found, before > after', _counts(erased), f"{least} or more > {most} or fewer", good)
    good = min(kept["before"], kept["after"]) >= others
    yield Finding("others found, before > after", _counts(kept), f"{others} or more in both", good)


def _counts(count: Json) -> str:
    return f"{count['before']} > {count['after']} of {count['of']}"


def mb(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**20:.0f} MB"


def verdict(found: list[Finding], device: Json) -> tuple[bool, str]:
    """Whether all is as it should be, in a sentence too."""
    wrong = [each.name for each in found if each.good is False]
    if wrong:
        return False, "Not as it should be: " + "; ".join(wrong) + "."
    if device["type"] == "cpu":
        return (
            True,
            "Everything is as it should be, on the CPU: this ComfyUI uses no GPU, so nothing is said about one.",
        )
    return True, "Everything is as it should be."
