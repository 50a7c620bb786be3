"""Blocks whose weights stay in the CPU's memory and visit the device in turn, in forward and recomputation alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import comfy.model_management
import torch
from torch import Tensor, nn

from .quantised import rebuilt


class Visitor(NamedTuple):
    """A tensor of a block: the module's own mapping that holds it, its name there, itself, and its copy."""

    place: dict[str, Any]
    name: str
    held: Tensor
    copy: Tensor


@contextmanager
def streaming(network: nn.Module, blocks: Collection[str], device: torch.device) -> Iterator[None]:
    """While it is open, the blocks of these paths have their weights on the device for as long as they are called.

    Keep it open over backward, and let blocks be recomputed there: else autograd keeps every weight that has visited.
    """
    if not blocks:
        yield
        return
    modules = [network.get_submodule(path) for path in blocks]
    forwards = [module.forward for module in modules]
    stream = _Stream(modules, device)
    with pinned(modules, device):
        try:
            for index, (module, forward) in enumerate(zip(modules, forwards, strict=True)):
                module.forward = _visiting(stream, index, forward)
            yield
        finally:
            stream.copier.wait()
            stream.ahead.clear()
            for module in modules:
                del module.forward


def _visiting(stream: _Stream, index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with stream.visit(index):
            return forward(*args, **kwargs)

    return call


class _Stream:
    """Which block is on the device, and which one is on its way there: at most two at a time.

    The next one is what followed the last time: by the two blocks before, and whether gradients were wanted.
    """

    def __init__(self, blocks: list[nn.Module], device: torch.device) -> None:
        self.blocks, self.device, self.copier = blocks, device, _Copier(device)
        self.followed: dict[tuple[bool, int, int], int] = {}
        self.before, self.last = (False, -1, -1), -1
        self.ahead: dict[int, list[Visitor]] = {}

    @contextmanager
    def visit(self, index: int) -> Iterator[None]:
        """Put a block's weights on the device in place of those on the CPU, and these back afterwards."""
        self.followed[self.before] = index
        self.before = (torch.is_grad_enabled(), self.last, index)
        self.last = index
        self.copier.wait()
        there = self._arrived(index)
        following = self.followed.get(self.before)
        if following is not None:
            self.ahead[following] = there if following == index else self._sent(following)
        try:
            for place, name, _, copy in there:
                place[name] = copy
            yield
        finally:
            for place, name, held, _ in there:
                place[name] = held

    def _arrived(self, index: int) -> list[Visitor]:
        """Return a block's tensors on the device: those that were sent ahead, where they still belong there."""
        found = {id(each.held): each for each in self.ahead.pop(index, [])}
        self.ahead.clear()
        wanted = held_tensors(self.blocks[index], self.device)
        return [
            Visitor(place, name, held, found[id(held)].copy if id(held) in found else self.copier.now(held))
            for place, name, held in wanted
        ]

    def _sent(self, index: int) -> list[Visitor]:
        """Let a block's tensors be copied beside what is computed now."""
        wanted = held_tensors(self.blocks[index], self.device)
        copies = self.copier.ahead([held for _, _, held in wanted])
        return [Visitor(*each, copy) for each, copy in zip(wanted, copies, strict=True)]


def held_tensors(block: nn.Module, device: torch.device) -> list[tuple[dict[str, Any], str, Tensor]]:
    """Return mapping, name and tensor for all of a block that are not on the device; a student's own are there."""
    places = [place for module in block.modules() for place in (module._parameters, module._buffers)]
    return [
        (place, name, held)
        for place in places
        for name, held in place.items()
        if held is not None and held.device != device
    ]


class _Copier:
    """Copies to a device, where it has streams beside the computation."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.module: Any = getattr(torch, device.type, None)
        make = getattr(self.module, "Stream", None) if device.type != "cpu" else None
        self.stream: Any = make(device) if make is not None else None

    def now(self, held: Tensor) -> Tensor:
        """Return a copy that what is computed next finds done."""
        return rebuilt(held, lambda plain: plain.to(self.device))

    def ahead(self, held: list[Tensor]) -> list[Tensor]:
        """Return copies that are done after `wait`.

        Their memory is of the computing stream, and the copying one begins when what was computed before is done: so
        what a block gives back is there for the block after next, however far Python runs ahead of the device.
        """
        if self.stream is None:
            return [self.now(each) for each in held]
        made = [rebuilt(each, lambda plain: torch.empty_like(plain, device=self.device)) for each in held]
        self.stream.wait_stream(self.module.current_stream(self.device))
        with self.module.stream(self.stream):
            for copy, each in zip(made, held, strict=True):
                for to, plain in zip(_parts(copy), _parts(each), strict=True):
                    to.copy_(plain, non_blocking=True)
        return made

    def wait(self) -> None:
        """Let what is computed from now on wait for all copies."""
        if self.stream is not None:
            self.module.current_stream(self.device).wait_stream(self.stream)


def _parts(tensor: Tensor) -> list[Tensor]:
    """Return the plain tensors that a tensor is made of."""
    found: list[Tensor] = []

    def note(plain: Tensor) -> Tensor:
        found.append(plain)
        return plain

    rebuilt(tensor, note)
    return found


@contextmanager
def pinned(blocks: Collection[nn.Module], device: torch.device) -> Iterator[None]:
    """Pin the CPU's memory of the blocks' weights as far as the host allows, which is what makes copies quick.

    The host counts what is pinned, and refuses where its share of the memory is used up or the device has no pinning.
    """
    pin = getattr(comfy.model_management, "pin_memory", None)
    unpin = getattr(comfy.model_management, "unpin_memory", None)
    with ExitStack() as stack:
        if pin is not None and unpin is not None:
            for block in blocks:
                for part in [part for _, _, held in held_tensors(block, device) for part in _parts(held)]:
                    if pin(part):
                        stack.callback(unpin, part)
        yield
