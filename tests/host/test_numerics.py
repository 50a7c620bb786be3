"""PyTorch's switches while a training runs, and after it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def numerics(comfy, node_classes):
    """The module."""
    from esd_pack.nodes.host.run import numerics

    return numerics


PRODUCTS = SimpleNamespace(allow_fp16_accumulation=True)
"""In the place of `torch.backends.cuda.matmul`, which keeps nothing where there is no CUDA."""


def switches():
    """All that the module touches."""
    return {
        "fp16 sums": PRODUCTS.allow_fp16_accumulation,
        "timing": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "only warned": torch.is_deterministic_algorithms_warn_only_enabled(),
        "filled": torch.utils.deterministic.fill_uninitialized_memory,
    }


@pytest.fixture
def fast(numerics, monkeypatch):
    """A host that was started with --fast."""
    ((place, name, value),) = numerics._ALWAYS
    assert hasattr(place, name)
    monkeypatch.setattr(numerics, "_ALWAYS", ((PRODUCTS, name, value),))
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    yield
    torch.backends.cudnn.benchmark = before


@pytest.mark.parametrize("asked", [True, False])
def test_a_training_has_its_own_switches_and_gives_the_host_s_back(numerics, fast, asked):
    before = switches()
    with pytest.raises(ZeroDivisionError), numerics.training_numerics(asked):
        inside = switches()
        raise ZeroDivisionError
    assert not inside["fp16 sums"] and inside["deterministic"] is asked and inside["timing"] is not asked
    assert inside["only warned"] is asked
    assert switches() == before


def test_a_host_that_asks_for_errors_keeps_them(numerics):
    torch.use_deterministic_algorithms(True)
    try:
        with numerics.training_numerics(True):
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_pytorch_without_a_switch_is_no_error(numerics, monkeypatch):
    monkeypatch.setattr(numerics, "_ALWAYS", ((SimpleNamespace(), "missing", False),))
    with numerics.training_numerics(False):
        pass


def test_a_run_trains_with_them(comfy, playground, monkeypatch):
    from esd_pack.esd import train
    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.run.erase import erase_model

    seen, original = [], train.accumulate_gradients
    monkeypatch.setattr(train, "accumulate_gradients", lambda *given: (seen.append(switches()), original(*given))[1])
    small = {
        "steps": 1,
        "num_inference_steps": 2,
        "samples_per_trajectory": 2,
        "trajectory_batch": 1,
        "buffer_size": 2,
        "width": 64,
        "height": 64,
        "closed_form": False,
    }
    for asked in (True, False):
        with torch.inference_mode():
            erase_model(*playground[:2], [make_concept("cat")], [], Settings(**small, deterministic=asked))
    assert [each["deterministic"] for each in seen] == [True, False]
