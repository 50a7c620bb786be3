"""Small batches on the playground: their files, how they are started, and what they leave."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from commands.playground import world

from .paths import NAME, ROOT

SETTINGS = {
    **{"steps": 6, "width": 64, "height": 64, "num_inference_steps": 4, "samples_per_trajectory": 2},
    **{
        "trajectory_batch": 2,
        "buffer_size": 4,
        "stop": "after all steps",
        "contexts": "own words",
        "closed_form": False,
    },
}
DRAWING = {"judge": "playground", "kept": ["tiger"], "samples": 1, "steps": 2, "cfg": 3, "in_model": False}
DRAWING |= {"sampler_name": "ddim", "scheduler": "ddim_uniform", "width": 64, "height": 64}
BAD = "no such thing"
"""A concept that the playground's judge does not know: its job fails in its evaluation."""


def jobs_file(folder: Path, concepts: list[str], **more: Any) -> Path:
    """Write a file of small jobs."""
    import yaml

    made = {"name": "small", "models": [NAME], "concepts": concepts, "settings": SETTINGS, "evaluate": DRAWING}
    path = folder / "jobs.yaml"
    path.write_text(yaml.safe_dump({**made, **more}), encoding="utf-8")
    return path


def objects(count: int) -> list[str]:
    """So many things that the playground draws."""
    return [name for name in world.OBJECTS if name != "tiger"][:count]


def start(*words: object, **variables: str) -> subprocess.Popen[str]:
    """Start a batch that brings its own hosts, as `run.py batch` does."""
    line = [sys.executable, str(ROOT / "lab" / "launch" / "__main__.py"), "batch", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def at(host: Any, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a batch as users of an installed pack do, on a host that runs."""
    line = [sys.executable, str(ROOT / "commands" / "batch"), *map(str, words), "--url", host.url]
    line += ["--output", str(host.base / "output")]
    return subprocess.run(line, capture_output=True, text=True, timeout=3000, cwd=Path.home(), check=False)


def done(results: Path) -> dict[str, int]:
    """The jobs that are done, and when each was put there."""
    return {path.parent.name: path.stat().st_mtime_ns for path in results.glob("jobs/*/job.json")}


PICTURE, OTHERS = "picture.png", ("job.json", "picture.png")


def contents(results: Path) -> dict[str, str]:
    """The bits of everything that jobs made, but for their records, which hold seconds, and their pictures."""
    files = [path for path in results.glob("jobs/*/*") if path.is_file() and path.name not in OTHERS]
    return {path.relative_to(results).as_posix(): hashlib.sha256(_bits(path)).hexdigest() for path in files}


def look_alike(results: Path, others: Path) -> bool:
    """Whether the pictures of two batches differ nowhere by more than a level of 255.

    A picture's sums are in another order where others were drawn beside it; a job of which another one has drawn some
    pictures before draws the rest alone.
    """
    places = [
        sorted(path.relative_to(place) for path in place.glob(f"jobs/*/{PICTURE}")) for place in (results, others)
    ]
    pairs = [[np.asarray(Image.open(place / path)).astype(int) for place in (results, others)] for path in places[0]]
    return places[0] == places[1] and all(np.abs(one - other).max() <= 1 for one, other in pairs)


def _bits(path: Path) -> bytes:
    """A file's bytes; of an evaluation without the time it took, of a safetensors file its metadata in one order."""
    data = path.read_bytes()
    if path.name == "evaluation.json":
        return json.dumps(json.loads(data) | {"seconds": None}).encode()
    if path.suffix != ".safetensors":
        return data
    end = 8 + int.from_bytes(data[:8], "little")
    return json.dumps(json.loads(data[8:end]), sort_keys=True).encode() + data[end:]


def until(condition: Callable[[], bool], running: subprocess.Popen[str], seconds: float = 1200) -> None:
    """Wait for something while a batch runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert running.poll() is None, running.stdout and running.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.2)
