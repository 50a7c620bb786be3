"""Weights files opened lazily: safetensors tensor by tensor, pickles memory-mapped and with weights only."""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ..errors import EsdError
from .lazy_tensor import DTYPES, LazyTensor, TensorFile, in_memory
from .pickle_scan import check_pickle
from .safetensors_header import Entry, safetensors_header
from .torch_zip import check_torch_zip


@contextmanager
def open_tensors(path: Path) -> Iterator[TensorFile]:
    """Yield the tensors of a file, recognised by its first bytes, while it is open; raise EsdError for others."""
    try:
        with path.open("rb") as file:
            same = _unchanged(path, file)
            found = _reader_for(file.read(9))(path, file)
            yield replace(found, tensors={name: _guarded(each, same) for name, each in found.tensors.items()})
    except OSError as error:
        raise EsdError(
            f"{path.name} could not be read ({error.strerror or error}): check the file and the disk."
        ) from error


def _unchanged(path: Path, file: IO[bytes]) -> Callable[[], None]:
    """Return a check, to call before values are used, that nobody has written to the open file since now.

    Half of one file and half of another would be a result that nobody trained, and a memory-mapped file that becomes
    shorter ends the whole process.  Deleting or replacing the file is no harm: the open one stays as it is.
    """
    before = os.fstat(file.fileno())

    def check() -> None:
        now = os.fstat(file.fileno())
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise EsdError(f"{path.name} changed while it was read: let its download finish, then try again.")

    return check


def _guarded(stored: LazyTensor, check: Callable[[], None]) -> LazyTensor:
    def load() -> Tensor:
        check()
        tensor = stored.load()
        check()
        return tensor

    return replace(stored, load=load)


def _safetensors(path: Path, file: IO[bytes]) -> TensorFile:
    entries, metadata = safetensors_header(path)
    lock = threading.Lock()
    tensors = {name: LazyTensor(e.shape, e.dtype, _reader(file, lock, e)) for name, e in entries.items()}
    return TensorFile(tensors, metadata)


def _reader(file: IO[bytes], lock: threading.Lock, entry: Entry) -> Callable[[], Tensor]:
    def read() -> Tensor:
        raw = torch.empty(entry.end - entry.begin, dtype=torch.uint8)
        if raw.numel():
            with lock:
                file.seek(entry.begin)
                if file.readinto(raw.numpy().data) != raw.numel():  # type: ignore[attr-defined]
                    raise EsdError(
                        "The file became shorter while it was read: let its download finish, then try again."
                    )
        return raw.view(entry.dtype).reshape(entry.shape)

    return read


def _torch_zip(path: Path, file: IO[bytes]) -> TensorFile:
    plain = check_torch_zip(path)
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True, mmap=plain)
    except Exception as error:  # the unpickler raises many types, and none of them is a crash of ours
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise EsdError(f"{path.name} could not be read as weights ({reason}): download it again.") from error
    if not isinstance(tree, dict):
        raise EsdError(f"{path.name} holds a {type(tree).__name__} and no table of weights: choose another file.")
    wrapped = tree.get("state_dict")
    said = {k: v for k, v in tree.items() if isinstance(k, str) and isinstance(v, str)}
    tree = wrapped if isinstance(wrapped, dict) else tree
    named = list(flattened(tree))
    tensors = dict(named)
    if len(tensors) < len(named):
        raise EsdError(f"{path.name} holds a tensor twice under one name: choose a file of one set of weights.")
    if sum(t.nbytes for t in tensors.values()) > max(MOST_SHARED * path.stat().st_size, 4 * MOST_REPEATED):
        raise EsdError(f"{path.name} would unpack to far more than it holds: do not use this file.")
    return TensorFile(
        {name: in_memory(t) for name, t in tensors.items()}, said, any(isinstance(v, dict) for v in tree.values())
    )


def _bare_pickle(path: Path, file: IO[bytes]) -> TensorFile:
    file.seek(0)
    check_pickle(path, file)
    raise EsdError(
        f"{path.name} is a pickle from before PyTorch 1.6 or no weights file: open it with its own program and "
        "save it as safetensors."
    )


def _reader_for(start: bytes) -> Callable[[Path, IO[bytes]], TensorFile]:
    """By a file's first bytes; safetensors has any length first, so it is told by the brace of its header."""
    if start[8:] != b"{":
        if start.startswith(b"PK"):
            return _torch_zip
        if start.startswith(b"\x80"):
            return _bare_pickle
    return _safetensors


MOST_NESTING = 8
"""Tables inside tables; published files have two."""

MOST_ENTRIES = 100_000
"""In all tables together, each counted as often as it is referred to."""

MOST_SHARED = 16
"""How many times a file's size its tensors may have together: few of a network share their values."""


def flattened(tree: Mapping[Any, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield `{module: {parameter: tensor}}` as `module.parameter`; raise EsdError, by name, for what is no tensor."""
    yield from _flattened(tree, "", 1, itertools.count(1))


def _flattened(
    tree: Mapping[Any, Any], prefix: str, depth: int, counter: Iterator[int]
) -> Iterator[tuple[str, Tensor]]:
    for key, value in tree.items():
        if depth > MOST_NESTING or next(counter) > MOST_ENTRIES:
            raise EsdError("The file nests tables without end: choose a file of plain weights.")
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flattened(value, f"{name}.", depth + 1, counter)
        elif isinstance(value, Tensor) and _is_plain(value):
            yield name, value.detach()
        else:
            kind = f"{value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__
            raise EsdError(
                f'The file holds "{name}", a {kind} where a tensor should be: choose a file of plain weights.'
            )


MOST_REPEATED = 2**28
"""Bytes of a tensor whose strides repeat values of the file: small files keep large regular tensors that way."""


def _is_plain(tensor: Tensor) -> bool:
    """No sparse, quantised or complex one, and none that strides blow up from few bytes to more than MOST_REPEATED."""
    return (
        tensor.layout is torch.strided
        and not tensor.is_quantized
        and tensor.dtype in DTYPES.values()
        and math.prod(tensor.shape) * tensor.dtype.itemsize <= max(tensor.untyped_storage().nbytes(), MOST_REPEATED)
    )
