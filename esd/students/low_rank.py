"""The low-rank student: W + up @ down beside each selected Linear layer, whose own weight is only ever read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..erasure import Erasure, LowRankChange
from .student import StudentPlan

WIDE, OVERSAMPLED, ITERATIONS = 2048, 32, 6
"""From which width on only some factors are computed; how many more of them than needed; how often they are refined."""

DOWN, UP = "lora_down.weight", "lora_up.weight"


class LowRankStudent:
    """A LoRA (Hu et al., 2021) as a forward hook: alpha is the rank, so the scale is 1.

    up begins at 0, so the first output is the frozen one bit for bit.  The layers may keep their weights in any form,
    since nothing is written into them: float8, quantised layouts, other devices.
    """

    def __init__(self, plan: StudentPlan, network: nn.Module, device: torch.device | None = None) -> None:
        """Draw down as LoRA does (Kaiming, uniform), from the plan's seed; `network` has a Linear for each name."""
        generator = torch.Generator().manual_seed(plan.seed)
        self.rank = plan.rank
        self.layers: dict[str, nn.Linear] = {}
        self.rows: dict[str, tuple[int, int]] = {}
        self.trainable: dict[str, nn.Parameter] = {}
        self.drawn: dict[str, Tensor] = {}
        for name in plan.names:
            path = name.removesuffix(".weight")
            if not hasattr(network.get_submodule(path), "in_features"):  # hosts have Linear layers of their own
                raise TypeError(f"{path} is no Linear layer")
            layer = cast(nn.Linear, network.get_submodule(path))
            self.layers[name], self.rows[name] = layer, plan.rows_of(name, layer.out_features)
            first, last = self.rows[name]
            drawn = torch.rand((plan.rank, layer.in_features), generator=generator) * 2 - 1
            down, there = drawn / layer.in_features**0.5, device or layer.weight.device
            up, learns = torch.zeros((last - first, plan.rank), device=there), name not in plan.fixed
            self.trainable[f"{path}.{DOWN}"] = nn.Parameter(down.to(there), learns)
            self.trainable[f"{path}.{UP}"] = nn.Parameter(up, learns)

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        path = name.removesuffix(".weight")
        return self.trainable[f"{path}.{UP}"], self.trainable[f"{path}.{DOWN}"]

    @torch.no_grad()
    def begin(self, edits: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        """Take the nearest B of this rank (truncated SVD); the layers themselves, in any form, multiply by W.

        A vector at a time: hosts that compute in fp8 or fp4 round what comes in as a batch.
        """
        factors = {id(edit): _factors(edit.double(), self.rank) for edit in _distinct(edits.values())}
        for name, edit in edits.items():
            up, down = self._pair(name)
            drawn = self.drawn.setdefault(name, down.clone())
            u, s, vh = factors[id(edit)]
            rank, root = min(len(s), down.shape[0]), s.sqrt()
            layer = self.layers[name]
            columns = (u * root).mT[:rank].to(layer.weight.device, dtype)
            made = torch.stack([layer(column) for column in columns]) - layer(torch.zeros_like(columns[0]))
            up.zero_()
            down.copy_(drawn)
            if not s.any():
                continue
            up[:, :rank] = made[:, slice(*self.rows[name])].to(up).mT
            down[:rank] = (root[:, None] * vh)[:rank].to(down)

    @contextmanager
    def attached(self, dtype: torch.dtype) -> Iterator[None]:
        """Hang the changes on their layers, in the precision of what goes through them, and take them off again."""
        with ExitStack() as hooks:
            for name, layer in self.layers.items():
                handle = layer.register_forward_hook(self._hook(name, layer))
                hooks.callback(handle.remove)
            yield

    def _hook(self, name: str, layer: nn.Linear) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        up, down = self._pair(name)
        first, last = self.rows[name]
        around = (first, layer.out_features - last)

        def add(layer: nn.Module, inputs: Any, out: Tensor) -> Tensor:
            x = inputs[0].to(out.dtype)
            change = functional.linear(functional.linear(x, down.to(x.dtype)), up.to(x.dtype))
            return out + (functional.pad(change, around) if any(around) else change)

        return add

    def erasure(self, prefix: str) -> Erasure:
        """Return the changes by name, up with rows of 0 where a layer is only trained in part."""
        changes = {}
        for name, layer in self.layers.items():
            up, down = (t.detach().float().cpu().clone() for t in self._pair(name))
            first, last = self.rows[name]
            whole = functional.pad(up, (0, 0, first, layer.out_features - last))
            changes[prefix + name] = LowRankChange(whole.contiguous(), down.contiguous())
        return Erasure({}, low_rank=changes)


def _factors(edit: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return u, s, vh of a matrix "d d", of wide ones the first alone.

    By subspace iteration (Halko, Martinsson and Tropp, 2011, algorithm 4.4), where all of them would take minutes.
    """
    if len(edit) <= WIDE:
        return torch.linalg.svd(edit, full_matrices=False)  # type: ignore[no-any-return]
    columns = min(len(edit), rank + OVERSAMPLED)
    drawn = torch.randn((len(edit), columns), generator=torch.Generator().manual_seed(0), dtype=edit.dtype)
    basis = torch.linalg.qr(edit @ drawn).Q
    for _ in range(ITERATIONS):
        basis = torch.linalg.qr(edit @ torch.linalg.qr(edit.mT @ basis).Q).Q
    u, s, vh = torch.linalg.svd(basis.mT @ edit, full_matrices=False)
    return basis @ u, s, vh


def _distinct(edits: Iterable[Tensor]) -> Iterable[Tensor]:
    """Return each edit once: keys share one, values the other, and factors of a wide text take seconds."""
    return {id(edit): edit for edit in edits}.values()
