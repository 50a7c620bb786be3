"""Single network calls of a run, timed and with their memory: one level of a walk, one training step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from _meter import PeakMemory
from _models import Subject

CONCEPT = "cat"


@dataclass(frozen=True)
class Call:
    """What a call took: seconds, and bytes above what was held before it."""

    seconds: float
    bytes: int


class Probe:
    """A denoiser at a size, and the calls that a run makes of it."""

    def __init__(self, on: Subject, latent: int, gradient_checkpointing: bool = False, method: str = "esd-x") -> None:
        from esd_pack.esd.concepts import make_concept, prompts_of
        from esd_pack.esd.settings import Settings
        from esd_pack.nodes.host.model import rehearsal
        from esd_pack.nodes.host.model.conditioning import encode
        from esd_pack.nodes.host.run.erase import make_denoiser, make_plan

        side, switch = latent * 8, "on" if gradient_checkpointing else "off"
        settings = Settings(method=method, width=side, height=side, gradient_checkpointing=switch, eta=1.0)
        with torch.inference_mode():
            plan = make_plan(on.model, settings)
            prompts = prompts_of([make_concept(CONCEPT)], [])
            self.conditions = encode(plan.host, on.clip, prompts, plan.latent_shape, plan.device)
        self.denoiser, self.plan = make_denoiser(plan, lambda samples: None), plan
        told = self.conditions[CONCEPT]
        self.stage = rehearsal.stage(plan.host, plan.student, plan.latent_shape, plan.device, plan.dtype, told)
        self.generator = torch.Generator().manual_seed(0)

    def cfg_trajectory(self, walks: int) -> Call:
        """A level of so many walks, both prompts of each in one call, no gradients."""
        return self.level(2 * walks)

    def level(self, samples: int) -> Call:
        """One call without gradients."""
        inputs = self._inputs(samples)
        with torch.no_grad():
            return measured(lambda: self.denoiser.predict(*inputs))

    def train(self, batch: int) -> Call:
        """The student's forward and backward on a batch, its gradients counted in."""
        inputs = self._inputs(batch)

        def both_ways() -> None:
            with torch.enable_grad(), self.denoiser.student():
                self.denoiser.predict(*inputs).square().mean().backward()

        call = measured(both_ways)
        for parameter in self.denoiser.trainable.values():
            parameter.grad = None
        return call

    def _inputs(self, samples: int) -> tuple[Any, ...]:
        from esd_pack.esd.denoiser import stack

        noise = torch.randn((samples, *self.plan.latent_shape), generator=self.generator)
        sigma = self.denoiser.sigmas(50)[25].expand(samples)
        condition = stack([self.conditions[CONCEPT]] * samples)
        return self.denoiser.pure_noise(noise, sigma), sigma, condition


def measured(call: Callable[[], Any]) -> Call:
    """Make a call with an eye on the clock and the memory."""
    with PeakMemory() as memory:
        start = time.perf_counter()
        call()
        seconds = time.perf_counter() - start
    return Call(seconds, memory.bytes)
