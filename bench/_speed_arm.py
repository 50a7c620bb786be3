"""One arm of the speed bench in a process of its own: prints its figures as one line of JSON."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from _meter import Meter, PeakMemory
from _playground_run import Playground
from torch import Tensor

LATENTS = {"playground": 8, "sd15": 64, "sdxl": 128}
POINTS = {"playground": 20, "sd15": 2, "sdxl": 1}
CONTEXT = {"sd15": 768, "sdxl": 2048}
CONCEPT = "cat"
JUDGE_EVERY = 20


@dataclass
class Subject:
    """A model to train on, in the host's form, with the prompts "" and "cat"."""

    model: Any
    clip: Any
    world: Playground | None
    latent: int
    dtype: torch.dtype


def subject(name: str, latent: int) -> Subject:
    """The playground, or random weights of the real shape."""
    world = Playground()
    latent = latent or LATENTS[name]
    if name == "playground":
        return Subject(world.loaded.model, world.loaded.clip, world, latent, torch.float32)
    dtype = torch.bfloat16 if name == "sdxl" else torch.float32
    import comfy.sd

    with torch.inference_mode():
        model = comfy.sd.load_diffusion_model_state_dict(random_state(name, dtype), model_options={"dtype": dtype})
    return Subject(model, RandomText(CONTEXT[name]), None, latent, dtype)


class RandomText:
    """Text embeddings of the right width, in the place of a text encoder."""

    def __init__(self, width: int) -> None:
        self.width = width

    def tokenize(self, text: str) -> str:
        """The text itself."""
        return text

    def encode_from_tokens_scheduled(self, text: str) -> list[Any]:
        """A conditioning that depends on the text's length alone."""
        generator = torch.Generator().manual_seed(len(text))
        pooled = {"pooled_output": torch.randn((1, 1280), generator=generator)} if self.width == 2048 else {}
        return [[torch.randn((1, 77, self.width), generator=generator), pooled]]


def diffusers_unet(name: str, device: str) -> Any:
    """The published shape as diffusers builds it."""
    from diffusers import UNet2DConditionModel

    shapes: dict[str, dict[str, Any]] = {
        "sd15": {"cross_attention_dim": 768, "attention_head_dim": 8},
        "sdxl": {
            "block_out_channels": (320, 640, 1280),
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
    }
    with torch.device(device):
        return UNet2DConditionModel(**shapes[name])


def random_state(name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random weights of the real shape under the host's names."""
    from _published import reference  # noqa: F401  puts the tests' folder on the path

    from reference.models import key_map

    generator = torch.Generator().manual_seed(0)
    unet = diffusers_unet(name, "meta")
    return {
        host: torch.randn(unet.get_parameter(ours).shape, generator=generator).mul_(0.02).to(dtype)
        for ours, host in key_map(unet).items()
    }


def published(name: str, on: Subject, points: int, erased: bool, method: str) -> dict[str, Any]:
    """The published procedure on diffusers."""
    from _published import PublishedTrainer, reference

    from reference import models

    state = on.model.model.diffusion_model.state_dict()
    with torch.inference_mode(False):
        weights = {models.PREFIX + k: v.clone() for k, v in state.items()}
    unet = models.diffusers_unet_from_checkpoint(weights).to(on.dtype)
    prompts = [_prompt(on, text) for text in ("", CONCEPT)]
    family = "sdxl" if name == "sdxl" else "sd"
    scheduler = reference.euler() if family == "sdxl" else reference.ddim()
    names = reference.select(unet, method, family)
    del weights
    generator = torch.Generator().manual_seed(0)
    meter = Meter()
    meter.attach(unet)
    with PeakMemory() as memory:
        trainer = PublishedTrainer(unet, scheduler, reference.Concept(*prompts), names, 5e-5, 1.0)
        shape = (1, 4, on.latent, on.latent)

        def train(count: int) -> None:
            for k in levels(count):
                trainer.step(torch.randn(shape, generator=generator).to(on.dtype), k)

        figures = timed(meter, train, points)
    seconds = None
    if erased:
        trainer = PublishedTrainer(unet, scheduler, reference.Concept(*prompts), names, 5e-5, 1.0)
        mapping = models.key_map(unet)
        random_levels = torch.Generator().manual_seed(1)

        def some() -> None:
            for k in torch.randint(50, (JUDGE_EVERY,), generator=random_levels).tolist():
                trainer.step(torch.randn(shape, generator=generator), k)

        def change() -> dict[str, Tensor]:
            return {mapping[n]: trainer.student[n].detach() - trainer.base[n] for n in names}

        seconds = until_erased(on, some, change)
    return {**figures, "peak_bytes_above_model": memory.bytes, "seconds_to_erased": seconds}


def until_erased(on: Subject, train: Callable[[], None], change: Callable[[], dict[str, Tensor]]) -> float | None:
    """Seconds of training (judging not counted) until a cat is found in at most 10 % and the others in 95 %.

    None where 300 points have not been enough.  Judged every JUDGE_EVERY points, on 16 pictures of a cat and one of
    each other object.
    """
    from esd_pack.esd.weights import ErasedWeights
    from esd_pack.nodes.host.apply import apply
    from esd_pack.playground.world import OBJECTS, Judged

    assert on.world is not None
    groups = {
        "gone": [Judged(CONCEPT, "object", CONCEPT)] * 16,
        "kept": [Judged(o, "object", o) for o in OBJECTS if o != CONCEPT],
    }
    seconds = 0.0
    for _ in range(300 // JUDGE_EVERY):
        start = time.perf_counter()
        train()
        seconds += time.perf_counter() - start
        weights = ErasedWeights({f"diffusion_model.{n}": t.clone() for n, t in change().items()})
        with torch.inference_mode():
            rates = on.world.rates(apply(on.model, weights, 1.0), groups)
        if rates["gone"].after <= 0.1 and rates["kept"].after >= 0.95 * rates["kept"].before:
            return seconds
    return None


def levels(count: int) -> list[int]:
    """Grid indices spread evenly over the 50, so that few points cost what many do on average."""
    return [int((i + 0.5) * 50 / count) for i in range(count)]


def _prompt(on: Subject, text: str) -> Any:
    from _published import reference

    hidden, extra = on.clip.encode_from_tokens_scheduled(on.clip.tokenize(text))[0]
    pooled = extra.get("pooled_output") if on.world is None else None
    side = on.latent * 8
    ids = reference.size_ids(side, side).to(on.dtype) if pooled is not None else None
    with torch.inference_mode(False):
        return reference.Prompt(hidden.clone().to(on.dtype), None if pooled is None else pooled.to(on.dtype), ids)


def timed(meter: Meter, train: Callable[[int], None], points: int) -> dict[str, Any]:
    """Train that many points and put the figures together."""
    start = time.perf_counter()
    with meter.backwards():
        train(points)
    seconds = time.perf_counter() - start
    return {
        "passes_per_point": meter.passes / points,
        "seconds_per_point": seconds / points,
        "outside_network": max(0.0, 1 - meter.inside / seconds),
    }


def ours(arm: str, on: Subject, points: int, method: str, checkpointing: bool, erased: bool) -> dict[str, Any]:
    """Our code, at the published setting or at the defaults."""
    from esd_pack.esd.concepts import make_concept, prompts_of
    from esd_pack.esd.examples import Route, harvest, lesson
    from esd_pack.esd.settings import Settings, with_preset
    from esd_pack.esd.train import erase, fit
    from esd_pack.nodes.host.conditions import encode
    from esd_pack.nodes.host.erase import make_denoiser, make_plan

    side = on.latent * 8
    settings = Settings(method=method, width=side, height=side, checkpointing="on" if checkpointing else "off")
    settings = with_preset(settings, "official-2026" if arm == "ours-published" else "custom")
    settings = Settings(**{**settings.__dict__, "steps": points, "walk_batch": min(settings.walk_batch, points)})
    concept, meter = make_concept(CONCEPT), Meter()
    with torch.inference_mode():
        plan = make_plan(on.model, settings)
        conditions = encode(on.model, on.clip, prompts_of([concept], []), plan.latent_shape, plan.device)
    generator = torch.Generator().manual_seed(0)
    with PeakMemory() as memory:
        denoiser = make_denoiser(on.model, plan, lambda samples: None)
        meter.attach(denoiser.network)

        def batches(count: int) -> Any:
            sigmas = denoiser.sigmas(50)
            for k in levels(count):
                grid = torch.arange(k + 1)[:, None]
                noise = torch.randn((1, *plan.latent_shape), generator=generator)
                each = lesson(concept, plan.settings)
                yield [harvest(denoiser, conditions, [each], noise, Route(grid, grid == k), sigmas, plan.settings)]

        def train(count: int) -> None:
            if arm == "ours-published":
                fit(denoiser, conditions, batches(count), plan.settings, lambda step: False)
            else:
                erase(denoiser, conditions, [concept], [], plan.settings, lambda step: False)

        figures = timed(meter, train, points)
    seconds = time_to_erased(on, arm, settings) if erased else None
    return {**figures, "peak_bytes_above_model": memory.bytes, "seconds_to_erased": seconds}


def time_to_erased(on: Subject, arm: str, settings: Any) -> float | None:
    """Our seconds until the judge finds the concept gone; a fresh run, stopped to be judged and gone on with."""
    from esd_pack.esd.concepts import make_concept, prompts_of
    from esd_pack.esd.train import fit, make_optimizer, run_batches
    from esd_pack.nodes.host.conditions import encode
    from esd_pack.nodes.host.erase import make_denoiser, make_plan

    concept = make_concept(CONCEPT)
    with torch.inference_mode():
        plan = make_plan(on.model, replace(settings, steps=300, walk_batch=4 if arm == "ours-default" else 1))
        conditions = encode(on.model, on.clip, prompts_of([concept], []), plan.latent_shape, plan.device)
    denoiser = make_denoiser(on.model, plan, lambda samples: None)
    batches = run_batches(denoiser, conditions, [concept], [], plan.settings)
    optimizer = make_optimizer(plan.settings, list(denoiser.trainable.values()))

    def some() -> None:
        fit(denoiser, conditions, islice(batches, JUDGE_EVERY), plan.settings, lambda step: False, optimizer)

    return until_erased(on, some, denoiser.difference)


def main() -> None:
    """Run one arm."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("arm")
    parser.add_argument("--points", type=int, default=0)
    parser.add_argument("--latent", type=int, default=0)
    parser.add_argument("--method", default="esd-x")
    parser.add_argument("--erased", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    chosen = parser.parse_args()
    on, points = subject(chosen.model, chosen.latent), chosen.points or POINTS[chosen.model]
    if chosen.arm == "published":
        row = published(chosen.model, on, points, chosen.erased, chosen.method)
    else:
        row = ours(chosen.arm, on, points, chosen.method, chosen.checkpointing, chosen.erased)
    about = {"model": chosen.model, "arm": chosen.arm, "points": points, "latent": on.latent, "method": chosen.method}
    print(json.dumps({**about, "seconds_to_erased": None, **row}))


if __name__ == "__main__":
    main()
