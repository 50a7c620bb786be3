"""Time, passes and memory of a training point, beside the published procedure: `python run.py bench speed`.

Every arm runs in a process of its own, the arms in turn, and medians of the repeats are printed.  Arms: `published`
(diffusers), `ours-published` (the same procedure in our code), `ours-default`.  A backward counts as two passes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from _playground_run import write_json

ARMS = ("published", "ours-published", "ours-default")
FIGURES = (
    "passes_per_point",
    "seconds_per_point",
    "seconds_per_pass",
    "seconds_to_erased",
    "points_to_erased",
    "peak_bytes_above_model",
    "peak_bytes_of_process",
    "outside_network",
)
PASSED_ON = ("points", "latent", "method", "optimizer", "num_inference_steps", "trajectory_batch")
HEADER = "| model | arm | passes a point | s a point | s a pass | s to erased | peak GB above model | outside network |"


def one(model: str, arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One run of one arm in a fresh process."""
    command = [sys.executable, str(Path(__file__).with_name("_speed_arm.py")), model, arm, "--seed", str(seed)]
    for name in PASSED_ON:
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    command += ["--erased"] * options.erased + ["--gradient-checkpointing"] * options.gradient_checkpointing
    command += ["--peak"] * options.peak
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{model}, {arm} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The runs of an arm as one row: the medians, and every run's figures.

    A run that never got there counts as longer than all others, so that it cannot make the median look better.
    """
    row = {name: value for name, value in runs[0].items() if name != "seed"}
    for name in FIGURES:
        values = [run[name] if run.get(name) is not None else float("inf") for run in runs]
        middle = statistics.median(values)
        row[name] = None if middle == float("inf") else middle
    return row | {"repeats": len(runs), "runs": [{name: run.get(name) for name in FIGURES} for run in runs]}


def show(row: dict[str, Any]) -> str:
    """One line of the table."""
    erased = row["seconds_to_erased"]
    cells = (
        row["model"],
        row["arm"],
        f"{row['passes_per_point']:.1f}",
        f"{row['seconds_per_point']:.2f}",
        f"{row['seconds_per_pass']:.3f}",
        "" if erased is None else f"{erased:.0f} ({row['points_to_erased']:.0f} points)",
        f"{row['peak_bytes_above_model'] / 2**30:.2f}",
        f"{row['outside_network']:.1%}",
    )
    return "| " + " | ".join(cells) + " |"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--models", nargs="+", default=["playground"], choices=["playground", "sd15", "sdxl"])
    made.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    made.add_argument("--repeats", type=int, default=3, help="runs of each arm, each with a seed of its own")
    made.add_argument("--points", type=int, default=0, help="training examples a run (0: 20, few on large models)")
    made.add_argument("--latent", type=int, default=0, help="side of the latent (0: the model's own)")
    made.add_argument("--num-inference-steps", type=int, default=0, help="steps of a trajectory (0: the arm's own 50)")
    made.add_argument("--trajectory-batch", type=int, default=0, help="trajectories at a time (0: the arm's own)")
    made.add_argument("--method", default="esd-x")
    made.add_argument("--optimizer", default="adamw", help="of our arms")
    made.add_argument("--erased", action="store_true", help="train on until the judge finds the concept gone")
    made.add_argument("--gradient-checkpointing", action="store_true", help="our arms with gradient checkpointing")
    made.add_argument("--peak", action="store_true", help="only what the memory's peak needs: one batch of short walks")
    made.add_argument("--json", metavar="FILE")
    return made


def main() -> None:
    """Run the arms of the models asked for, in turn."""
    options, rows = parser().parse_args(), []
    print(HEADER + "\n" + "|---" * HEADER.count(" | ") + "|---|")
    for model in options.models:
        runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in options.arms}
        for seed in range(options.repeats):
            for arm in options.arms:
                runs[arm].append(one(model, arm, seed, options))
                print(f"run {seed + 1}: {show(runs[arm][-1])}", file=sys.stderr, flush=True)
        for arm in options.arms:
            rows.append(medians(runs[arm]))
            print(show(rows[-1]), flush=True)
    write_json(options.json, rows)


if __name__ == "__main__":
    main()
