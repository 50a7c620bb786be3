"""Snapshots of a run in a file, from which it goes on bit for bit."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .denoiser import Denoiser
from .errors import EsdError
from .examples import Example, StreamState
from .files.lazy import open_tensors
from .files.safetensors_write import write_safetensors
from .step_size import Pace
from .train import Snapshot

FORMAT = "esd-snapshot-1"

Tensors = dict[str, Tensor]


def write_snapshot(snapshot: Snapshot, path: Path, run: str) -> None:
    """Write a snapshot under a name that stands for the run's inputs, all or nothing; EsdError as for any file."""
    tensors: Tensors = {"losses": torch.tensor(snapshot.losses, dtype=torch.float64)}
    tensors["worst"] = torch.tensor(list(snapshot.worst), dtype=torch.float64)
    if snapshot.pace:
        tensors["pace"] = torch.tensor(astuple(snapshot.pace), dtype=torch.float64)
    tensors |= {f"student/{name}": tensor for name, tensor in snapshot.student.items()}
    tensors |= {f"adversary/{name}": tensor for name, tensor in snapshot.adversary.items()}
    numbers: dict[str, Any] = {}
    for index, state in snapshot.optimizer.items():
        for name, value in _flat(f"optimizer/{index}", state):
            target = tensors if isinstance(value, Tensor) else numbers
            target[name] = value
    for index, stream in enumerate(snapshot.streams):
        tensors |= {f"stream/{index}/{name}": t for name, t in _packed(stream).items()}
    prompts = [[example.prompt for example in stream.examples] for stream in snapshot.streams]
    text = {"run": run, "numbers": json.dumps(numbers), "prompts": json.dumps(prompts), "format": FORMAT}
    write_safetensors(tensors, path, {**text, "check": _check(tensors, text)})


def _flat(place: str, state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the values of an optimiser's state by their place; some optimisers keep mappings in it."""
    for key, value in state.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{place}/{key}", value)
        else:
            yield f"{place}/{key}", value


def read_snapshot(path: Path, run: str, denoiser: Denoiser) -> Snapshot:
    """Return the snapshot of that run for that denoiser's weights; raise EsdError for another or a damaged file."""
    try:
        with open_tensors(path) as file:
            if file.metadata.get("format") != FORMAT or file.metadata.get("run") != run:
                raise EsdError("it belongs to another run")
            tensors = {name: stored.load() for name, stored in file.tensors.items()}
            text = {key: value for key, value in file.metadata.items() if key != "check"}
            if _check(tensors, text) != file.metadata.get("check"):
                raise EsdError("it is damaged")
            return _snapshot(tensors, text, denoiser)
    except (EsdError, KeyError, ValueError, IndexError, TypeError, RuntimeError) as error:
        raise EsdError(
            f'The snapshot of this run cannot be used ({error}): set start to "start over", or delete the file '
            f"{path.name} in output/esd/runs/{path.parent.name}."
        ) from error


def _check(tensors: Mapping[str, Tensor], text: Mapping[str, str]) -> str:
    """Return a checksum of all that a snapshot holds: an optimiser takes whatever it is given, right or wrong."""
    about = [(name, str(t.dtype), tuple(t.shape)) for name, t in sorted(tensors.items())]
    found = zlib.crc32(json.dumps([about, sorted(text.items())]).encode())
    for _, tensor in sorted(tensors.items()):
        plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found = zlib.crc32(plain.numpy().data, found)
    return f"{found:08x}"


def _snapshot(stored: Mapping[str, Tensor], text: Mapping[str, str], denoiser: Denoiser) -> Snapshot:
    wanted = {name: tuple(p.shape) for name, p in denoiser.trainable.items()}
    student = {name: _of_shape(stored[f"student/{name}"], shape) for name, shape in wanted.items()}
    optimizer: dict[int, dict[str, Any]] = {}
    for name, value in {**_beginning("optimizer/", stored), **json.loads(text["numbers"])}.items():
        index, *around, key = name.removeprefix("optimizer/").split("/")
        state = optimizer.setdefault(int(index), {})
        for each in around:
            state = state.setdefault(each, {})
        state[key] = value
    if not set(optimizer) <= set(range(len(wanted))):
        raise ValueError("its optimiser has other weights")
    streams = [
        _unpacked(f"stream/{index}/", stored, prompts, denoiser)
        for index, prompts in enumerate(json.loads(text["prompts"]))
    ]
    worst = stored["worst"].tolist() if "worst" in stored else []
    adversary = {name.removeprefix("adversary/"): t for name, t in _beginning("adversary/", stored).items()}
    pace = _pace(*stored["pace"].tolist()) if "pace" in stored else None
    return Snapshot(stored["losses"].tolist(), student, optimizer, streams, worst, adversary, pace)


def _pace(rate: float, step: float, *measured: float) -> Pace:
    return Pace(rate, int(step), *measured)


def _beginning(prefix: str, stored: Mapping[str, Tensor]) -> Tensors:
    return {name: tensor for name, tensor in stored.items() if name.startswith(prefix)}


def _of_shape(stored: Tensor, shape: tuple[int, ...]) -> Tensor:
    if stored.shape != shape or stored.dtype != torch.float32:
        raise ValueError(f"a tensor of it is {tuple(stored.shape)}, expected {shape}")
    return stored


def _packed(state: StreamState) -> Tensors:
    examples = state.examples
    return {
        "x": torch.stack([p.x for p in examples]),
        "target": torch.stack([p.target for p in examples]),
        "sigma": torch.tensor([p.sigma for p in examples], dtype=torch.float64),
        "weight": torch.tensor([p.weight for p in examples], dtype=torch.float64),
        "order": torch.tensor(list(state.order), dtype=torch.int64),
        "place": torch.tensor([state.position, state.remaining], dtype=torch.int64),
        "shares": torch.tensor(list(state.shares), dtype=torch.float64),
        "random": state.rng_state,
    }


def _unpacked(prefix: str, stored: Mapping[str, Tensor], prompts: Sequence[str], denoiser: Denoiser) -> StreamState:
    shape = (len(prompts), *denoiser.latent_shape)
    x, target = (_of_shape(stored[prefix + name], shape) for name in ("x", "target"))
    sigma, weight, order, place = (stored[prefix + name].tolist() for name in ("sigma", "weight", "order", "place"))
    examples = [Example(*each) for each in zip(x, sigma, prompts, target, weight, strict=True)]
    position, remaining = place
    if not (0 <= position <= len(order) and remaining >= 0 and all(0 <= i < len(examples) for i in order)):
        raise ValueError("its examples do not fit together")
    random = stored[prefix + "random"]
    torch.Generator().set_state(random)  # raises where it is none
    shares = stored[prefix + "shares"].tolist() if prefix + "shares" in stored else []
    return StreamState(examples, order, position, remaining, random, tuple(shares))
