"""Memory that runs out: how it is known, and what is said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management
import torch

from ....esd.errors import EsdError

_SHORTAGE = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


def is_oom(error: BaseException) -> bool:
    """Whether an error says that memory ran out: each device and system has its own type or its own words for it."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _SHORTAGE)


@contextmanager
def translate_oom(doing: str, cure: str) -> Iterator[None]:
    """Where memory runs out inside, raise EsdError with what was done and the cure, and let the host unload models."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_oom(error):
            raise
        comfy.model_management.unload_all_models()  # the host does so for the errors that it knows
        raise EsdError(f"Memory ran out while {doing}: {cure}.") from error
