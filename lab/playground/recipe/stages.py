"""The stages of `run.py playground`, in their order: each takes up what the earlier ones left in the folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from commands.playground.judge import Judge, Network

from . import autoencoder, captions, diffusion, files, icons, judges, layouts, pack, pictures, world_spec
from .training import Loss, Plan, Training

Report = Callable[[str, int, int], None]
"""Told the stage, how much of it is done and how much there is."""

POOL_SEED, FRESH_SEED = 4, 5


@dataclass(frozen=True)
class Build:
    """What is made, where it is kept, and how long each part of it takes."""

    world: world_spec.World
    folder: Path
    tokenizer: Path
    """ComfyUI's comfy/sd1_tokenizer."""

    report: Report
    layout: layouts.Layout = layouts.SD1
    start_from: Path | None = None
    """A checkpoint whose networks the training starts from, instead of at random; its encoder stays as it is."""

    ready: Path | None = None
    """A checkpoint that is there already: only what belongs to it is made."""

    many: int = 32
    """Placements of each object in each style."""

    reconstructions: int = 4096
    autoencoder: Plan = layouts.SD1.autoencoder_plan
    judge: Plan = judges.PLAN
    second_judge: Plan = judges.SECOND_PLAN
    denoiser: Plan = layouts.SD1.plan
    sets: pictures.Sets | None = None
    """Icon sets by style, where they are not to be fetched."""

    stop_after: int | None = None
    """Steps after which each training stops for this time."""

    def path(self, name: str) -> Path:
        """A file of the folder."""
        return self.folder / name

    def progress(self, stage: str) -> Callable[[int, int], None]:
        """The progress of one stage."""
        return lambda done, total: self.report(stage, done, total)

    def pool(self, kind: str = "placements") -> pictures.Pool:
        """The pictures of the first stage: the placements to learn from, or the "fresh" ones."""
        path = self.path("pictures.safetensors")
        drawn = _found(path)[kind]
        if files.about(path).get("icons") != self.icons:
            raise ValueError(f"{path} shows other objects: run the stage pictures again, or choose another --folder.")
        return pictures.Pool(drawn, pictures.colours_of(self.world))

    @property
    def icons(self) -> str:
        """What the pictures are drawn from: names and icons of the objects, and the styles."""
        return files.digest(json.dumps([self.world.objects, self.world.styles]).encode())

    def trained_autoencoder(self) -> autoencoder.Autoencoder:
        """The finished autoencoder: of the checkpoint that is there already, or of its stage."""
        learnt = self.layout.networks(self.ready)[1] if self.ready else _found(self.path("autoencoder.safetensors"))
        return autoencoder.Autoencoder.of(learnt)

    def trained_encoder(self) -> autoencoder.Autoencoder:
        """An autoencoder with the encoder that is to be used: where it is given, its stage need not have run."""
        if not self.start_from:
            return self.trained_autoencoder()
        return autoencoder.Autoencoder.of(self.layout.networks(self.start_from)[1])

    def source(self, *networks: bytes) -> str:
        """What a training learns from: the world, and contents of networks."""
        return files.digest(json.dumps(replace(self.world, near_neighbours={}).as_json()).encode(), *networks)

    @property
    def given(self) -> bytes:
        """The checkpoint that the training starts from, or nothing."""
        return self.start_from.read_bytes() if self.start_from else b""

    def train(self, stage: str, module: nn.Module, plan: Plan, loss: Loss, source: str, encoder: str = "") -> bool:
        """Train a network, or go on with it, and keep what it has learnt; whether it is finished."""
        training = Training(module, plan, self.path(f"{stage}.training"), source)
        training.run(loss, self.progress(stage), self.stop_after)
        if training.done:
            files.save_tensors(training.result(), self.path(f"{stage}.safetensors"), {"encoder": encoder})
        return training.done


def _found(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise ValueError(f"{path} is not there: run the stages before this one first, to their end.")
    return load_file(path)


def make_pictures(build: Build) -> bool:
    """Fetch the icons, draw them, and place each many times."""
    sets = build.sets or {style: icons.read(icons.fetch(each, build.folder)) for style, each in icons.PACKAGES.items()}
    large = pictures.large_icons(build.world, sets, build.progress("icons"))
    placements = pictures.pool(large, build.many, POOL_SEED, build.progress("pictures"))
    fresh = pictures.pool(large, 1, FRESH_SEED, build.progress("pictures"))
    drawn = {"placements": placements, "fresh": fresh}
    files.save_tensors(drawn, build.path("pictures.safetensors"), {"icons": build.icons})
    return True


def train_autoencoder(build: Build) -> bool:
    """The autoencoder, on the pictures."""
    pool = build.pool()
    torch.manual_seed(build.autoencoder.seed)
    model = autoencoder.Autoencoder(latent=build.layout.latent).to(memory_format=torch.channels_last)
    begun = _begun_autoencoder(build, pool)
    if begun:  # the encoder stays: a denoiser may know its latents
        model.load_state_dict(begun)
        model.taesd_encoder.requires_grad_(False)
    plan, source = build.autoencoder, build.source(build.given)
    return build.train(
        "autoencoder", model, plan, lambda random: autoencoder.loss(model, pool, plan.batch, random), source
    )


def _begun_autoencoder(build: Build, pool: pictures.Pool) -> dict[str, Tensor] | None:
    if build.start_from:
        return build.layout.networks(build.start_from)[1]
    if not build.layout.widened:
        return None
    examples = min(autoencoder.EXAMPLES, build.reconstructions)
    shown, _ = pool.draw(examples, torch.Generator().manual_seed(build.autoencoder.seed))
    return autoencoder.with_more_channels(pack.networks(layouts.SD1.shipped.checkpoint)[1], build.layout.latent, shown)


def train_judge(build: Build) -> bool:
    """The judge, on the pictures and their reconstructions."""
    return _train_judge(build, "judge", build.judge, Judge)


def train_second_judge(build: Build) -> bool:
    """The second judge, on the same."""
    return _train_judge(build, "second-judge", build.second_judge, judges.SecondJudge)


def _train_judge(build: Build, stage: str, plan: Plan, kind: type[Judge] | type[judges.SecondJudge]) -> bool:
    model = build.trained_autoencoder()
    examples = judges.examples(model, build.pool(), build.reconstructions, plan.seed, build.progress(stage))
    torch.manual_seed(plan.seed)
    judge: Network = kind(build.world.heads)
    judge = judge.to(memory_format=torch.channels_last)
    source = build.source(pack.content(model))
    done = build.train(stage, judge, plan, lambda random: examples.loss(judge, plan.batch, random), source)
    if done:
        half = {name: value.half() for name, value in judge.state_dict().items()}
        files.save_tensors(half, build.path(f"{stage}.safetensors"))
    return done


def train_denoiser(build: Build) -> bool:
    """The denoiser, on latents of the pictures under their captions."""
    lessons = build.layout.lessons(_shown(build))
    torch.manual_seed(build.denoiser.seed)
    model = build.layout.make()
    build.layout.start(model)
    if build.start_from:
        model.load_state_dict(build.layout.networks(build.start_from)[0])
    model = model.to(memory_format=torch.channels_last)
    plan = build.denoiser
    encoder = pack.content(build.trained_encoder().taesd_encoder)
    source = build.source(build.given, encoder)
    named = files.digest(encoder)
    return build.train("denoiser", model, plan, lambda random: lessons.loss(model, plan.batch, random), source, named)


def _shown(build: Build) -> diffusion.Shown:
    encoder = build.trained_encoder()
    path = build.path(f"latents-{build.source(pack.content(encoder.taesd_encoder))}.safetensors")
    if not path.exists():
        made = diffusion.latents(encoder, build.pool(), build.progress("latents"))
        files.save_tensors({"latents": made.half()}, path)
    tokens = captions.tokens(captions.all_captions(build.world), build.tokenizer)
    return diffusion.Shown(build.world, load_file(path)["latents"], tokens, diffusion.allowed(build.world))


def pack_checkpoint(build: Build) -> bool:
    """One checkpoint of all, and the world's names beside it."""
    network, vae = (_found(build.path(f"{name}.safetensors")) for name in ("denoiser", "autoencoder"))
    learnt_with = files.about(build.path("denoiser.safetensors")).get("encoder")
    if learnt_with != files.digest(pack.content(autoencoder.Autoencoder.of(vae).taesd_encoder)):
        raise ValueError("The denoiser has learnt with another encoder than this autoencoder's: run its stage again.")
    pack.write(build.layout.state_dict(network, vae), build.path(build.layout.checkpoint))
    packages = {style: f"{each.name}@{each.version}" for style, each in icons.PACKAGES.items()}
    files.save_text(json.dumps(build.world.as_json() | {"icons": packages}, indent=1) + "\n", build.path("world.json"))
    return True


STAGES: dict[str, Callable[[Build], bool]] = {
    "pictures": make_pictures,
    "autoencoder": train_autoencoder,
    "judge": train_judge,
    "second-judge": train_second_judge,
    "denoiser": train_denoiser,
    "pack": pack_checkpoint,
}
"""What each stage does; it says whether it has come to its end."""


def shortened(plan: Plan, steps: int | None) -> Plan:
    """The plan with other steps, where some are given."""
    return replace(plan, steps=steps, warm_up=min(plan.warm_up, steps // 2)) if steps else plan
