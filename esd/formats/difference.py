"""Values against a base, tensor by tensor: what really differs, by how much, and whether the base is the right one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from ..errors import EsdError
from ..files.lazy_tensor import LazyTensor

LARGE_CHANGE = 0.5
"""Change over weight (Frobenius norms, median over tensors) beyond what erasing does; unrelated weights give 1.4."""

WHOLE = 0.95
"""Share of a network's tensors from which on a file counts as the whole network."""


@dataclass(frozen=True)
class Comparison:
    """The changes by name (float32), how many tensors were compared and equal, and the median relative change."""

    differences: Mapping[str, Tensor]
    compared: int
    equal: int
    relative: float

    def mismatch(self, tensors_of_network: int) -> str | None:
        """Why the base does not look like the one that the values were trained from, in figures; None if it does.

        A whole network has tensors that no method but "full" trains, and they equal the right base; of a file with
        trained tensors alone only the size of the change can be judged.
        """
        whole = self.compared >= WHOLE * tensors_of_network
        if whole and not self.equal:
            return (
                f"none of its {self.compared} tensors equals this MODEL's; the median difference is {self.relative:.1%}"
            )
        if not whole and self.relative > LARGE_CHANGE:
            return (
                f"its tensors differ from this MODEL's by {self.relative:.0%} (median), where erasing changes some 10%"
            )
        return None


def compare(values: Mapping[str, LazyTensor], base: Callable[[str], Tensor], without_rounding: bool) -> Comparison:
    """Absolute values as changes of a base; tensors that only differ by the coarser dtype's rounding are dropped.

    `without_rounding` takes the base in the values' own dtype first, so that a bf16 file changes an fp32 base by what
    was trained and not by the rounding of the rest.  Raises EsdError for values that are not finite.
    """
    differences: dict[str, Tensor] = {}
    sizes: list[float] = []
    for name, stored in values.items():
        value, own = stored.load(), base(name)
        value = value.reshape(own.shape)
        if equal_up_to_rounding(value, own):
            continue
        start = own.to(value.dtype) if without_rounding else own
        change = value.float() - start.float()
        require_finite(name, change)
        differences[name] = change
        sizes.append(float(change.norm() / own.float().norm().clamp(min=1e-12)))
    return Comparison(differences, len(values), len(values) - len(differences), median(sizes) if sizes else 0.0)


def equal_up_to_rounding(a: Tensor, b: Tensor) -> bool:
    """Whether one of two tensors is the other in the other's dtype."""
    return torch.equal(a.float(), b.to(a.dtype).float()) or torch.equal(a.to(b.dtype).float(), b.float())


def require_finite(name: str, tensor: Tensor) -> None:
    """Raise EsdError for NaN and infinity, which would turn every picture black."""
    if not bool(torch.isfinite(tensor).all()):
        raise EsdError(f"{name} holds NaN or infinity in this file: its training failed, so use another file.")
