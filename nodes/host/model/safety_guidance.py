"""Safe Latent Diffusion in the host's sampling: D <- D_cfg + cfg * sigma * gamma after its guidance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from ....esd.errors import EsdError
from ....esd.safe_latent_diffusion import STRENGTHS, Strength, safety_guidance, warm
from .fingerprint import digest_of

SAME_LEVEL = 1e-4
"""How far, relatively, two noise levels may be apart and still count as one: samplers round them."""


def with_safety_guidance(model: Any, clip: Any, concept: str, strength: str) -> Any:
    """Return a clone of the MODEL that is guided away from the concept; each step takes one more pass."""
    if not hasattr(model, "set_model_sampler_post_cfg_function"):
        raise EsdError("No MODEL arrived: connect the MODEL output of Load Model or Load Checkpoint.")
    if clip is None:
        raise EsdError("No CLIP arrived: this checkpoint has no text encoder, so connect one with Load CLIP.")
    if not concept.strip():
        raise EsdError("The concept is empty: type the words that the pictures should stay away from.")
    if strength not in STRENGTHS:
        raise EsdError(f'strength is "{strength:.40}": choose one of {", ".join(STRENGTHS)}.')
    run = _Run(clip.encode_from_tokens_scheduled(clip.tokenize(concept)), STRENGTHS[strength])
    guided = model.clone()
    # functions and no methods: the host copies objects, and their state with them, when a MODEL is cloned
    guided.set_model_sampler_post_cfg_function(lambda args: run.guide(args), disable_cfg1_optimization=True)
    guided.add_callback_with_key(
        comfy.patcher_extension.CallbacksMP.ON_PRE_RUN, "esd_safety_guidance", lambda patcher: run.begin()
    )
    return guided


class _Run:
    """The state of one sampling: the concept's condition for it, and the momentum."""

    def __init__(self, encoded: list[Any], strength: Strength) -> None:
        self.encoded, self.strength = encoded, strength
        self.identity = digest_of(encoded, astuple(strength))
        self.begin()

    def begin(self) -> None:
        """Forget the last sampling."""
        self.condition: list[Any] | None = None
        self.momentum: Tensor | None = None

    def guide(self, args: Mapping[str, Any]) -> Tensor:
        """Return the guided estimate of x0 from what the host tells after its own guidance, "b c h w"."""
        x, sigma, model = args["input"], args["sigma"], args["model"]
        if args["uncond"] is None:  # the host then hands out zeros for it
            raise EsdError(
                "This guider has no negative prompt, which Safe Latent Diffusion needs: use KSampler or CFGGuider with "
                "an empty negative prompt."
            )
        if self.condition is None or self.momentum is None or self.momentum.shape != x.shape:
            converted = comfy.sampler_helpers.convert_cond(self.encoded)
            self.condition = comfy.samplers.process_conds(model, x, {"positive": converted}, x.device)["positive"]
            self.momentum = torch.zeros_like(x)
        (safety,) = comfy.samplers.calc_cond_batch(model, [self.condition], x, sigma, args["model_options"])
        level = sigma.reshape(-1, *[1] * (x.ndim - 1)).to(x)
        prompt, safety, null = ((x - x0) / level for x0 in (args["cond_denoised"], safety, args["uncond_denoised"]))
        made = safety_guidance(prompt, safety, null, self.strength, self.momentum)
        self.momentum = made.momentum
        if not warm(*_step(args), self.strength):
            return args["denoised"]  # type: ignore[no-any-return]
        return args["denoised"] + args["cond_scale"] * level * made.guidance  # type: ignore[no-any-return]


def _step(args: Mapping[str, Any]) -> tuple[int, int]:
    """Return which step of how many this is; a level between two steps counts as the later one."""
    sigmas = args["model_options"]["transformer_options"]["sample_sigmas"]
    passed = sigmas > args["sigma"].max().to(sigmas) * (1.0 + SAME_LEVEL)
    return int(passed.sum()), len(sigmas) - 1
