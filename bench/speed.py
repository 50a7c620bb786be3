"""Time, passes and memory of a training point, beside the published procedure: `python run.py bench speed`.

Every arm runs in a process of its own, the arms in turn, and medians of the repeats are printed.  Arms: `published`
(diffusers), `ours-published` (the same procedure in our code), `ours-default`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

ARMS = ("published", "ours-published", "ours-default")
FIGURES = ("passes_per_point", "seconds_per_point", "seconds_to_erased", "peak_bytes_above_model", "outside_network")


def one(model: str, arm: str, options: argparse.Namespace) -> dict[str, Any]:
    """One run of one arm in a fresh process."""
    command = [sys.executable, str(__file__).replace("speed.py", "_speed_arm.py"), model, arm]
    command += ["--points", str(options.points), "--latent", str(options.latent), "--method", options.method]
    command += ["--erased"] * options.erased + ["--checkpointing"] * options.checkpointing
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{model}, {arm} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The runs of an arm as one row."""
    row = dict(runs[0])
    for name in FIGURES:
        values = [run[name] for run in runs if run.get(name) is not None]
        row[name] = statistics.median(values) if values else None
    return row | {"repeats": len(runs)}


def show(row: dict[str, Any]) -> str:
    """One line of the table."""
    erased = f"{row['seconds_to_erased']:.0f}" if row["seconds_to_erased"] is not None else ""
    cells = (
        row["model"],
        row["arm"],
        f"{row['passes_per_point']:.1f}",
        f"{row['seconds_per_point']:.2f}",
        erased,
        f"{row['peak_bytes_above_model'] / 2**30:.2f}",
        f"{row['outside_network']:.0%}",
    )
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run the arms of the models asked for, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["playground"], choices=["playground", "sd15", "sdxl"])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--points", type=int, default=0, help="training points a run (0: 10 here, few on large models)")
    parser.add_argument("--latent", type=int, default=0, help="side of the latent (0: the model's own)")
    parser.add_argument("--method", default="esd-x")
    parser.add_argument("--erased", action="store_true", help="train on until the judge finds the concept gone")
    parser.add_argument("--checkpointing", action="store_true", help="our arms with gradient checkpointing")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    rows = []
    print("| model | arm | passes a point | s a point | s to erased | peak GB above model | outside network |")
    print("|---|---|---|---|---|---|---|")
    for model in options.models:
        runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in options.arms}
        for _ in range(options.repeats):
            for arm in options.arms:
                runs[arm].append(one(model, arm, options))
        for arm in options.arms:
            rows.append(medians(runs[arm]))
            print(show(rows[-1]), flush=True)
    from _playground_run import write_json

    write_json(options.json, rows)


if __name__ == "__main__":
    main()
