"""The table of optimisers: what each makes, and the bytes of its state."""

from __future__ import annotations

import pytest
import torch

from esd_pack.esd.optimizers import OPTIMIZERS, make_optimizer


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4)])
def test_the_state_takes_what_the_table_says(name, shape):
    weight = torch.nn.Parameter(torch.ones(shape))
    made = make_optimizer(name, [weight], 1e-3)
    weight.grad = torch.ones(shape)
    made.step()
    (state,) = made.state.values()
    taken = sum(t.nbytes for key, t in state.items() if key != "step")
    assert OPTIMIZERS[name].state_bytes(shape) == pytest.approx(taken)


def test_bits_for_eight_take_a_quarter():
    assert OPTIMIZERS["adamw8bit"].state_bytes((3, 4)) * 4 == OPTIMIZERS["adamw"].state_bytes((3, 4))
