"""How much memory network calls take: a rehearsal on the meta device, where tensors are shapes without values."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...esd.denoiser import Condition
from .denoiser import HostDenoiser
from .network import compute_dtype, empty_network, fill
from .weights import seen_weights

META = torch.device("meta")

FUSED_ATTENTION = ("cpu", "cuda", "xpu")
"""Devices whose attention keeps no matrix of all pairs for backward; elsewhere (MPS, DirectML) PyTorch keeps it."""


class Rehearsal:
    """A run's network calls on the meta device; a figure is the most bytes that live at once beyond the weights."""

    @torch.inference_mode(False)
    def __init__(
        self,
        model: Any,
        names: Sequence[str],
        latent: tuple[int, ...],
        device: torch.device,
        dtype: torch.dtype,
        condition: Mapping[str, tuple[int, ...]],
    ) -> None:
        """`device` and `dtype` are those of the run, `condition` the shapes of one prompt's tensors ("1 ...")."""
        network = empty_network(model, device, dtype)
        shapes = {name: weight.shape for name, weight in seen_weights(model).items()}
        state = {name: torch.empty(shape, dtype=dtype, device=META) for name, shape in shapes.items()}
        fill(network, state)
        network.requires_grad_(False).eval()
        sampling = copy.deepcopy(model.get_model_object("model_sampling")).to(META)
        self.denoiser = HostDenoiser(
            network, sampling, names, latent, META, compute_dtype(dtype, device), lambda samples: None
        )
        if device.type in FUSED_ATTENTION:  # else PyTorch's formula, which is all that the meta device has
            self.denoiser.attention = _fused_attention
        self.condition = condition

    def training(self, samples: int, checkpointing: bool) -> int:
        """Forward and backward of the student with its casts and gradients."""
        self.denoiser.checkpointing = checkpointing

        def both_ways() -> None:
            with torch.enable_grad(), self.denoiser.student():
                self.denoiser.predict(*self._inputs(samples)).square().mean().backward()

        try:
            return self._most(both_ways)
        finally:
            for parameter in self.denoiser.trainable.values():
                parameter.grad = None

    def sampling(self, samples: int) -> int:
        """One call without gradients."""
        return self._most(torch.no_grad()(lambda: self.denoiser.predict(*self._inputs(samples))))

    def _most(self, call: Callable[[], object]) -> int:
        with torch.inference_mode(False), _Live() as live:
            call()
        return live.most

    def _inputs(self, samples: int) -> tuple[Tensor, Tensor, Condition]:
        tensors = {n: torch.empty((samples, *shape[1:]), device=META) for n, shape in self.condition.items()}
        x = torch.empty((samples, *self.denoiser.latent_shape), device=META)
        return x, torch.ones(samples, device=META), Condition(tensors)


class _Live(TorchDispatchMode):
    """Counts the bytes of the storages that live, from when an operator makes them until nothing holds them."""

    def __enter__(self) -> Any:
        self.now = self.most = 0
        self.known: set[int] = set()
        return super().__enter__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {_storage(t)._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and _storage(tensor)._cdata not in before | self.known:
                self._add(_storage(tensor))
        return made

    def _add(self, storage: Any) -> None:
        size, key = storage.nbytes(), storage._cdata
        self.known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._drop, key, size).atexit = False

    def _drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def _storage(tensor: Tensor) -> Any:
    return tensor.untyped_storage()


def _fused_attention(
    original: object,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    *others: Any,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    **more: Any,
) -> Tensor:
    """The host's attention by shapes: "b n (h d)", some as "b n h d", or "b h n d" where it says so; out likewise."""
    if not skip_reshape:
        size = q.shape[-1] // heads
        q, k, v = (t.reshape(t.shape[0], -1, heads, size).transpose(1, 2) for t in (q, k, v))
    out: Tensor = _Attention.apply(q, k, v)  # type: ignore[no-untyped-call]
    return out if skip_output_reshape else rearrange(out, "b h n d -> b n (h d)")


class _Attention(torch.autograd.Function):
    """The memory of fused attention: its inputs, its output, and a number for each query."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Of the output's shape."""
        batch, heads, tokens, _ = q.shape
        out = q.new_empty((batch, tokens, heads, v.shape[-1])).transpose(1, 2)  # as the kernels lay it
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Of the inputs' shapes."""
        return tuple(torch.empty_like(each) for each in ctx.saved_tensors[:3])
