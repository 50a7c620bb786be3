"""One arm of the speed bench in a process of its own: prints its figures as one line of JSON."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from _meter import Meter, PeakMemory, highest
from _models import Subject, subject
from _time_to_erasure import CONCEPT, LIMIT, Stopwatch
from torch import Tensor

POINTS = {"playground": 20, "sd15": 2, "sdxl": 1}


def published(on: Subject, chosen: argparse.Namespace) -> dict[str, Any]:
    """The published procedure on diffusers."""
    from _published import PublishedTrainer, reference

    from lab.reference import models

    unet = _diffusers_twin(on)
    family = "sdxl" if chosen.model == "sdxl" else "sd"
    scheduler = reference.euler() if family == "sdxl" else reference.ddim()
    names = reference.select(unet, chosen.method, family)
    concept = reference.Concept(*(_prompt(on, text) for text in ("", CONCEPT)))
    generator = torch.Generator().manual_seed(chosen.seed)
    shape, steps, meter = (1, 4, on.latent, on.latent), chosen.num_inference_steps or 50, Meter()
    meter.attach(unet)

    def trainer() -> Any:
        return PublishedTrainer(unet, scheduler, concept, names, 5e-5, 1.0, steps)

    def train(count: int) -> None:
        for k in levels(count, steps):
            run.step(torch.randn(shape, generator=generator).to(on.dtype), k)

    with PeakMemory() as memory:
        run = trainer()
        if chosen.peak:
            warm_up(run.optimizer)
        figures = timed(meter, train, chosen.points)
    if chosen.erased:
        run.use(run.base)
        run, mapping = trainer(), models.key_map(unet)

        def change() -> dict[str, Tensor]:
            return {mapping[n]: run.student[n].detach() - run.base[n] for n in names}

        watch = Stopwatch(on, change)
        for k in torch.randint(steps, (LIMIT,), generator=generator).tolist():
            run.step(torch.randn(shape, generator=generator), k)
            if watch.point():
                break
        figures |= watch.figures
    return {**figures, "peak_bytes_above_model": memory.bytes}


def _diffusers_twin(on: Subject) -> Any:
    """The same network with the same weights in diffusers."""
    from lab.reference import models

    state = on.model.model.diffusion_model.state_dict()
    with torch.inference_mode(False):
        weights = {models.PREFIX + k: v.clone() for k, v in state.items()}
    return models.diffusers_unet_from_checkpoint(weights).to(on.dtype)


def _prompt(on: Subject, text: str) -> Any:
    from _published import reference

    hidden, extra = on.clip.encode_from_tokens_scheduled(on.clip.tokenize(text))[0]
    pooled = extra.get("pooled_output") if on.world is None else None
    side = on.latent * 8
    ids = reference.size_ids(side, side).to(on.dtype) if pooled is not None else None
    with torch.inference_mode(False):
        return reference.Prompt(hidden.clone().to(on.dtype), None if pooled is None else pooled.to(on.dtype), ids)


def levels(count: int, grid: int = 50) -> list[int]:
    """Grid indices spread evenly over the walk, so that few points cost what many do on average."""
    return [int((i + 0.5) * grid / count) for i in range(count)]


def timed(meter: Meter, train: Callable[[int], None], points: int) -> dict[str, Any]:
    """Train that many points and put the figures together."""
    start = time.perf_counter()
    with meter.backwards():
        train(points)
    seconds = time.perf_counter() - start
    return {
        "passes_per_point": meter.passes / points,
        "seconds_per_point": seconds / points,
        "seconds_per_pass": seconds / meter.passes,
        "outside_network": max(0.0, 1 - meter.inside / seconds),
    }


def arm_settings(on: Subject, chosen: argparse.Namespace) -> Any:
    """Our settings for an arm."""
    from esd_pack.esd.presets import with_preset
    from esd_pack.esd.settings import ALL_STEPS, Settings

    side, preset = on.latent * 8, "official-2026" if chosen.arm == "ours-published" else "custom"
    gradient_checkpointing = "on" if chosen.gradient_checkpointing else "off"
    settings = Settings(
        method=chosen.method,
        width=side,
        height=side,
        gradient_checkpointing=gradient_checkpointing,
        optimizer=chosen.optimizer,
        learning_rate=1e-4,
        eta=1.0,
        stop=ALL_STEPS,
    )
    settings = replace(with_preset(settings, preset), seed=chosen.seed)
    # the optimiser again: published presets name theirs
    settings = replace(
        settings,
        num_inference_steps=chosen.num_inference_steps or settings.num_inference_steps,
        optimizer=chosen.optimizer,
    )
    return replace(settings, trajectory_batch=chosen.trajectory_batch or settings.trajectory_batch)


class Run:
    """What a run of ours is made of, up to the training."""

    def __init__(self, on: Subject, settings: Any) -> None:
        from esd_pack.esd.concepts import make_concept, prompts_of
        from esd_pack.nodes.host.model.conditioning import encode
        from esd_pack.nodes.host.run.erase import fitted, make_plan
        from esd_pack.nodes.host.run.plan import make_denoiser

        self.concept = make_concept(CONCEPT)
        with torch.inference_mode():
            self.plan = make_plan(on.model, settings)
            prompts = prompts_of([self.concept], [])
            self.conditions = encode(self.plan.host, on.clip, prompts, self.plan.latent_shape, self.plan.device)
            self.plan = fitted(self.plan, self.conditions, [])
        self.denoiser = make_denoiser(self.plan, lambda samples: None)

    def train(self, report: Callable[[], bool] = lambda: False, warm: bool = False) -> None:
        """All of it, as the node does it; `warm` makes the optimiser's state before the first step."""
        from esd_pack.esd.train import Training

        training = Training(self.denoiser, self.conditions, [self.concept], [], self.plan.settings)
        if warm:
            warm_up(training.optimizer)
        for _ in training:
            if report():
                break

    def train_on_even_levels(self, count: int) -> None:
        """The published setting with the levels spread evenly, so that few points cost what many do on average."""
        from esd_pack.esd.examples import collect_examples, target_spec
        from esd_pack.esd.step_plan import StepPlan
        from esd_pack.esd.train import fit

        settings, denoiser = self.plan.settings, self.denoiser
        generator = torch.Generator().manual_seed(settings.seed)

        def batches() -> Iterator[Any]:
            sigmas = denoiser.sigmas(settings.num_inference_steps)
            for k in levels(count, settings.num_inference_steps):
                grid = torch.arange(k + 1)[:, None]
                noise = torch.randn((1, *self.plan.latent_shape), generator=generator)
                each = target_spec(self.concept, settings)
                yield [
                    collect_examples(
                        denoiser, self.conditions, [each], noise, StepPlan(grid, grid == k), sigmas, settings
                    )
                ]

        fit(denoiser, self.conditions, batches(), settings)


def warm_up(optimizer: torch.optim.Optimizer) -> None:
    """Make the optimiser's state by a step that changes nothing, as the first of a long run would."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def ours(on: Subject, chosen: argparse.Namespace) -> dict[str, Any]:
    """Our code, at the published setting or at the defaults."""
    settings, meter = arm_settings(on, chosen), Meter()
    few = replace(settings, steps=chosen.points, trajectory_batch=min(settings.trajectory_batch, chosen.points))
    if chosen.peak:  # one batch of whole walks, as large as in a long run
        few = replace(
            settings, steps=1, buffer_size=settings.trajectory_batch, draws_per_buffer=1, samples_per_trajectory=1
        )
    with PeakMemory() as memory:
        run = Run(on, few)
        meter.attach(run.denoiser.network)

        def train(count: int) -> None:
            if chosen.arm == "ours-published" and not chosen.peak:
                run.train_on_even_levels(count)
            else:
                run.train(warm=chosen.peak)

        figures = timed(meter, train, chosen.points)
    if chosen.erased:
        run = Run(on, replace(settings, steps=LIMIT))
        watch = Stopwatch(on, run.denoiser.difference)
        run.train(watch.point)
        figures |= watch.figures
    return {**figures, "peak_bytes_above_model": memory.bytes, "memory_foretold": run.plan.need.total}


def main() -> None:
    """Run one arm."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("arm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--points", type=int, default=0)
    parser.add_argument("--latent", type=int, default=0)
    parser.add_argument("--num-inference-steps", type=int, default=0)
    parser.add_argument("--trajectory-batch", type=int, default=0)
    parser.add_argument("--method", default="esd-x")
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--erased", action="store_true")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--peak", action="store_true")
    chosen = parser.parse_args()
    if chosen.peak:
        chosen.points, chosen.num_inference_steps = 1, chosen.num_inference_steps or 2
    chosen.points = chosen.points or POINTS[chosen.model]
    on = subject(chosen.model, chosen.latent)
    row = published(on, chosen) if chosen.arm == "published" else ours(on, chosen)
    about = {**vars(chosen), "latent": on.latent, "seconds_to_erased": None, "points_to_erased": None}
    print(json.dumps({**about, **row, "peak_bytes_of_process": highest()}))


if __name__ == "__main__":
    main()
