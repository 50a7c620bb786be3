"""Resident memory of a server after each of many runs: `python run.py bench memory --json lab/bench/memory.json`.

Each run is a small graph with a seed of its own: load, erase with previews and snapshots, save the erasure, and draw
with the erased MODEL.  The first runs warm up what stays for good (torch's and the host's own caches, the allocator's
arenas); from there on memory must stay where it is.  `--plot FILE` draws the curve.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from _playground_run import STARTED_IN, write_json

from commands.graph import new_node
from lab.launch.base import CHECKPOINT
from lab.launch.server import Server
from lab.launch.workflow import set_input
from lab.paths import OWN_HOST

WARM = 5
"""Runs that may still grow."""


def short_graph(server: Server) -> dict[str, Any]:
    """Load; erase in few and small steps with previews and snapshots; save the erasure; draw with the erased MODEL."""
    info = server.get("/object_info")
    few = {
        "num_inference_steps": 4,
        "samples_per_trajectory": 2,
        "trajectory_batch": 2,
        "buffer_size": 4,
        "width": 64,
        "height": 64,
        "closed_form": False,
    }
    watched = {"steps": 4, "preview_every": 4, "snapshot_every": 2, "start": "start over", "stop": "after all steps"}
    links = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "concepts": ["2", 0], "settings": ["3", 0]}
    drawn = {"steps": 1, "positive": ["6", 0], "negative": ["6", 0], "latent_image": ["7", 0]}
    return {
        "1": new_node(info, "ESDLoadModel", ckpt_name=CHECKPOINT),
        "2": new_node(info, "ESDConcept", concept="cat"),
        "3": new_node(info, "ESDEraseSettings", **few),
        "4": new_node(info, "ESDErase", **links, **watched),
        "5": new_node(info, "ESDSaveErasure", weights=["4", 1]),
        "6": new_node(info, "CLIPTextEncode", clip=["1", 1], text="cat"),
        "7": new_node(info, "EmptyLatentImage", width=64, height=64),
        "8": new_node(info, "KSampler", model=["4", 0], **drawn),
        "9": new_node(info, "VAEDecode", samples=["8", 0], vae=["1", 2]),
        "10": new_node(info, "PreviewImage", images=["9", 0]),
    }


def measured(server: Server, runs: int, first_seed: int = 0) -> Iterator[dict[str, Any]]:
    """Queue that many runs, and tell the server's resident memory after each."""
    prompt, process = short_graph(server), psutil.Process(server.process.pid)
    for number in range(runs):
        start = time.perf_counter()
        set_input(prompt, "ESDErase", "seed", first_seed + number)
        server.run(prompt)
        yield {
            "run": number + 1,
            "resident_bytes": process.memory_info().rss,
            "seconds": round(time.perf_counter() - start, 2),
        }


def growth(rows: Sequence[dict[str, Any]], warm: int = WARM) -> float:
    """How much more memory there is after the last run than after the warm-up: 0.05 is 5 %."""
    held = [row["resident_bytes"] for row in rows]
    return float(held[-1] / held[warm - 1] - 1)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The curve as an SVG: memory in MB from 0 up against the run."""
    width, height, left, bottom = 640, 260, 56, 36
    most = max(row["resident_bytes"] for row in rows) / 2**20
    top = -(-most // 250) * 250

    def at(run: float, mega: float) -> tuple[float, float]:
        across = (run - 1) / max(len(rows) - 1, 1)
        return left + across * (width - left - 14), (height - bottom) - mega / top * (height - bottom - 14)

    ticks = [(f"{mega:.0f}", *at(1, mega)) for mega in range(0, int(top) + 1, 250)]
    lines = [f'<path d="M{x:.1f} {y:.1f}H{width - 14}" stroke="#8884"/>' for _, x, y in ticks]
    texts = [f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{words}</text>' for words, _, y in ticks]
    for run in (1, *range(10, len(rows) + 1, 10)):
        texts.append(f'<text x="{at(run, 0)[0]:.1f}" y="{height - 20}" text-anchor="middle">{run}</text>')
    texts.append(f'<text x="{width / 2}" y="{height - 4}" text-anchor="middle">run</text>')
    texts.append(f'<text x="4" y="{height - bottom + 18}">MB</text>')
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(r["run"], r["resident_bytes"] / 2**20) for r in rows))
    curve = f'<polyline points="{points}" fill="none" stroke="#2a78d6" stroke-width="2"/>'
    style = "text{font:12px sans-serif;fill:#777}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    title = f"<title>Resident memory of the server after each of {len(rows)} runs</title>"
    path.write_text("\n".join([head, title, f"<style>{style}</style>", *lines, *texts, curve, "</svg>", ""]), "utf-8")


def main() -> None:
    """Measure, and say how much the last run holds more than the warm-up's last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE", help="an SVG of the curve")
    options = parser.parse_args()
    host = Path(os.environ.get("COMFYUI_PATH") or OWN_HOST).resolve()
    rows = []
    with tempfile.TemporaryDirectory() as base, Server(host, Path(base), arguments=["--cpu"]) as server:
        server.wait()
        for row in measured(server, options.runs):
            rows.append(row)
            print(f"| {row['run']} | {row['resident_bytes'] / 2**20:.0f} MB | {row['seconds']:.1f} s |", flush=True)
            write_json(options.json, rows)
    print(f"{growth(rows, min(WARM, len(rows))):+.1%} after the run {min(WARM, len(rows))}")
    if options.plot:
        plot(rows, STARTED_IN / options.plot)


if __name__ == "__main__":
    main()
