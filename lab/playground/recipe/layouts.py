"""The models that the same world is taught to: each with its networks, its lessons and how it draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from commands.playground import world as shipped

from . import autoencoder, captions, denoiser, diffusion, flow, pack, pack_sd35, summary_tower, transformer, walk
from .autoencoder import Autoencoder
from .training import Plan

State = Mapping[str, Tensor]


class Lessons(Protocol):
    """What a denoiser learns from."""

    def loss(self, network: nn.Module, batch: int, random: torch.Generator, /) -> Tensor:
        """The loss on a batch at random."""


class Painter(Protocol):
    """Networks that draw."""

    @property
    def denoiser(self) -> nn.Module:
        """The network that predicts."""

    @property
    def autoencoder(self) -> Autoencoder:
        """The network that makes pictures of latents."""

    def draw(self, tokens: Tensor, nothing: Tensor, seed: int) -> Tensor:
        """One picture for each row of tokens "b 77", "b 64 64 3" in 0..1; `nothing` holds the empty prompt's, "77"."""


@dataclass(frozen=True)
class Layout:
    """A family of models, as the recipe makes one of it."""

    shipped: shipped.Model
    """What comes with the pack: the name of its checkpoint is the recipe's too, and so is how it is sampled."""

    plan: Plan
    autoencoder_plan: Plan
    latent: int
    steps: int
    make: Callable[[], nn.Module]
    start: Callable[[nn.Module], None]
    lessons: Callable[[diffusion.Shown], Lessons]
    painter: Callable[[nn.Module, Autoencoder], Painter]
    state_dict: Callable[[State, State], dict[str, Tensor]]
    networks: Callable[[Path], tuple[dict[str, Tensor], dict[str, Tensor]]]
    """The narrow denoiser and autoencoder of a checkpoint."""

    own_judges: bool = True
    """Whether judges are trained with it; else the shipped ones judge."""

    @property
    def checkpoint(self) -> str:
        """The file's name."""
        return self.shipped.checkpoint.name

    @property
    def widened(self) -> bool:
        """Whether the autoencoder is the first world's with more channels."""
        return self.latent != autoencoder.LATENT

    def painter_of(self, checkpoint: Path) -> Painter:
        """The networks of a checkpoint, to draw with."""
        learnt, vae = self.networks(checkpoint)
        network = self.make()
        network.load_state_dict(learnt)
        return self.painter(network.to(memory_format=torch.channels_last).eval(), Autoencoder.of(vae))


SD1 = Layout(
    shipped.MODELS["sd1"],
    diffusion.PLAN,
    autoencoder.PLAN,
    autoencoder.LATENT,
    walk.STEPS,
    denoiser.Denoiser,
    denoiser.start_at_zero,
    lambda shown: diffusion.Lessons(shown, captions.text_tower()),
    lambda network, vae: walk.Painter(network, vae, captions.text_tower()),
    lambda network, vae: pack.state_dict(network, vae, captions.text_tower()),
    pack.networks,
)
SD35 = Layout(
    shipped.MODELS["sd35"],
    flow.PLAN,
    autoencoder.WIDER_PLAN,
    transformer.LATENT,
    flow.STEPS,
    transformer.Transformer,
    transformer.start_at_zero,
    lambda shown: flow.FlowLessons(shown, summary_tower.summary_tower()),
    lambda network, vae: flow.FlowPainter(network, vae, summary_tower.summary_tower()),
    lambda network, vae: pack_sd35.state_dict(network, vae, summary_tower.summary_tower()),
    pack_sd35.networks,
    own_judges=False,
)
LAYOUTS = {"sd1": SD1, "sd35": SD35}
