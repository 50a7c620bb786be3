"""Two MODELs of one family behind the seam: the base, and another in the place of its student."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ....esd.denoiser import Condition
from ....esd.errors import EsdError
from ....esd.students import StudentPlan, make_student
from .denoiser import HostDenoiser
from .host_model import HostModel
from .loaded import offload_others, restore_injected_layers
from .network import compute_dtype, private_network, require_own_network

Forward = Callable[[int], None]


class PairDenoiser:
    """A `Denoiser` whose student is a whole MODEL: nothing in it is trained, and both see the base's noise levels."""

    trainable: Mapping[str, torch.nn.Parameter] = {}

    def __init__(self, base: HostDenoiser, other: HostDenoiser) -> None:
        self.base, self.other, self.answering = base, other, base
        self.loss_scale = other.loss_scale
        self.latent_shape, self.device = base.latent_shape, base.device

    @contextmanager
    def student(self) -> Iterator[None]:
        """While it is open, the other MODEL answers; gradients reach what it is told."""
        self.answering = self.other
        try:
            with self.other.student():
                yield
        finally:
            self.answering = self.base

    def predict(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Return the raw output of the MODEL that answers, "b c h w", float32."""
        return self.answering.predict(x, sigma, condition)

    def denoised(self, raw: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the estimate of x0 that a raw output stands for."""
        return self.base.denoised(raw, x, sigma)

    def pure_noise(self, noise: Tensor, sigma: Tensor) -> Tensor:
        """Return x at the first level."""
        return self.base.pure_noise(noise, sigma)

    def sigmas(self, steps: int) -> Tensor:
        """Return the base's noise levels."""
        return self.base.sigmas(steps)

    def difference(self) -> dict[str, Tensor]:
        """Nothing is trained, so there is none."""
        return {}


def require_pair(base: HostModel, other: HostModel) -> None:
    """Raise EsdError where two MODELs cannot be compared prediction by prediction."""
    if base.family.name != other.family.name or base.kind != other.kind:
        raise EsdError("The two MODELs have different networks: connect the base that the erased MODEL was made from.")
    kinds = [type(host.patcher.get_model_object("model_sampling")).__bases__ for host in (base, other)]
    if kinds[0] != kinds[1]:
        raise EsdError(
            "The two MODELs predict different things (noise, velocity or flow): connect the base that the erased MODEL "
            "was made from, with the same sampling nodes behind it."
        )


def frozen_denoiser(
    host: HostModel, latent_shape: tuple[int, ...], steps: int, on_forward: Forward, recomputed: bool = False
) -> HostDenoiser:
    """Return a MODEL behind the seam with nothing to train in it; call it outside inference mode.

    `steps` are those of the trajectories that will be sampled.  Where activations are `recomputed`, gradients of what
    the MODEL is told take little memory.

    Weights that no patch changes share the host's memory.
    """
    restore_injected_layers(host.patcher)
    require_own_network(host)
    offload_others(int(host.patcher.model_size()), host.device, shared=host.patcher)
    network = private_network(host, host.device, host.dtype)
    dtype = compute_dtype(host.dtype, host.device)
    sampling, nothing = host.sampling(latent_shape, steps), make_student(StudentPlan(()), network)
    asked = host.family.backward
    return HostDenoiser(network, sampling, nothing, latent_shape, host.device, dtype, on_forward, asked, recomputed)
