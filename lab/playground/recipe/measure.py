"""How well a checkpoint draws: judged pictures of many prompts, its autoencoder and its size."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from commands.playground import world as shipped
from commands.playground.judge import Judge, Network, Verdict

from . import captions, files, judges, pictures
from .stages import Build
from .walk import SIDE
from .world_spec import World

ALONE, BACKGROUNDS = 4, 2
"""Pictures of each object when it is named alone, and backgrounds of each object and style when all are named."""

BATCH, FIRST_SEED, FRESH = 16, 1000, 1000
HELD_OUT = "held out from training"
SECOND_JUDGE = Path(__file__).resolve().parents[1] / "second_judge.safetensors"


@dataclass(frozen=True)
class Asked:
    """One prompt by its parts, and the group in which it counts."""

    group: str
    name: str
    style: str = ""
    background: str = ""

    @property
    def prompt(self) -> str:
        """The prompt."""
        return captions.caption(self.name, self.style, self.background)

    @property
    def expected(self) -> dict[str, str]:
        """What each head of a judge should say, where the prompt names it."""
        parts = {"object": self.name, "style": self.style, "background": self.background}
        return {head: name for head, name in parts.items() if name}


def prompts(world: World) -> list[Asked]:
    """All that is drawn: first the contact sheet's, each object in each style."""
    sheet = [_styled(world, name, style) for name in world.objects for style in world.styles]
    alone = [Asked("object named alone", name) for name in world.objects for _ in range(ALONE)]
    held = [Asked(HELD_OUT, *each) for each in world.combinations(held_out=True)]
    return [*sheet, *alone, *_fully_named(world), *held]


def _styled(world: World, name: str, style: str) -> Asked:
    never = all(world.is_held_out(name, style, background) for background in world.backgrounds)
    return Asked(HELD_OUT if never else "object and style named", name, style)


def _fully_named(world: World) -> Iterator[Asked]:
    for i, name in enumerate(world.objects):
        for j, style in enumerate(world.styles):
            for k in range(BACKGROUNDS):
                background = world.backgrounds[(i + j + 2 * k) % len(world.backgrounds)]
                if not world.is_held_out(name, style, background):
                    yield Asked("object, style and background named", name, style, background)


def main(build: Build) -> bool:
    """Draw and judge; write `measured.json` into the folder and print it."""
    checkpoint = checkpoint_of(build)
    asked, judging = prompts(build.world), _judges(build)
    drawn = pictures_of(build)
    verdicts = {name: judge.judge(drawn) for name, judge in judging.items()}
    found = {
        "prompts": len(asked),
        "megabytes": round(checkpoint.stat().st_size / 1e6, 2),
        "autoencoder_decibels": round(_decibels(build), 2),
        "found": {name: rates(asked, verdict) for name, verdict in verdicts.items()},
        "judges_agree": agreement(*verdicts.values()),
        "judges_on_fresh_pictures": {name: _on_fresh(build, judge) for name, judge in judging.items()},
    }
    text = json.dumps(found, indent=1) + "\n"
    files.save_text(text, build.path("measured.json"))
    sys.stdout.write(text)
    return True


def checkpoint_of(build: Build) -> Path:
    """The checkpoint that is measured."""
    return build.ready or build.path(build.layout.checkpoint)


def pictures_of(build: Build) -> Tensor:
    """Pictures of all prompts, "b 64 64 3" in 0..1 (8 bits deep), kept batch by batch for checkpoint and prompts."""
    layout, words = build.layout, [each.prompt for each in prompts(build.world)]
    wanted = json.dumps([BATCH, FIRST_SEED, layout.steps, layout.shipped.cfg, words])
    path = build.path(f"drawn-{files.digest(checkpoint_of(build).read_bytes(), wanted.encode())}.safetensors")
    kept = load_file(path)["pictures"] if path.exists() else torch.empty(0, SIDE, SIDE, 3, dtype=torch.uint8)
    tokens = captions.tokens(["", *words], build.tokenizer)
    painter, nothing, asked = layout.painter_of(checkpoint_of(build)), tokens[0], tokens[1:]
    while len(kept) < len(asked):
        build.report("drawing", len(kept), len(asked))
        drawn = painter.draw(asked[len(kept) : len(kept) + BATCH], nothing, FIRST_SEED + len(kept))
        kept = torch.cat([kept, (drawn * 255).round().to(torch.uint8)])
        files.save_tensors({"pictures": kept}, path)
    return kept[: len(asked)].float() / 255


def rates(asked: list[Asked], verdict: Verdict) -> dict[str, dict[str, str]]:
    """For each group and head: how many pictures were named right, of how many."""
    found: dict[str, dict[str, list[bool]]] = {}
    for i, each in enumerate(asked):
        for head, name in each.expected.items():
            found.setdefault(each.group, {}).setdefault(head, []).append(verdict.names(head)[i] == name)
    return {
        group: {head: f"{sum(hits)} of {len(hits)} ({sum(hits) / len(hits):.1%})" for head, hits in heads.items()}
        for group, heads in found.items()
    }


def agreement(first: Verdict, second: Verdict) -> dict[str, str]:
    """For each head: the share of pictures to which both judges gave the same name."""
    found = {}
    for head in shipped.HEADS:
        same = [a == b for a, b in zip(first.names(head), second.names(head), strict=True)]
        found[head] = f"{sum(same)} of {len(same)} ({sum(same) / len(same):.1%})"
    return found


def _judges(build: Build) -> dict[str, Judge | judges.SecondJudge]:
    first, second = build.path("judge.safetensors"), build.path("second-judge.safetensors")
    if build.ready or not (build.layout.own_judges or first.exists()):
        first, second = shipped.JUDGE, SECOND_JUDGE
    for missing in (path for path in (first, second) if not path.exists()):
        raise ValueError(f"{missing} is not there: run the stages judge and second-judge first, to their end.")
    heads = build.world.heads
    return {"judge": Judge(heads).load(first), "second judge": judges.SecondJudge(heads).load(second)}


def _on_fresh(build: Build, judge: Network) -> dict[str, list[float]]:
    """The shares of pictures that no training has seen, and of their reconstructions, that each head names right."""
    drawn, named = build.pool("fresh").draw(
        min(FRESH, build.reconstructions), torch.Generator().manual_seed(FIRST_SEED)
    )
    reconstructed = build.trained_autoencoder().reconstruct(drawn)
    both = {"pictures": drawn, "reconstructed": reconstructed}
    return {kind: [round(each, 4) for each in judges.agreement(judge, many, named)] for kind, many in both.items()}


def _decibels(build: Build) -> float:
    """The autoencoder on pictures that no training has seen."""
    pool = build.pool("fresh")
    fresh = pool.placements.flatten(0, 2)
    laid = pictures.laid_on(fresh, pool.colours[torch.arange(len(fresh)) % len(pool.colours)])
    return pictures.psnr(laid, build.trained_autoencoder().reconstruct(laid))
