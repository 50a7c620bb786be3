"""What half precision costs an erasure, judged: `python run.py bench precision --json lab/bench/precision.json`.

A MODEL that is stored in fp16, as hosts load most files on a GPU, is erased in each precision: which one the frozen
predictions and the student are computed in.  A GPU's half precision is simulated: operators compute in fp32, and what
goes in and comes out, gradients too, is rounded.  Each erasure is added to the same MODEL and drawn in fp32; `cosine`
is that of its differences with those of the fp32 run of the same seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from _playground_run import FIXED, SIZE, Playground, as_json, short, write_json
from quality import Task, tasks
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

ARMS: dict[str, tuple[str, str, float]] = {
    "fp32": ("fp32", "fp32", 1.0),
    "bf16": ("bf16", "bf16", 1.0),
    "fp16, unscaled loss": ("fp16", "fp16", 1.0),
    "fp16": ("fp16", "fp16", 2.0**16),
    "fp16 base, bf16 student": ("fp16", "bf16", 1.0),
    "fp16 base, fp32 student": ("fp16", "fp32", 1.0),
}
"""Precision of the frozen predictions, of the student's, and the scale of its loss."""

CHANGES: dict[str, dict[str, Any]] = {"sunglasses": {"eta": 4.0}}
"""Settings of a task beside the defaults."""

TASKS = ("object: cat", "style: ink", "sunglasses", "four objects")


class Split:
    """A denoiser whose base and student are computed in two precisions."""

    def __init__(self, base: Any, student: Any, scale: float) -> None:
        """Two denoisers over the same MODEL."""
        self.base, self.learning, self.loss_scale, self.now = base, student, scale, base
        self.trainable, self.latent_shape, self.device = student.trainable, base.latent_shape, base.device
        self.sigmas, self.pure_noise = base.sigmas, base.pure_noise
        self.denoised, self.difference = base.denoised, student.difference

    @contextmanager
    def student(self) -> Iterator[None]:
        """Answer as the student."""
        self.now = self.learning
        try:
            with self.learning.student():
                yield
        finally:
            self.now = self.base

    def predict(self, *question: Any) -> Tensor:
        """By the one or the other."""
        answer: Tensor = self.now.predict(*question)
        return answer


class Rounded(TorchDispatchMode):
    """Rounds what operators are given and give, as tensor cores do that multiply halves and add up in fp32."""

    def __init__(self, dtype: torch.dtype) -> None:
        """Of which half precision."""
        super().__init__()
        self.dtype = dtype

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Views as they are; what is written in place is rounded in place."""
        returns = func._schema.returns
        if any(each.alias_info is not None and not each.alias_info.is_write for each in returns):
            return func(*args, **(kwargs or {}))
        if func._schema.is_mutable:
            made = func(*args, **(kwargs or {}))
            tree_map(lambda t: t.copy_(self.round(t)) if isinstance(t, Tensor) else t, made)
            return made
        made = func(*tree_map(self.round, args), **tree_map(self.round, kwargs or {}))
        if isinstance(made, tuple) and "backward" not in func._schema.name:
            return (self.round(made[0]), *made[1:])  # statistics are kept in fp32
        return tree_map(self.round, made)

    def round(self, value: Any) -> Any:
        """A tensor's values as that precision has them."""
        if isinstance(value, Tensor) and value.dtype is torch.float32:
            return value.to(self.dtype).to(torch.float32)
        return value


def rounding(denoiser: Any, precision: str) -> Any:
    """Let a denoiser's network compute in a simulated precision."""
    if precision != "fp32":
        call, dtype = denoiser._call, {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]

        def rounded(*question: Any) -> Tensor:
            with Rounded(dtype):
                answer: Tensor = call(*question)
            return answer

        denoiser._call = rounded
    return denoiser


@contextmanager
def rounding_backward(precision: str) -> Iterator[None]:
    """Round gradients, too: backward is called outside of the network."""
    original = Tensor.backward

    def backward(self: Tensor, *others: Any) -> None:
        with Rounded({"fp16": torch.float16, "bf16": torch.bfloat16}[precision]):
            original(self, *others)

    try:
        if precision != "fp32":
            Tensor.backward = backward  # type: ignore[method-assign]
        yield
    finally:
        Tensor.backward = original  # type: ignore[method-assign]


class Half(Playground):
    """The playground, whose weights are stored in fp16."""

    def differences(self, task: Task, arm: str, seed: int, steps: int) -> dict[str, Tensor]:
        """What a run learns in the precisions of an arm."""
        from esd_pack.esd.concepts import make_concept, make_keep, prompts_of
        from esd_pack.esd.settings import Settings
        from esd_pack.esd.train import erase
        from esd_pack.nodes.host.model.conditioning import encode
        from esd_pack.nodes.host.run.plan import make_denoiser

        concepts = [make_concept(**c) for c in task.concepts]
        keeps = [make_keep(task.keeps, 1.0)] if task.keeps else []
        settings = Settings(**{**SIZE, **FIXED, "steps": steps, "seed": seed, **CHANGES.get(task.name, {})})
        model, both = self.loaded.model, []
        for precision in ARMS[arm][:2]:
            with torch.inference_mode():
                plan = self.erasing.make_plan(model, settings)
                device = plan.device
                conditions = encode(plan.host, self.loaded.clip, prompts_of(concepts, keeps), plan.latent_shape, device)
            both.append(rounding(make_denoiser(plan, lambda samples: None), precision))
        split = Split(*both, ARMS[arm][2])
        with rounding_backward(ARMS[arm][1]):
            erase(split, conditions, concepts, plan.settings, keeps)
        return {f"diffusion_model.{name}": t for name, t in split.difference().items()}

    def row(self, task: Task, arm: str, seed: int, steps: int, exact: Mapping[str, Tensor] | None) -> dict[str, Any]:
        """Erase, draw, judge."""
        from esd_pack.esd.erasure import Erasure
        from esd_pack.nodes.host.model.apply import apply

        learnt = self.differences(task, arm, seed, steps)
        rates = self.rates(
            apply(self.loaded.model, Erasure(learnt), 1.0), {"erased": task.gone, "kept": task.near + task.rest}
        )
        near = cosine(learnt, exact) if exact is not None else 1.0
        print(f"| {task.name} | {seed} | {arm} | {near:.3f} | {' | '.join(map(short, rates.values()))} |", flush=True)
        return {"task": task.name, "seed": seed, "arm": arm, "cosine": near, **as_json(rates), "learnt": learnt}


def cosine(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Of all differences as one vector."""
    one, other = (torch.cat([t.flatten().double() for _, t in sorted(each.items())]) for each in (a, b))
    return float(one @ other / (one.norm() * other.norm()))


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=FIXED["steps"], help="of each run (default: %(default)s)")
    parser.add_argument("--only", default="", help="tasks whose name contains this")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    world = Half()
    from esd_pack.commands.playground import world as words

    print("| task | seed | precision | cosine with fp32 | erased | kept |\n|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for seed in range(chosen.seeds):
        for task in [t for t in tasks(words) if t.name in TASKS and chosen.only in t.name]:
            exact = None
            for arm in ARMS:
                row = world.row(task, arm, seed, chosen.steps, exact)
                exact = exact or row["learnt"]
                rows.append({name: value for name, value in row.items() if name != "learnt"})
                write_json(chosen.json, rows)


if __name__ == "__main__":
    main()
