"""What a pickle would do, found by reading its opcodes: nothing of it is run here."""

from __future__ import annotations

import io
import itertools
import pickletools
from pathlib import Path
from typing import IO, Any

import torch

from ..errors import EsdError

MOST_PICKLE = 64 * 2**20
"""Bytes of the pickle inside a PyTorch file: names and shapes only, so megabytes at most."""

_PIECE = 2**16

MOST_OPCODES = 1_000_000
"""In one file: a tensor takes some fifty, so this is far more than any network has."""

_SIZES = {
    **dict.fromkeys(("Untyped", "Bool", "Byte", "Char"), 1),
    **dict.fromkeys(("Short", "Half", "BFloat16"), 2),
    **dict.fromkeys(("Int", "Float"), 4),
    **dict.fromkeys(("Long", "Double"), 8),
}
STORAGES = {f"torch.{kind}Storage": size for kind, size in _SIZES.items()} | {"torch.storage.UntypedStorage": 1}
"""The storage types that PyTorch files name, and the bytes of one element."""


def check_pickle(path: Path, file: IO[bytes]) -> dict[str, int]:
    """Refuse a pickle that names anything beside tensors and plain containers, without running any of it.

    Returns the bytes that it claims of each storage.
    """
    pieces = itertools.islice(iter(lambda: file.read(_PIECE), b""), MOST_PICKLE // _PIECE)
    read = io.BytesIO(b"".join(pieces))  # its reads allocate what is there, a file's what an opcode asks for
    try:
        names, storages = pickled_names(read)
    except (ValueError, IndexError, TypeError) as error:  # the pickle parser's own errors
        raise EsdError(f"{path.name} is damaged: its pickle cannot be read ({error}); download it again.") from error
    allowed = _allowed()
    for name in names:
        if name not in allowed and not _is_tensor_part(name):
            raise EsdError(
                f"{path.name} holds the Python object {name}, which is not a weight and could run code: "
                "do not use this file, or ask its maker for a safetensors file."
            )
    return {key: numel * STORAGES.get(kind, 1) for key, (kind, numel) in storages.items()}


def pickled_names(file: IO[bytes]) -> tuple[list[str], dict[str, tuple[str, int]]]:
    """Every `module.name` that a pickle refers to, and each storage's type and length.

    PyTorch refers to a storage by ("storage", type, key, device, length).  Raises ValueError for a pickle that refers
    to one in any other way, since its claims could not be checked then.
    """
    opcodes = _Opcodes()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count >= MOST_OPCODES:
            raise ValueError(f"it has more than {MOST_OPCODES} operations")
        opcodes.follow(opcode.name, argument)
    return opcodes.names, opcodes.storages


_UNKNOWN = "(unknown)"


class _Opcodes:
    """As much of the pickle machine's stack as it takes to see names and storages for what they are.

    `pushed` is the top of the stack, as far down as it is known; operations that are not followed leave nothing known,
    so a pickle that shuffles its stack gets no storage and no name past the checks.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.storages: dict[str, tuple[str, int]] = {}
        self.pushed: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.since_mark = False

    def follow(self, name: str, argument: Any) -> None:
        """Take note of one operation; raises ValueError for a storage that is not told in five plain values."""
        if name in ("GLOBAL", "INST"):
            self._refer(str(argument).replace(" ", "."))
        elif name == "STACK_GLOBAL":
            parts = self.pushed[-2:] if len(self.pushed) > 1 else [_UNKNOWN]
            del self.pushed[-2:]
            self._refer(".".join(map(str, parts)))
        elif name == "MEMOIZE" or "PUT" in name:
            self.memo[len(self.memo) if argument is None else int(argument)] = (self.pushed or [_UNKNOWN])[-1]
        elif "GET" in name:
            self.pushed.append(self.memo.get(int(argument or 0), _UNKNOWN))
        elif any(word in name for word in ("UNICODE", "STRING", "INT", "LONG")):
            self.pushed.append(argument)
        elif name == "TUPLE":
            self.pushed = [tuple(self.pushed)] if self.since_mark else []
            self.since_mark = False
        elif name == "BINPERSID":
            self._store((self.pushed or [_UNKNOWN])[-1])
            self._forget()
        elif name not in ("PROTO", "FRAME"):
            self._forget()
            self.since_mark = name == "MARK"

    def _forget(self) -> None:
        self.pushed, self.since_mark = [], False

    def _refer(self, name: str) -> None:
        self.names.append(name)
        self.pushed.append(name)

    def _store(self, told: Any) -> None:
        if not (isinstance(told, tuple) and len(told) == 5 and type(told[4]) is int and told[4] >= 0):
            raise ValueError("a storage is not referred to as PyTorch does")
        key, claim = str(told[2]), (str(told[1]), told[4])
        if self.storages.setdefault(key, claim) != claim:
            raise ValueError(f"storage {key} has two sizes")


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
