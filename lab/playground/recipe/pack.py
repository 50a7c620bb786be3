"""One file of everything: the networks padded with zeros to the widths that loaders know, deflated."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from . import autoencoder, denoiser
from .captions import CONTEXT, TextTower
from .pictures import SIDE

RESOLUTION = "modelspec.resolution"
"""Where a file says the size of its pictures (SAI Model Spec)."""

UNET, VAE, TEXT = "model.diffusion_model.", autoencoder.PREFIX, "cond_stage_model.transformer.text_model."
LAYERS, HIDDEN = 12, 3072
PIECES = {denoiser.WIDTH: 1, 2 * denoiser.WIDTH: 2, 4 * denoiser.WIDTH: 1, 8 * denoiser.WIDTH: 2, autoencoder.WIDTH: 1}
"""Sizes of padded axes: how many pieces they are made of (skips beside the rest, values beside gates)."""


def padded(narrow: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Narrow parameters among zeros, in the shapes of the wide network; what has no narrow one is all zeros."""
    made = {}
    for name, shape in shapes.items():
        made[name] = torch.zeros(shape)
        if name in narrow:
            made[name][_live(shape, narrow[name].shape)] = narrow[name].float()
    return made


def cut(wide: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The live part of padded parameters, in the shapes of the narrow network."""
    return {name: wide[name][_live(wide[name].shape, shape)].float() for name, shape in shapes.items()}


def _live(wide: torch.Size, narrow: torch.Size) -> tuple[Tensor, ...]:
    axes = [_places(full, live) for full, live in zip(wide, narrow, strict=True)]
    return tuple(places.view([-1 if at == axis else 1 for at in range(len(axes))]) for axis, places in enumerate(axes))


def _places(full: int, live: int) -> Tensor:
    pieces = 1 if full == live else PIECES[full]
    return torch.cat([torch.arange(live // pieces) + piece * (full // pieces) for piece in range(pieces)])


def shapes_of(module: nn.Module) -> dict[str, torch.Size]:
    """Names and shapes of a network's parameters."""
    return {name: value.shape for name, value in module.state_dict().items()}


def wide_shapes(latent: int = autoencoder.LATENT) -> tuple[dict[str, torch.Size], dict[str, torch.Size]]:
    """The shapes of the padded denoiser and autoencoder, with the blocks that the narrow one leaves out."""
    with torch.device("meta"):
        unet, vae = denoiser.Denoiser(denoiser.WIDTH), autoencoder.Autoencoder(autoencoder.WIDTH, latent)
        for part, places in ((vae.taesd_encoder, (4, 5)), (vae.taesd_decoder, (14, 15))):
            for place in places:
                part[place] = autoencoder.Block(autoencoder.WIDTH)
    return shapes_of(unet), shapes_of(vae)


def state_dict(unet: Mapping[str, Tensor], vae: Mapping[str, Tensor], tower: TextTower) -> dict[str, Tensor]:
    """The checkpoint's tensors from narrow networks: SD1.x names, fp16."""
    unet_shapes, vae_shapes = wide_shapes()
    made = {UNET + name: value.half() for name, value in padded(unet, unet_shapes).items()}
    made |= {VAE + name: value.half() for name, value in padded(vae, vae_shapes).items()}
    made |= {VAE + "vae_scale": torch.tensor(autoencoder.SCALE), VAE + "vae_shift": torch.tensor(0.0)}
    return made | {TEXT + name: value for name, value in text(tower).items()}


def text(tower: TextTower) -> dict[str, Tensor]:
    """CLIP-L's tensors, fp16: tables of the tower, and layers that pass their input on."""
    made = {"embeddings.token_embedding.weight": tower.table, "embeddings.position_embedding.weight": tower.positions}
    for layer in range(LAYERS):
        start = f"encoder.layers.{layer}."
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            made |= _plain(f"{start}self_attn.{part}", (CONTEXT, CONTEXT))
        for part in ("layer_norm1", "layer_norm2"):
            made |= _plain(start + part, (CONTEXT,), 1.0)
        made |= _plain(f"{start}mlp.fc1", (HIDDEN, CONTEXT)) | _plain(f"{start}mlp.fc2", (CONTEXT, HIDDEN))
    return made | _plain("final_layer_norm", (CONTEXT,), 1.0)


def _plain(name: str, shape: tuple[int, ...], value: float = 0.0) -> dict[str, Tensor]:
    # one number seen everywhere: a table of equal numbers takes no room in the file
    number = torch.tensor(value, dtype=torch.float16)
    return {
        f"{name}.weight": number.expand(shape),
        f"{name}.bias": torch.zeros((), dtype=torch.float16).expand(shape[:1]),
    }


def write(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a torch archive and deflate it, so that the zeros vanish; equal tensors give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        # the archive holds the name that it is first written under
        stored, deflated = Path(folder) / path.name, Path(folder) / "deflated"
        torch.save({"state_dict": dict(tensors), RESOLUTION: f"{SIDE}x{SIDE}"}, stored)
        with zipfile.ZipFile(stored) as source, zipfile.ZipFile(deflated, "w") as target:
            for entry in source.infolist():
                target.writestr(zipfile.ZipInfo(entry.filename), source.read(entry), zipfile.ZIP_DEFLATED, 9)
        os.replace(deflated, path)


def content(network: nn.Module) -> bytes:
    """A network's values, to tell it from another."""
    return b"".join(value.detach().float().contiguous().numpy().tobytes() for value in network.state_dict().values())


def networks(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The narrow denoiser and autoencoder of a checkpoint."""
    tensors = tensors_of(checkpoint)
    return _cut_to(denoiser.Denoiser(), tensors, UNET), narrow_autoencoder(tensors)


def tensors_of(checkpoint: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name."""
    return dict(torch.load(checkpoint, weights_only=True)["state_dict"])


def narrow_autoencoder(tensors: Mapping[str, Tensor], latent: int = autoencoder.LATENT) -> dict[str, Tensor]:
    """The live part of a checkpoint's autoencoder."""
    return _cut_to(autoencoder.Autoencoder(latent=latent), tensors, VAE)


def _cut_to(narrow: nn.Module, tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    wide = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
    return cut(wide, shapes_of(narrow))
