"""The host's side of the seam: base and student over one network in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_management
import comfy.model_sampling
import torch
from torch import Tensor, nn

from ....esd.denoiser import Condition
from ....esd.students import Student
from ..families.family import Backward
from .backward import differentiable

HALF_LOSS_SCALE = 2.0**16
"""Gradients of 1e-8 and less are zero in float16; the largest are then still far below its 65504."""


class HostDenoiser:
    """A network with two faces: its own frozen weights, or what the float32 student makes of them."""

    def __init__(
        self,
        network: nn.Module,
        sampling: Any,
        student: Student,
        latent_shape: tuple[int, ...],
        device: torch.device,
        dtype: torch.dtype,
        on_forward: Callable[[int], None],
        backward: Backward,
        gradient_checkpointing: bool = False,
    ) -> None:
        """`dtype` is what layers compute in (`compute_dtype`), `backward` what the family's gradient asks for.

        `on_forward` hears of every network call and may raise to cancel.
        """
        self.network, self.sampling, self.learner = network, sampling, student
        self.latent_shape, self.device, self.on_forward = latent_shape, device, on_forward
        self.dtype = dtype
        self.loss_scale = HALF_LOSS_SCALE if dtype is torch.float16 else 1.0
        self.trainable = student.trainable
        self.backward, self.gradient_checkpointing = backward, gradient_checkpointing
        self.max_batch = max_samples(latent_shape, device)
        self.attention: Callable[..., Tensor] = _differentiable_attention

    @contextmanager
    def student(self) -> Iterator[None]:
        """Let the network answer as the student, tracked by autograd, and as the base again afterwards."""
        with self.learner.attached(self.dtype):
            if not torch.is_grad_enabled():
                yield
                return
            with differentiable(self.network, self.backward, self.gradient_checkpointing):
                yield

    def predict(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Return the network's raw output (epsilon, v or velocity), as x, float32, input scaled as it was trained.

        Without gradients a large batch goes through in parts of `together` samples.
        """
        if torch.is_grad_enabled() or x.shape[0] <= self.max_batch:
            return self._call(x, sigma, condition)
        starts = range(0, x.shape[0], self.max_batch)
        parts = [slice(start, start + self.max_batch) for start in starts]
        conditions = [replace(condition, tensors={n: t[part] for n, t in condition.tensors.items()}) for part in parts]
        return torch.cat([self._call(x[p], sigma[p], c) for p, c in zip(parts, conditions, strict=True)])

    def _call(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        self.on_forward(x.shape[0])
        scaled = self.sampling.calculate_input(sigma, x).to(self.dtype)
        timestep = self.sampling.timestep(sigma).float()
        extra = {name: _cast(t, self.dtype) for name, t in condition.tensors.items()}
        context = extra.pop("c_crossattn")
        options = {"optimized_attention_override": self.attention}
        told = {**extra, **condition.constants}
        raw: Tensor = self.network(scaled, timestep, context=context, transformer_options=options, **told)
        return raw.float()

    def denoised(self, raw: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the host's own estimate of x0 from a raw output."""
        x0: Tensor = self.sampling.calculate_denoised(sigma, raw, x)
        return x0

    def pure_noise(self, noise: Tensor, sigma: Tensor) -> Tensor:
        """x at the first level, with the variance that the schedule has there."""
        x: Tensor = self.sampling.noise_scaling(sigma, noise.clone(), torch.zeros_like(noise), True)
        return x

    def sigmas(self, steps: int) -> Tensor:
        """Levels that fall exactly on the network's trained timesteps, spaced as the published code spaces them."""
        return timestep_grid(self.sampling, steps)

    def difference(self) -> dict[str, Tensor]:
        """Student minus base by name, float32, on the CPU."""
        learnt = self.learner.erasure("")
        return {name: learnt.change(name) for name in learnt.names}


def max_samples(latent_shape: tuple[int, ...], device: torch.device) -> int:
    """How many samples go through the network in one call without gradients, whatever the batch of trajectories.

    On a CPU larger calls stop being faster at about the prompts of one SD1.5 trajectory, and go on taking memory.  It
    depends on nothing that changes between runs, so that equal inputs give equal weights.
    """
    if not comfy.model_management.is_device_cpu(device):
        return 2**31
    return max(1, 2 * 64 * 64 // (latent_shape[-1] * latent_shape[-2]))


def timestep_grid(sampling: Any, steps: int) -> Tensor:
    """Return the sigmas of a trajectory and a last 0, "steps + 1".

    Flow schedules: n even times from 1 down, shifted.  All others: the levels 1, 1 + T/n, ... (981 ... 1 for n = 50) of
    the schedule's own T, "leading" spacing with offset 1, as the published DDIM and Euler configurations of SD and
    SDXL; where the schedule has no more levels than the trajectory (LCM: 50), without the offset.
    """
    levels = sampling.sigmas
    if isinstance(sampling, comfy.model_sampling.CONST):
        times = torch.linspace(1.0, 1.0 / steps, steps)
        chosen = torch.stack([torch.as_tensor(sampling.percent_to_sigma(1.0 - float(t))) for t in times])
    else:
        spacing = len(levels) / steps
        index = (torch.arange(steps - 1, -1, -1) * spacing).long().add(int(spacing > 1)).clamp(max=len(levels) - 1)
        chosen = levels[index.to(levels.device)]
    return torch.cat([chosen.float().cpu(), torch.zeros(1)])


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _differentiable_attention(original: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    # the host's default on some devices has no backward, or loses it when memory is short
    attended: Tensor = comfy.ldm.modules.attention.attention_pytorch(*args, **kwargs)
    return attended
