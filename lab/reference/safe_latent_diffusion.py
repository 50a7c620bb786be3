"""Safe Latent Diffusion from the equations of its paper, in the paper's own space of predicted noise.

Schramowski et al., "Safe Latent Diffusion", CVPR 2023, equations 3 to 8.  Written pixel by pixel with NumPy, and with
a DDIM sampler in the variance-preserving form, so that it has nothing in common with what it is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Network = Callable[[Array, int, str], Array]
"""Predicted noise for a latent in the variance-preserving form, the index of its level, and a prompt."""


@dataclass(frozen=True)
class Hyper:
    """delta, s_S, lambda, s_m, beta_m of a row of the paper's table, and the guidance scale s_g."""

    delta: int
    s_S: float
    lam: float
    s_m: float
    beta_m: float
    s_g: float


def weights(eps_p: Array, eps_s: Array, hyper: Hyper) -> Array:
    """mu of equation 6: 0 where the prompt's noise is the larger by the threshold or more."""
    mu = np.zeros_like(eps_p)
    for place in np.ndindex(*eps_p.shape):
        difference = eps_p[place] - eps_s[place]
        if difference < hyper.lam:
            mu[place] = min(1.0, abs(hyper.s_S * difference))
    return mu


def sample(
    network: Network, x: Array, alphas_cumprod: Sequence[float], hyper: Hyper, safety: str, prompt: str, null: str = ""
) -> Array:
    """Sample from x at the first of the levels (noisy to clean) to a clean latent by DDIM with its own eta 0."""
    nu = np.zeros_like(x)
    for i, alpha in enumerate(alphas_cumprod):
        eps_null, eps_p, eps_s = (network(x, i, words) for words in (null, prompt, safety))
        gamma = weights(eps_p, eps_s, hyper) * (eps_s - eps_null)  # 4
        gamma = gamma + hyper.s_m * nu  # 7
        nu = hyper.beta_m * nu + (1.0 - hyper.beta_m) * gamma  # 8
        guidance = eps_p - eps_null
        if i >= hyper.delta:
            guidance = guidance - gamma
        eps = eps_null + hyper.s_g * guidance  # 3
        clean = (x - np.sqrt(1.0 - alpha) * eps) / np.sqrt(alpha)
        following = alphas_cumprod[i + 1] if i + 1 < len(alphas_cumprod) else 1.0
        x = np.sqrt(following) * clean + np.sqrt(1.0 - following) * eps
    return x
