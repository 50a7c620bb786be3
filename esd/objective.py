"""The objective of the paper (eq. 5 to 7), in whatever space the network predicts in."""

from __future__ import annotations

from torch import Tensor


def target(anchor: Tensor, erase: Tensor, null: Tensor, eta: float) -> Tensor:
    """Return the frozen network guided away from the concept: eps(anchor) - eta * (eps(erase) - eps(null)), "b c h w".

    Paper eq. 7 has the empty prompt as anchor; with "erase from" the anchor is that prompt (official code since
    2024), with "replace with" it is the replacement.  The three coefficients sum to one, so the same combination
    holds for epsilon, v, x0 and flow velocity; only the weight of each noise level in the loss differs.
    """
    return anchor - eta * (erase - null)


def loss(prediction: Tensor, wanted: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared error over "b c h w" (paper eq. 7), each sample times its weight ("b") where one is given."""
    squares = (prediction - wanted).square().flatten(1).mean(dim=1)
    return squares.mean() if weight is None else (squares * weight).mean()


def eta_from_negative_guidance(negative_guidance: float, era: str, erase_from: bool) -> float:
    """Return the paper's eta for the `negative_guidance` of an official release; `era` is a key of `ETA_OFFSET`.

    With an "erase from" prompt every release means the same.  Without one, releases since 2025 default it to the
    concept itself, so their target is eps(c) - ng * (eps(c) - eps(null)) and eta is one less.
    """
    return negative_guidance - (0.0 if erase_from else ETA_OFFSET[era])


ETA_OFFSET = {
    "paper-2023": 0.0,
    "official-2023-compvis": 0.0,
    "official-2024-diffusers": 0.0,
    "official-2025": 1.0,
    "official-2026": 1.0,
}
"""What to subtract from `negative_guidance` to get eta when nothing is given to erase from."""
