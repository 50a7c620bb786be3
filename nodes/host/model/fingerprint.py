"""Digests of MODELs and VAEs by what they compute: equal ones draw equal pictures, in this process or a later one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from .weights import seen_weights

BYTES = 16
PASSING = ("uuid",)
"""Keys of the host's that are new each time and change no picture."""


class _UnknownError(Exception):
    """Something of which equal copies cannot be told."""


def digest_of_model(model: Any) -> str:
    """Return a digest of weights, patches, schedule and what guides the sampling; empty where that cannot be named."""
    digest = hashlib.blake2b(digest_size=BYTES)
    try:
        _feed(digest, type(model.model).__qualname__)
        for name, seen in sorted(seen_weights(model).items()):
            _feed(digest, [name, seen.plain(), seen.entry[1:]])
        _feed(digest, model.get_model_object("model_sampling"))
        _feed(digest, {name: each for name, each in model.object_patches.items() if name != "model_sampling"})
        _feed(digest, model.model_options)
    except _UnknownError:
        return ""
    return digest.hexdigest()


def digest_of_vae(vae: Any) -> str:
    """Return a digest of a VAE's weights."""
    return digest_of(vae.first_stage_model)


def digest_of(*things: Any) -> str:
    """Return a digest of plain values, tensors, modules, and collections of them; empty where one is another thing."""
    digest = hashlib.blake2b(digest_size=BYTES)
    try:
        _feed(digest, list(things))
    except _UnknownError:
        return ""
    return digest.hexdigest()


def _feed(digest: Any, thing: Any) -> None:
    if isinstance(thing, Tensor):
        _feed_tensor(digest, thing)
    elif thing is None or isinstance(thing, str | bytes | int | float | torch.dtype | torch.device):
        digest.update(f"{type(thing).__name__} {thing!r};".encode("utf-8", "surrogatepass"))
    elif isinstance(thing, Mapping):
        _feed_all(digest, [each for key in sorted(thing, key=str) if key not in PASSING for each in (key, thing[key])])
    elif isinstance(thing, list | tuple):
        _feed_all(digest, thing)
    elif isinstance(thing, nn.Module):
        _feed_all(digest, [type(thing).__qualname__, dict(thing.state_dict())])
    elif isinstance(thing, MethodType):
        _feed_all(digest, [thing.__func__, thing.__self__])
    elif isinstance(thing, FunctionType):
        cells = [cell.cell_contents for cell in thing.__closure__ or ()]
        _feed_all(digest, [thing.__module__, thing.__qualname__, thing.__defaults__, *cells])
    else:
        _feed_object(digest, thing)


def _feed_all(digest: Any, things: Iterable[Any]) -> None:
    digest.update(b"(")
    for each in things:
        _feed(digest, each)
    digest.update(b")")


def _feed_object(digest: Any, thing: Any) -> None:
    """By its own identity, or for the host's own small objects by what they hold."""
    kind, identity = type(thing), getattr(thing, "identity", None)
    if isinstance(identity, str) and identity:
        _feed_all(digest, [kind.__qualname__, identity])
    elif kind.__module__.startswith("comfy."):
        _feed_all(digest, [kind.__qualname__, thing.__dict__])
    else:
        raise _UnknownError(kind.__qualname__)


def _feed_tensor(digest: Any, tensor: Tensor) -> None:
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_meta:
        raise _UnknownError(type(tensor).__qualname__)
    plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
    digest.update(plain.numpy().data)
