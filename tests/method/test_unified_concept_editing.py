"""Unified Concept Editing: the minimum of the paper's sum, and what it moves and holds."""

from __future__ import annotations

import pytest
import torch

from esd_pack.esd.errors import EsdError
from esd_pack.esd.unified_concept_editing import edit

WIDE = 12


def tokens(count, seed):
    return torch.randn((count, WIDE), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss(new, old, erased, wanted, kept, ridge):
    """The sum as the paper writes it, token by token."""
    moved = sum((new @ c - old @ w).square().sum() for c, w in zip(erased, wanted, strict=True))
    return moved + sum((new @ k - old @ k).square().sum() for k in kept) + ridge * (new - old).square().sum()


@pytest.mark.parametrize("ridge", [0.01, 0.5, 100.0])
def test_it_is_the_minimum(ridge):
    erased, wanted, kept, old = tokens(3, 0), tokens(3, 1), tokens(4, 2), torch.randn((5, WIDE)).double()
    change = edit(erased, wanted, kept, ridge)
    new = (old + old @ change).requires_grad_()
    found = loss(new, old, erased, wanted, kept, ridge)
    (gradient,) = torch.autograd.grad(found, new)
    assert gradient.abs().max() < 1e-9 and found < loss(old, old, erased, wanted, kept, ridge)


def test_erased_tokens_act_as_others_and_kept_ones_as_themselves():
    erased, wanted, kept = tokens(3, 0), tokens(3, 1), tokens(4, 2)
    moves = torch.eye(WIDE).double() + edit(erased, wanted, kept, 1e-9)
    assert torch.allclose(moves @ erased.T, wanted.T, atol=1e-4) and torch.allclose(moves @ kept.T, kept.T, atol=1e-4)
    held = torch.eye(WIDE).double() + edit(erased, wanted, kept, 1e9)
    assert torch.allclose(held, torch.eye(WIDE).double(), atol=1e-6)


def test_tokens_that_should_be_themselves_change_nothing():
    assert edit(tokens(3, 0), tokens(3, 0), tokens(0, 1)).abs().max() == 0


@pytest.mark.parametrize("ridge", [0, -1.0, float("nan")])
def test_a_ridge_that_is_none(ridge):
    with pytest.raises(EsdError, match="must be above 0"):
        edit(tokens(1, 0), tokens(1, 1), tokens(0, 2), ridge)
