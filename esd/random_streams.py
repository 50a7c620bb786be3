"""Independent random streams of one seed: what one draws never moves what another draws."""

from __future__ import annotations

import torch

ERASED, KEPT, MEASURING, CONFIRMING, LOOKING, ATTACKING, DRIFTING = range(7)
"""What draws: examples of concepts and of keeps, held-out trajectories, looks, attacks, held-out points of keeps."""

ASKING, SIDES = 32, 33
"""Which pairs are on a blind sheet, and what is left and right there."""


DOUBTING, DOUBTING_LAST = 2**16, 2**17
"""Held-out trajectories of a concept of many that is measured again, and once more; the concept's place is added."""


def stream_generator(seed: int, stream: int) -> torch.Generator:
    """Return the generator of a stream, on the CPU."""
    return torch.Generator().manual_seed((seed + stream * 0x9E3779B97F4A7C15) % 2**63)
