"""What is checked of a file before anything in it is believed: headers against sizes, pickles against an allow-list."""

from __future__ import annotations

import json
import pickletools
import zipfile
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import torch

from ..errors import EsdError
from .stored import DTYPES

MOST_HEADER = 100 * 2**20
"""Bytes of a safetensors header, as the format's own readers limit it."""

MOST_PICKLE = 64 * 2**20
"""Bytes of the pickle inside a PyTorch file: names and shapes only, so megabytes at most."""


MOST_UNPACKED = 16
"""How many times its own size a zip file may unpack to: PyTorch does not squeeze, and weights hardly can be."""


_SIZES = {
    **dict.fromkeys(("Untyped", "Bool", "Byte", "Char"), 1),
    **dict.fromkeys(("Short", "Half", "BFloat16"), 2),
    **dict.fromkeys(("Int", "Float"), 4),
    **dict.fromkeys(("Long", "Double"), 8),
}
STORAGES = {f"torch.{kind}Storage": size for kind, size in _SIZES.items()} | {"torch.storage.UntypedStorage": 1}
"""The storage types that PyTorch files name, and the bytes of one element."""


@dataclass(frozen=True)
class Entry:
    """Where a safetensors file keeps one tensor: bytes `begin` to `end` of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def safetensors_header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Entries and metadata of a safetensors file; raises EsdError unless they describe the file's bytes exactly."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(MOST_HEADER, size - 8):
            raise EsdError(
                f"{path.name} is damaged: its header claims {length} bytes of a file of {size}; download it again."
            )
        header = _parsed(path, file.read(length))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise EsdError(f"{path.name} is damaged: its metadata is not text; download it again.")
    entries = {name: _entry(path, name, given, 8 + length) for name, given in header.items()}
    _require_exact_cover(path, entries, 8 + length, size)
    return entries, metadata


def _parsed(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a name stands there twice")
        return dict(pairs)

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise EsdError(f"{path.name} is damaged: its header cannot be read ({error}); download it again.") from error
    if not isinstance(header, dict):
        raise EsdError(f"{path.name} is damaged: its header is not a table of tensors; download it again.")
    return header


def _entry(path: Path, name: str, given: Any, start: int) -> Entry:
    try:
        dtype, shape, (begin, end) = given["dtype"], tuple(given["shape"]), given["data_offsets"]
        if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
            raise ValueError("negative or broken numbers")
    except (KeyError, TypeError, ValueError) as error:
        raise EsdError(
            f'{path.name} is damaged: the header\'s entry "{name}" makes no sense; download it again.'
        ) from error
    if dtype not in DTYPES:
        raise EsdError(
            f'{path.name} stores "{name}" as {dtype}, which cannot be read: use its fp32, fp16 or bf16 version.'
        )
    if end - begin != prod(shape) * DTYPES[dtype].itemsize:
        raise EsdError(
            f'{path.name} is damaged: "{name}" claims the shape {shape} in {end - begin} bytes; download it again.'
        )
    return Entry(DTYPES[dtype], shape, start + begin, start + end)


def _require_exact_cover(path: Path, entries: dict[str, Entry], start: int, size: int) -> None:
    for entry in sorted(entries.values(), key=lambda e: (e.begin, e.end)):
        if entry.begin != start:
            raise EsdError(
                f"{path.name} is damaged: its header describes bytes twice or not at all; download it again."
            )
        start = entry.end
    if start != size:
        raise EsdError(
            f"{path.name} is damaged: its header describes {start} bytes and the file has {size}; download it again."
        )


def check_torch_zip(path: Path) -> bool:
    """Refuse a zip file that is not PyTorch's, claims far more than it has, or whose pickle names strangers.

    Returns whether its records lie there plainly, so that they can be memory-mapped.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            total = sum(r.file_size for r in records)
            plain = all(r.compress_type == zipfile.ZIP_STORED for r in records)
            if total > size * (1 if plain else MOST_UNPACKED):
                raise EsdError(
                    f"{path.name} would unpack to {total} bytes from {size} (a zip bomb): do not use this file."
                )
            pickles = [r for r in records if r.filename.count("/") == 1 and r.filename.endswith("/data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > MOST_PICKLE:
                raise EsdError(
                    f"{path.name} is a zip file without PyTorch weights in it: unpack it and choose the weights."
                )
            with archive.open(pickles[0]) as file:
                storages = check_pickle(path, file)
            folder = pickles[0].filename.removesuffix("data.pkl")
            _require_storages(path, storages, {r.filename.removeprefix(folder): r.file_size for r in records})
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise EsdError(f"{path.name} is damaged ({error}): download it again.") from error
    return plain


def _require_storages(path: Path, storages: dict[str, int], sizes: dict[str, int]) -> None:
    for key, claimed in storages.items():
        found = sizes.get(f"data/{key}", -1)
        if found != claimed:
            raise EsdError(
                f"{path.name} is damaged: its weights claim {claimed} bytes of a record of {max(found, 0)}; "
                "download it again."
            )


def check_pickle(path: Path, file: IO[bytes]) -> dict[str, int]:
    """Refuse a pickle that names anything beside tensors and plain containers, without running any of it.

    Returns the bytes that it claims of each storage.
    """
    try:
        names, storages = pickled_names(file)
        claimed = {key: numel * STORAGES.get(kind, 1) for key, (kind, numel) in storages.items()}
    except (ValueError, IndexError, TypeError) as error:  # the pickle parser's own errors
        raise EsdError(f"{path.name} is damaged: its pickle cannot be read ({error}); download it again.") from error
    allowed = _allowed()
    for name in names:
        if name not in allowed and not _is_tensor_part(name):
            raise EsdError(
                f"{path.name} holds the Python object {name}, which is not a weight and could run code: "
                "do not use this file, or ask its maker for a safetensors file."
            )
    return claimed


def pickled_names(file: IO[bytes]) -> tuple[list[str], dict[str, tuple[str, int]]]:
    """Every `module.name` that a pickle refers to, and each storage's type and length, found by reading its opcodes.

    PyTorch refers to a storage by ("storage", type, key, device, length), five plain values in a row.
    """
    names: list[str] = []
    storages: dict[str, tuple[str, int]] = {}
    recent: list[Any] = []
    memo: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL"):
            names.append(".".join(map(str, recent[-2:])) if argument is None else str(argument).replace(" ", "."))
            recent.append(names[-1])
        elif opcode.name == "MEMOIZE" or "PUT" in opcode.name:
            memo[len(memo) if argument is None else int(argument)] = recent[-1] if recent else None
        elif "GET" in opcode.name:
            recent.append(memo.get(int(argument or 0)))
        elif any(word in opcode.name for word in ("UNICODE", "INT", "LONG")):
            recent.append(argument)
        elif opcode.name == "BINPERSID":
            _, kind, key, _, length = recent[-5:]
            storages[str(key)] = (str(kind), int(length))
    return names, storages


def _allowed() -> set[str]:
    known = {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter",
        "torch.Size",
    }
    for registered in torch.serialization.get_safe_globals():  # what the host has declared harmless
        thing, name = registered if isinstance(registered, tuple) else (registered, None)
        known.add(name or f"{thing.__module__}.{getattr(thing, '__qualname__', '')}")
    return known


def _is_tensor_part(name: str) -> bool:
    module, _, leaf = name.rpartition(".")
    return name in STORAGES or (module == "torch" and isinstance(getattr(torch, leaf, None), torch.dtype))
