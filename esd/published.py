"""One training example as the published code makes it: for readers of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import torch

from .concepts import NULL_PROMPT
from .denoiser import Condition, Denoiser
from .examples import Example, TargetSpec
from .objective import target
from .settings import Settings
from .trajectory import cfg_trajectory


def published_step(
    denoiser: Denoiser,
    conditions: Mapping[str, Condition],
    spec: TargetSpec,
    settings: Settings,
    generator: torch.Generator,
) -> Example:
    """Make one example as the published code does (paper, section 4.1): the whole procedure in one place.

    Draw noise and k uniform on 0 ... n - 1, run k + 1 guided steps under the prompt, and form the target (eq. 5 to 7)
    from the frozen network's predictions at x_k.  An `ExampleStream` makes the same examples with
    `samples_per_trajectory`, `trajectory_batch` and `buffer_size` 1 and `strided` off.
    """
    noise = torch.randn((1, *denoiser.latent_shape), generator=generator)
    k = int(torch.randperm(settings.num_inference_steps, generator=generator)[0])
    sigmas = denoiser.sigmas(settings.num_inference_steps)[: k + 1, None].to(denoiser.device)
    with denoiser.student() if settings.sampler_model == "student" else nullcontext():
        *_, last = cfg_trajectory(
            denoiser,
            noise.to(denoiser.device),
            conditions[NULL_PROMPT],
            [conditions[spec.prompt]],
            sigmas,
            settings.guidance_scale,
        )
    with torch.no_grad():
        answers = {p: denoiser.predict(last.x, last.sigma, conditions[p])[0] for p in dict.fromkeys(spec.prompts)}
    wanted = answers[spec.anchor]
    if spec.eta:
        wanted = target(wanted, answers[spec.erase], answers[spec.null], spec.eta)
    return Example(last.x[0].cpu(), float(last.sigma), spec.prompt, wanted.cpu(), spec.weight)
