"""How much memory network calls take: a rehearsal on the meta device, where tensors are shapes without values."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ....esd.denoiser import Condition
from ....esd.students import StudentPlan, make_student
from ..families.family import Backward
from .backward import training_mode
from .denoiser import HostDenoiser
from .host_model import HostModel
from .network import compute_dtype, empty_network, fill

META = torch.device("meta")

FUSED_ATTENTION = ("cpu", "cuda", "xpu")
"""Devices whose attention keeps no matrix of all pairs for backward; elsewhere (MPS, DirectML) PyTorch keeps it."""


@dataclass(frozen=True)
class Stage:
    """All that the memory of a run's network calls depends on, whatever the values: equal ones are rehearsed once."""

    kind: type
    config: Mapping[str, Any] = field(compare=False)
    described: str
    weights: tuple[tuple[str, tuple[int, ...]], ...]
    student: StudentPlan
    backward: Backward
    latent: tuple[int, ...]
    device: str
    stored: torch.dtype
    computed: torch.dtype
    condition: tuple[tuple[str, tuple[int, ...], torch.dtype], ...]
    constants: Mapping[str, Any] = field(compare=False, default_factory=dict)

    def denoiser(self) -> HostDenoiser:
        """One without values; outside inference mode."""
        network = empty_network(self.kind, self.config, self.stored, self.computed)
        fill(network, {name: torch.empty(shape, dtype=self.stored, device=META) for name, shape in self.weights})
        network.requires_grad_(False).eval()
        student = make_student(self.student, network)
        made = HostDenoiser(
            network, _Scaled(), student, self.latent, META, self.computed, lambda samples: None, self.backward
        )
        if self.device in FUSED_ATTENTION:  # else PyTorch's formula, which is all that the meta device has
            made.attention = _fused_attention
        return made

    def inputs(self, samples: int) -> tuple[Tensor, Tensor, Condition]:
        """x, sigma and conditions of so many samples."""
        tensors = {
            n: torch.empty((samples, *shape[1:]), dtype=dtype, device=META) for n, shape, dtype in self.condition
        }
        x, sigma = torch.empty((samples, *self.latent), device=META), torch.ones(samples, device=META)
        return x, sigma, Condition(tensors, self.constants)


def stage(
    host: HostModel,
    student: StudentPlan,
    latent: tuple[int, ...],
    device: torch.device,
    dtype: torch.dtype,
    condition: Condition,
) -> Stage:
    """`device` and `dtype` are those of the run, `condition` the longest prompt's."""
    kind, config = host.kind
    computed = compute_dtype(dtype, device)
    return Stage(
        kind,
        config,
        repr(config),
        _shapes(host, dtype),
        student,
        host.family.backward,
        tuple(latent),
        device.type,
        dtype,
        computed,
        _inputs(condition, host.family.adapter_in_network),
        condition.constants,
    )


ADAPTED_TOKENS = 512
"""To how many tokens an adapter in the network fills up a text."""


def _inputs(condition: Condition, adapted: bool) -> tuple[tuple[str, tuple[int, ...], torch.dtype], ...]:
    """Return names, shapes and kinds of what the network is told; numbers of tokens stay whole numbers.

    An adapter, which is small beside its network, does not run on the meta device: what it makes is told instead.
    """
    tensors = sorted(condition.tensors.items())
    if adapted:
        context = condition.tensors["c_crossattn"]
        return (("c_crossattn", (1, max(ADAPTED_TOKENS, context.shape[1]), context.shape[2]), torch.float32),)
    return tuple((n, tuple(t.shape), torch.float32 if t.is_floating_point() else t.dtype) for n, t in tensors)


def _shapes(host: HostModel, dtype: torch.dtype) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return the shapes of the network's weights; a quantised network is rehearsed as a plain one, without scales."""
    if host.is_quantised:
        return tuple((n, tuple(t.shape)) for n, t in empty_network(*host.kind, dtype, dtype).state_dict().items())
    return tuple((name, weight.shape) for name, weight in host.weights().items())


@lru_cache(maxsize=64)
def training_bytes(on: Stage, samples: int, gradient_checkpointing: bool) -> int:
    """Return the peak bytes beyond the weights in the student's forward and backward, casts and gradients included."""
    with torch.inference_mode(False), torch.enable_grad(), training_mode():
        denoiser = on.denoiser()
        denoiser.gradient_checkpointing = gradient_checkpointing

        def both_ways() -> None:
            with denoiser.student():
                denoiser.predict(*on.inputs(samples)).square().mean().backward()

        return _most(both_ways)


@lru_cache(maxsize=64)
def sampling_bytes(on: Stage, samples: int) -> int:
    """Return the same of one call without gradients."""
    with torch.inference_mode(False), torch.no_grad(), training_mode():
        denoiser = on.denoiser()
        return _most(lambda: denoiser.predict(*on.inputs(samples)))


def _most(call: Callable[[], object]) -> int:
    live = _Live()
    with live:
        call()
    return live.most


class _Scaled:
    """A schedule's part in a call: shapes stay."""

    def calculate_input(self, sigma: Tensor, x: Tensor) -> Tensor:
        """x as the network takes it."""
        return x * sigma.reshape(-1, *[1] * (x.ndim - 1))

    def timestep(self, sigma: Tensor) -> Tensor:
        """As the network takes it."""
        return sigma


class _Live(TorchDispatchMode):
    """Counts the bytes of the storages that live, from when an operator makes them until nothing holds them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self.known: set[int] = set()

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
    """Return the host's attention by shapes: "b n (h d)", "b n h d", or "b h n d" where it says so; out likewise."""
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
