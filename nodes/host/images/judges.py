"""Judges that come with the plugin, made from what the host has."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ....esd.evaluate.judge import Draw, Size, Verdicts
from ....esd.evaluate.likelihood import GRID, LEVELS, NOTHING, noise_errors, verdicts
from ....esd.evaluate.playground_judge import PlaygroundJudge
from ..families import spatial_ratio
from ..model.conditioning import encode
from ..model.fingerprint import digest_of_model, digest_of_vae
from ..model.host_model import as_host_model
from ..model.pair import frozen_denoiser
from ..parts import require_parts

PLAYGROUND = Path(__file__).resolve().parents[3] / "commands" / "playground"


def playground_judge() -> PlaygroundJudge:
    """Return the judge that is shipped for the playground checkpoint."""
    return PlaygroundJudge(PLAYGROUND)


class BaseModelJudge:
    """The base MODEL: a picture shows the label under which it predicts the picture's noise best."""

    def __init__(self, model: Any, clip: Any, vae: Any, seed: int = 0) -> None:
        """`seed` is that of the noise; equal seeds give equal verdicts."""
        require_parts(clip, vae)
        self.host, self.clip, self.vae, self.seed = as_host_model(model), clip, vae, seed

    @property
    def card(self) -> str:
        """What it is."""
        return (
            f"the base MODEL ({self.host.family.name}) by likelihood at {len(LEVELS)} noise levels, among the set's "
            f"labels and the empty prompt, seed {self.seed}; the score is the share of the empty prompt's error that "
            "the label takes away"
        )

    @cached_property
    def identity(self) -> str:
        """Weights and seed; empty where something guides the MODEL that cannot be named."""
        model = digest_of_model(self.host.patcher)
        return f"likelihood {model} {digest_of_vae(self.vae)} {self.seed}" if model else ""

    def ready(self, labels: Sequence[str], draw: Draw) -> BaseModelJudge:
        """Return itself: the base knows the words."""
        return self

    def check(self, labels: Sequence[str], sizes: Collection[Size] = ()) -> None:
        """Any words can be a label, and any size that the MODEL draws can be judged."""

    def judge(self, pictures: Tensor, labels: Sequence[str]) -> Verdicts:
        """Judge pictures "b h w 3" in 0 ... 1; (1 + labels) * 3 passes a picture."""
        device, ratio = self.host.device, spatial_ratio(self.host.patcher)
        height, width = (side // ratio for side in pictures.shape[1:3])
        latent = (self.host.latent_format.latent_channels, height, width)
        encoded = self.vae.encode(pictures)
        conditions = encode(self.host, self.clip, [NOTHING, *labels], latent, device)
        with torch.inference_mode(False), torch.no_grad():
            latents = self.host.patcher.model.process_latent_in(encoded.clone().float()).to(device)
            denoiser = frozen_denoiser(self.host, latent, GRID, _cancellable)
            told = [conditions[words] for words in (NOTHING, *labels)]

            def noised(x: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
                mixed: Tensor = denoiser.sampling.noise_scaling(sigma, noise.clone(), x)
                return mixed

            return verdicts(noise_errors(denoiser, told, latents, noised, self.seed), labels)


def _cancellable(passes: int) -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()
