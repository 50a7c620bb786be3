"""What `commands/gpu.py` measures: networks of real shapes with random weights, or a file that the user names."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .shapes import SHAPES, RandomText, random_model
from .talk import ServerError

Json = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A MODEL with its text encoder, and at which size and against which preset it is measured."""

    name: str
    model: Any
    clip: Any
    side: int
    preset: str


def subjects(options: argparse.Namespace) -> Iterator[Subject | Json]:
    """Yield the networks to measure, each made when it is asked for; of those that cannot be made, a row with why."""
    if options.checkpoint is not None:
        yield named(options.checkpoint, options.side)
        return
    for name in options.shapes if options.shapes is not None else SHAPES:
        if name not in SHAPES:
            raise ServerError(f'There is no shape "{name}": choose from {", ".join(SHAPES)}.')
        shape = SHAPES[name]
        blocks = (options.blocks,) * len(shape.depths) if options.blocks else ()
        try:
            need, free = weight_bytes(random_model(shape, blocks, "meta")), free_ram()
            if need > free:
                yield {"family": name, "error": f"{need / 1e9:.1f} GB of weights, {free / 1e9:.1f} GB of RAM are free"}
                continue
            model = random_model(shape, blocks)
        except ValueError as error:
            yield {"family": name, "error": str(error)}
            continue
        text = RandomText(shape.tokens, shape.width, shape.pooled)
        yield Subject(name, model, text, options.side or shape.side, shape.preset)


def named(file: Path, side: int) -> Subject:
    """Return a checkpoint or a network's file; its text is random, of the right width."""
    import comfy.sd

    if not file.is_file():
        raise ServerError(f"There is no file {file}.")
    try:
        model = comfy.sd.load_checkpoint_guess_config(str(file), output_vae=False, output_clip=False)[0]
    except RuntimeError:  # no whole checkpoint
        model = comfy.sd.load_diffusion_model(str(file))
    kind = type(model.model.model_config).__name__
    found = [(name, shape) for name, shape in SHAPES.items() if shape.kind == kind]
    if not found:
        raise ServerError(f"{file.name} is {kind}; measured can be {', '.join(SHAPES)}.")
    ((name, shape),) = found
    width = _text_width(model, shape.width)
    text = RandomText(shape.tokens, width, shape.pooled)
    return Subject(f"{name} ({file.name})", model, text, side or shape.side, shape.preset)


def _text_width(model: Any, usual: int) -> int:
    config = model.model.model_config.unet_config
    names = ("context_dim", "context_in_dim", "cap_feat_dim")
    return next((int(config[name]) for name in names if config.get(name)), usual)


def weight_bytes(model: Any) -> int:
    """Return the bytes of a MODEL's network."""
    return sum(p.numel() * p.element_size() for p in model.model.diffusion_model.parameters())


def free_ram() -> int:
    """Return the bytes of RAM that are free, as the host sees it."""
    import comfy.model_management

    return int(comfy.model_management.get_free_memory(torch.device("cpu")))
