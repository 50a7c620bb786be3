"""PyTorch's switches for how kernels compute, as a training needs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.utils.deterministic

from ..model.backward import replaced

_ALWAYS: tuple[tuple[Any, str, Any], ...] = (
    # ComfyUI's --fast fp16_accumulation is for sampling: small gradients vanish in such sums
    (torch.backends.cuda.matmul, "allow_fp16_accumulation", False),
)

_DETERMINISTIC: tuple[tuple[Any, str, Any], ...] = (
    (torch.backends.cudnn, "benchmark", False),  # it times kernels, and takes another one in another run
    (torch.utils.deterministic, "fill_uninitialized_memory", False),  # costs time, and finds errors that we test for
)


@contextmanager
def training_numerics(deterministic: bool) -> Iterator[None]:
    """While it is open, products add up as they should and, where asked, equal inputs give equal bits.

    On CUDA convolutions and attention are not deterministic in backward unless PyTorch is told to; kernels that have
    no deterministic form are used with a warning.
    """
    with ExitStack() as stack:
        for place, name, value in (*_ALWAYS, *(_DETERMINISTIC if deterministic else ())):
            if hasattr(place, name):  # not every PyTorch has every switch
                stack.enter_context(replaced(place, name, value))
        if deterministic:
            stack.enter_context(_deterministic_algorithms())
        yield


@contextmanager
def _deterministic_algorithms() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=not before or only_warned)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warned)
