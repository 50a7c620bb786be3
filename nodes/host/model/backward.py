"""What backward through the host's networks asks for: blocks recomputed, and inputs kept that blocks write into."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import comfy.quant_ops
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..families.family import Backward


@contextmanager
def training_mode() -> Iterator[None]:
    """Tell hosts that ask (`comfy.model_management.in_training`) that gradients are wanted, and take it back.

    Without it their fast kernels have no backward; it is open for the base too, so that both compute alike.
    """
    with ExitStack() as stack:
        if hasattr(comfy.model_management, "in_training"):
            stack.enter_context(replaced(comfy.model_management, "in_training", True))
        kitchen = getattr(comfy.quant_ops, "ck", None)
        if hasattr(kitchen, ROPE):  # which does not ask for `in_training`
            eager = importlib.import_module("comfy_kitchen.backends.eager")
            stack.enter_context(replaced(kitchen, ROPE, getattr(eager, ROPE)))
        yield


ROPE = "rms_rope_split_half"


@contextmanager
def replaced(place: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute while it is open."""
    before = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)


@contextmanager
def differentiable(network: nn.Module, asked: Backward, gradient_checkpointing: bool) -> Iterator[None]:
    """While it is open, backward through the network is right, and with checkpointing takes little memory.

    Keep it open over backward: what is recomputed must find the same network.
    """
    with ExitStack() as stack:
        if asked.in_place:
            stack.enter_context(_copied_before_norms(network))
        if gradient_checkpointing:
            stack.enter_context(_checkpointed(network, asked))
        yield


@contextmanager
def _copied_before_norms(network: nn.Module) -> Iterator[None]:
    """Let each LayerNorm normalise a copy: blocks that add to their input in place would spoil what it has saved."""
    with ExitStack() as hooks:
        for module in network.modules():
            if isinstance(module, nn.LayerNorm):
                hooks.callback(module.register_forward_pre_hook(_copy_first).remove)
        yield


def _copy_first(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].clone(), *inputs[1:])


@contextmanager
def _checkpointed(network: nn.Module, asked: Backward) -> Iterator[None]:
    """Recompute the blocks' activations in backward instead of storing them."""
    blocks = checkpoint_blocks(network, asked.blocks)
    forwards, own = [block.forward for block in blocks], [block.__dict__.get("forward") for block in blocks]
    try:
        for block, forward in zip(blocks, forwards, strict=True):
            block.forward = _with_checkpointing(_on_copies(forward) if asked.in_place else forward)
        yield
    finally:
        for block, before in zip(blocks, own, strict=True):
            del block.forward
            if before is not None:
                block.forward = before


def checkpoint_blocks(module: nn.Module, classes: Sequence[str]) -> list[nn.Module]:
    """Return the blocks to recompute as a whole: the outermost of these classes, with one inside at most."""
    inside = [block for child in module.children() for block in checkpoint_blocks(child, classes)]
    return [module] if type(module).__name__ in classes and len(inside) < 2 else inside


def block_paths(network: nn.Module, classes: tuple[str, ...]) -> list[str]:
    """Return the paths of the blocks that are recomputed as a whole, in the network's order."""
    blocks = {id(block) for block in checkpoint_blocks(network, classes)}
    return [path for path, module in network.named_modules() if id(module) in blocks]


def _with_checkpointing(forward: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return call


def _on_copies(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a block that writes into copies of its inputs, so that recomputing it finds them as they were."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return forward(*map(_copied, args), **{name: _copied(value) for name, value in kwargs.items()})

    return call


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
