"""Weights files opened lazily: safetensors tensor by tensor, pickles memory-mapped and with weights only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ..errors import EsdError
from .checks import Entry, check_pickle, check_torch_zip, safetensors_header
from .stored import StoredFile, StoredTensor, in_memory


@contextmanager
def opened(path: Path) -> Iterator[StoredFile]:
    """The tensors of a file while it is open, recognised by its first bytes; raises EsdError for what it refuses."""
    try:
        with path.open("rb") as file:
            yield _reader_for(file.read(9))(path, file)
    except OSError as error:
        raise EsdError(
            f"{path.name} could not be read ({error.strerror or error}): check the file and the disk."
        ) from error


def _safetensors(path: Path, file: IO[bytes]) -> StoredFile:
    entries, metadata = safetensors_header(path)
    lock = threading.Lock()
    tensors = {name: StoredTensor(e.shape, e.dtype, _reader(file, lock, e)) for name, e in entries.items()}
    return StoredFile(tensors, metadata)


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


def _torch_zip(path: Path, file: IO[bytes]) -> StoredFile:
    plain = check_torch_zip(path)
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True, mmap=plain)
    except Exception as error:  # the unpickler raises many types, and none of them is a crash of ours
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise EsdError(f"{path.name} could not be read as weights ({reason}): download it again.") from error
    if not isinstance(tree, dict):
        raise EsdError(f"{path.name} holds a {type(tree).__name__} and no table of weights: choose another file.")
    wrapped = tree.get("state_dict")
    tree = wrapped if isinstance(wrapped, dict) else tree
    tensors = dict(flattened(tree))
    return StoredFile(
        {name: in_memory(t) for name, t in tensors.items()}, {}, any(isinstance(v, dict) for v in tree.values())
    )


def _bare_pickle(path: Path, file: IO[bytes]) -> StoredFile:
    file.seek(0)
    check_pickle(path, file)
    raise EsdError(
        f"{path.name} is a pickle from before PyTorch 1.6 or no weights file: open it with its own program and "
        "save it as safetensors."
    )


def _reader_for(start: bytes) -> Callable[[Path, IO[bytes]], StoredFile]:
    """By a file's first bytes; safetensors has any length first, so it is told by the brace of its header."""
    if start[8:] != b"{":
        if start.startswith(b"PK"):
            return _torch_zip
        if start.startswith(b"\x80"):
            return _bare_pickle
    return _safetensors


MOST_NESTING = 8
"""Tables inside tables; published files have two."""


def flattened(tree: Mapping[Any, Any], prefix: str = "", depth: int = 1) -> Iterator[tuple[str, Tensor]]:
    """`{module: {parameter: tensor}}` as `module.parameter`; raises EsdError, by name, for what is no tensor."""
    if depth > MOST_NESTING:
        raise EsdError("The file nests tables without end: choose a file of plain weights.")
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from flattened(value, f"{name}.", depth + 1)
        elif isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized:
            yield name, value.detach()
        else:
            kind = value.layout if isinstance(value, Tensor) else type(value).__name__
            raise EsdError(
                f'The file holds "{name}", a {kind} where a tensor should be: choose a file of plain weights.'
            )
