"""What a batch will take, before it begins: jobs, passes, GB and hours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from esd_pack.esd.errors import EsdError
from esd_pack.esd.files.lazy import open_tensors
from esd_pack.esd.files.lazy_tensor import TensorFile
from esd_pack.esd.selection import ParameterInfo, select

from .jobs import Job
from .ledger import Outcome
from .spec import Batch

UNET = "model.diffusion_model."
UNET_MARK = "attn2.to_k.weight"


@dataclass(frozen=True)
class ModelPlan:
    """The share of one model; what is not known is None."""

    model: str
    jobs: int
    done: int
    passes: int
    """At most, of the jobs that are not done."""
    gigabytes: float | None
    hours: float | None


def plan_of(
    batch: Batch, jobs: Sequence[Job], done: Mapping[str, Outcome], files: Mapping[str, Path], hosts: int = 1
) -> list[ModelPlan]:
    """Return a line a model; hours by what jobs of this batch took, shared among the hosts."""
    speeds = speeds_of(jobs, done)
    usual = max(speeds.values(), default=None)
    made = []
    for model in batch.models:
        own = [job for job in jobs if job.model == model]
        rest = [job for job in own if job.key not in done]
        passes, speed = sum(job.passes for job in rest), speeds.get(model, usual)
        hours = None if speed is None else passes * speed / 3600 / hosts
        size = bytes_of_jobs(batch, rest, files[model]) if model in files else None
        gigabytes = None if size is None else size / 2**30
        made.append(ModelPlan(model, len(own), len(own) - len(rest), passes, gigabytes, hours))
    return made


def speeds_of(jobs: Sequence[Job], done: Mapping[str, Outcome]) -> dict[str, float]:
    """Return the seconds a planned pass by model, loading and drawing included, where something is done."""
    totals: dict[str, tuple[float, int]] = {}
    for job in jobs:
        if job.key in done and job.passes:
            seconds, passes = totals.get(job.model, (0.0, 0))
            totals[job.model] = (seconds + done[job.key].seconds, passes + job.passes)
    return {model: seconds / passes for model, (seconds, passes) in totals.items()}


def bytes_of_jobs(batch: Batch, jobs: Sequence[Job], checkpoint: Path) -> int | None:
    """Return the bytes that the files of jobs take, evaluations left out; None where the file cannot tell."""
    try:
        sizes = {variant.name: change_bytes(checkpoint, variant.settings.method) for variant in batch.variants}
        whole = checkpoint.stat().st_size
    except (EsdError, OSError):
        return None
    total = 0
    for job in jobs:
        change = sizes[job.settings]
        if change is None:
            return None
        kinds = {"checkpoint": whole, "diffusers unet": whole, "lora": change // 4}
        total += sum(kinds.get(kind, change) for kind in (("difference",) if job.is_part else batch.save))
    return total


def change_bytes(checkpoint: Path, method: str) -> int | None:
    """Return the bytes of a full difference in float32, from the names in a checkpoint; None for what is no UNet."""
    with open_tensors(checkpoint) as file:
        infos = list(_infos(file))
    if not any(UNET_MARK in info.name for info, _ in infos):
        return None
    chosen = set(select(method, [info for info, _ in infos]))
    return sum(4 * count for info, count in infos if info.name in chosen)


def _infos(file: TensorFile) -> Iterator[tuple[ParameterInfo, int]]:
    """Yield the network's weights; a layer is of the kind that its weight's shape says."""
    shapes = {name.removeprefix(UNET): t.shape for name, t in file.tensors.items() if name.startswith(UNET)}
    kinds = {2: "linear", 4: "conv"}
    for name, shape in shapes.items():
        weight = shapes.get(f"{name.rpartition('.')[0]}.weight", shape)
        count = 1
        for side in shape:
            count *= side
        yield ParameterInfo(name, kinds.get(len(weight), "other")), count


def lines_of(plans: Sequence[ModelPlan]) -> list[tuple[str, ...]]:
    """Return the plan as cells: model, jobs, done, passes at most, GB, hours."""
    return [
        (
            plan.model,
            str(plan.jobs),
            str(plan.done),
            f"{plan.passes:,}",
            "?" if plan.gigabytes is None else f"{plan.gigabytes:.2f}",
            "after the first job" if plan.hours is None else f"{plan.hours:.2f}",
        )
        for plan in plans
    ]


HEAD = ("model", "jobs", "done", "passes at most", "GB", "hours at most")
