"""What is left, as a run measures it, beside what judges find: `python run.py bench until_gone` follows runs.

Before the first step of a run, and every `--every` steps until it ends, the student's pictures are judged.  From such
rows the residuals are chosen at which a concept counts as gone (esd/until_gone.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from _playground_run import SIZE, write_json
from defaults import Bench, Task, tasks


def followed(bench: Bench, task: Task, seed: int, every: int, changes: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Train with the shipped defaults, and yield a row before the first step and at each stop."""
    from esd_pack.esd.concepts import make_concept, prompts_of
    from esd_pack.esd.settings import Settings
    from esd_pack.esd.train import Training
    from esd_pack.esd.until_gone import GoneGauge, settled
    from esd_pack.nodes.host.model.apply import apply
    from esd_pack.nodes.host.model.conditioning import encode
    from esd_pack.nodes.host.run.plan import make_denoiser
    from esd_pack.nodes.host.run.start import starting_edits

    loaded, passes = bench.world.loaded, [0]
    concepts, settings = settled([make_concept(**c) for c in task.concepts], Settings(**SIZE, seed=seed, **changes))
    with torch.inference_mode():
        plan = bench.world.erasing.make_plan(loaded.model, settings)
        conditions = encode(plan.host, loaded.clip, prompts_of(concepts, []), plan.latent_shape, plan.device)
        begun = starting_edits(plan, loaded.clip, conditions, concepts, [])
    judged = [each for group in task.groups.values() for each in group]
    with torch.inference_mode(False):
        denoiser = make_denoiser(plan, lambda samples: passes.__setitem__(0, passes[0] + samples), begun.edits)
        start_over = partial(denoiser.learner.begin, begun.without_styles, denoiser.dtype)
        training = Training(denoiser, conditions, concepts, [], plan.settings, start_over)
        while True:
            left = training.left or GoneGauge(denoiser, conditions, concepts, plan.settings).measure()
            learnt = denoiser.learner.erasure("diffusion_model.")
            with torch.inference_mode():
                hits = bench.hits(apply(loaded.model, learnt, 1.0), judged, seed)
            row: dict[str, Any] = {"task": task.name, "seed": seed, **changes, "steps": len(training.losses)}
            row |= {"passes": passes[0], "residuals": [dict(each.residuals) for each in left]}
            start = 0
            for name, group in task.groups.items():
                part = slice(start, start + len(group))
                row[name], start = {"n": len(group), **{j: sum(hits[j][part]) for j in hits}}, start + len(group)
            yield row
            if training.is_complete or (not training.losses and all(each.is_gone for each in left)):
                return
            for step in training:
                if (step.index + 1) % every == 0:
                    break


def main() -> None:
    """Follow the tasks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE", help="write the rows there, anew after each")
    parser.add_argument("--only", default="", help="tasks whose name contains this")
    parser.add_argument("--every", type=int, default=40, help="steps between two judgements (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=160, help="steps of each run (default: %(default)s)")
    parser.add_argument("--pictures", type=int, default=12, help="at most so many of each group (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--from-nothing", action="store_true", help="without the start in closed form")
    parser.add_argument("--groups", nargs="*", default=["bare", "unseen"], help="what is judged (default: %(default)s)")
    chosen = parser.parse_args()
    bench, rows = Bench(), []
    for task in (each for each in tasks(bench.words) if chosen.only in each.name):
        few = replace(task, groups={name: task.groups[name][: chosen.pictures] for name in chosen.groups})
        for seed in range(chosen.seeds):
            changes = {"steps": chosen.steps, "closed_form": not chosen.from_nothing}
            for row in followed(bench, few, seed, chosen.every, changes):
                rows.append(row)
                found = {name: f"{row[name]['first']}/{row[name]['second']} of {row[name]['n']}" for name in few.groups}
                residuals = ", ".join(f"{rho:.2f}" for each in row["residuals"] for rho in each.values())
                print(f"| {task.name} | {row['steps']} | {row['passes']} | {residuals} | {found} |", flush=True)
                write_json(chosen.json, rows)


if __name__ == "__main__":
    main()
