"""What erasing from large transformers takes: `python run.py bench large_models --json lab/bench/large_models.json`.

Two kinds of figures, from networks of real widths with random bfloat16 weights:

- `measured`: seconds and peak bytes of a network call and of a training step, with one and two blocks of each kind, at
  a small picture, on this machine's CPU; `per_block` is the difference of two rows, `whole` the line through them at
  the real number of blocks.
- `foretold`: what the node plans for a GPU at the real size with all blocks, by its rehearsal on the meta device, and
  what of it fits cards of 8 to 24 GB, with how many blocks streamed.

Where the plan can be measured (the same few blocks, on the CPU) its activations stand beside those that were seen.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _playground_run import write_json
from _single_calls import measured

from commands import inprocess
from commands.shapes import SHAPES, RandomText, Shape, random_model
from lab.launch import base
from lab.paths import OWN_HOST, RUN

FAMILIES = ("FLUX.2 klein 4B", "Z-Image", "FLUX.1 dev")
FEW = {"FLUX.2 klein 4B": ((1, 1), (2, 1), (1, 2)), "Z-Image": ((1,), (2,)), "FLUX.1 dev": ((1, 1), (2, 1), (1, 2))}
CARDS = (8, 12, 16, 24)
RESERVED = 1.0
"""GB of a card that a desktop and ComfyUI itself keep."""

ARMS = ((0, "adamw"), (0, "adamw8bit"), (0, "adafactor"), (16, "adamw"))
"""Rank (0 trains the weights themselves) and optimiser."""

CONCEPT = "cat"
GPU = torch.device("cuda")


def settings_for(side: int, rank: int, optimizer: str = "adamw") -> Any:
    """A run with one trajectory at a time, recomputed activations, and the method esd-x."""
    from esd_pack.esd.settings import Settings

    size = {"width": side, "height": side}
    return Settings(**size, rank=rank, optimizer=optimizer, trajectory_batch=1, gradient_checkpointing="on", eta=1.0)


class Subject:
    """A MODEL of few blocks with its conditions, planned at a size."""

    def __init__(self, shape: Shape, blocks: tuple[int, ...], side: int, tokens: int) -> None:
        from esd_pack.esd.concepts import make_concept, prompts_of
        from esd_pack.nodes.host.model.conditioning import encode
        from esd_pack.nodes.host.run.erase import make_plan

        self.model = random_model(shape, blocks)
        text = RandomText(tokens, shape.width, shape.pooled)
        with torch.inference_mode():
            plan = make_plan(self.model, settings_for(side, 16))
            prompts = prompts_of([make_concept(CONCEPT)], [])
            self.conditions = encode(plan.host, text, prompts, plan.latent_shape, plan.device)
        self.host, self.side = plan.host, side

    def calls(self, rank: int) -> dict[str, Any]:
        """Seconds and bytes of a call without gradients and of a training step, beside what the plan says."""
        from esd_pack.esd.denoiser import stack
        from esd_pack.nodes.host.model.rehearsal import sampling_bytes, stage, training_bytes
        from esd_pack.nodes.host.run.erase import make_denoiser, make_plan

        plan = replace(make_plan(self.model, settings_for(self.side, rank)), gradient_checkpointing=True)
        denoiser = make_denoiser(plan, lambda samples: None)
        x = torch.randn((1, *plan.latent_shape), generator=torch.Generator().manual_seed(0))
        inputs = (x, denoiser.sigmas(20)[10].expand(1), stack([self.conditions[CONCEPT]]))

        def trained() -> None:
            with torch.enable_grad(), denoiser.student():
                denoiser.predict(*inputs).square().mean().backward()

        with torch.no_grad():
            forward = measured(lambda: denoiser.predict(*inputs))
        step = measured(trained)
        on = stage(plan.host, plan.student, plan.latent_shape, plan.device, plan.dtype, self.conditions[CONCEPT])
        return {
            "seconds_call": forward.seconds,
            "seconds_step": step.seconds,
            "bytes_call": forward.bytes,
            "bytes_step": step.bytes,
            "bytes_call_foretold": sampling_bytes(on, 1),
            "bytes_step_foretold": training_bytes(on, 1, True),
        }


def few_blocks(name: str, side: int, tokens: int) -> Iterator[dict[str, Any]]:
    """Each number of blocks, full and low-rank."""
    shape = SHAPES[name]
    for blocks in FEW[name]:
        with torch.inference_mode(False):
            on = Subject(shape, blocks, side, tokens)
            for rank in (0, 16):
                yield {"part": "measured", "family": name, "blocks": list(blocks), "rank": rank, **on.calls(rank)}


def extrapolated(rows: list[dict[str, Any]], name: str) -> Iterator[dict[str, Any]]:
    """The line through the measured rows of a family, at its real number of blocks."""
    shape = SHAPES[name]
    real = [shape.config[depth] for depth in shape.depths]
    for rank in (0, 16):
        first, *others = [row for row in rows if (row["part"], row["family"], row["rank"]) == ("measured", name, rank)]
        for figure in ("seconds_call", "seconds_step"):
            slopes = [row[figure] - first[figure] for row in others]
            whole = first[figure] + sum(s * (n - b) for s, n, b in zip(slopes, real, first["blocks"], strict=True))
            told = {"per_block": slopes, "whole": whole}
            yield {"part": "extrapolated", "family": name, "rank": rank, "figure": figure, "blocks": real, **told}


def foretold(name: str) -> Iterator[dict[str, Any]]:
    """The node's plan for a GPU that computes in bfloat16, at the real size with all blocks; and what fits where."""
    from esd_pack.nodes.host.model.memory import MARGIN, copied_bytes, estimate
    from esd_pack.nodes.host.model.offload import plan_offload
    from esd_pack.nodes.host.model.rehearsal import stage
    from esd_pack.nodes.host.run.erase import make_plan

    shape = SHAPES[name]
    with torch.inference_mode(False):
        told = Subject(shape, tuple(1 for _ in shape.depths), shape.side, shape.tokens).conditions[CONCEPT]
        model = random_model(shape, device="meta")
        for rank, optimizer in ARMS:
            settings = settings_for(shape.side, rank, optimizer)
            plan = make_plan(model, settings)
            on = stage(plan.host, plan.student, plan.latent_shape, plan.device, torch.bfloat16, told)
            need = estimate(replace(on, device="cuda", computed=torch.bfloat16), settings, GPU, True)
            copied = copied_bytes(plan.host, GPU, torch.bfloat16)
            others = need.student + need.activations
            cards = {}
            for card in CARDS:
                free = int((card - RESERVED) * 2**30)
                if MARGIN * others + sum(copied.values()) <= free:
                    cards[card] = "whole"
                    continue
                found = plan_offload(plan.host, copied, MARGIN * others, free)
                fits = found.kept + others <= free
                cards[card] = f"{len(found.streamed)} of {found.blocks} blocks streamed" if fits else "no"
            yield {
                "part": "foretold",
                "family": name,
                "rank": rank,
                "optimizer": optimizer,
                "side": shape.side,
                "bytes_weights": sum(copied.values()),
                "bytes_student": need.student,
                "bytes_activations": need.activations,
                "cards": cards,
            }


def main() -> None:
    """Measure and plan the families asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--parts", nargs="+", default=["foretold", "measured"], choices=["foretold", "measured"])
    parser.add_argument("--side", type=int, default=128, help="of the measured pictures, in pixels")
    parser.add_argument("--tokens", type=int, default=64, help="of the measured prompts")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    host = Path(os.environ.get("COMFYUI_PATH") or OWN_HOST).resolve()
    inprocess.start(host, base.prepare_base(RUN / "bench", host))
    rows: list[dict[str, Any]] = []
    for part in options.parts:
        for name in options.families:
            for row in foretold(name) if part == "foretold" else few_blocks(name, options.side, options.tokens):
                rows.append(row)
                print(row, flush=True)
                write_json(options.json, rows)
    lines = [line for name in options.families if "measured" in options.parts for line in extrapolated(rows, name)]
    print(*lines, sep="\n")
    write_json(options.json, rows + lines)


if __name__ == "__main__":
    main()
