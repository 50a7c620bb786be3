"""ONNX files of a few layers, written byte by byte: the tests need no package that makes them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

FLOAT, INT64 = 1, 7


def _varint(value: int) -> bytes:
    made = b""
    while value > 127:
        made, value = made + bytes([value & 127 | 128]), value >> 7
    return made + bytes([value])


def _field(number: int, value: int | bytes | str) -> bytes:
    """A field of a message: a number, or bytes with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _tensor(name: str, values: np.ndarray, kind: int) -> bytes:
    dims = b"".join(_field(1, side) for side in values.shape)
    return dims + _field(2, kind) + _field(8, name) + _field(9, values.tobytes())


def _value(name: str, shape: Sequence[int]) -> bytes:
    dims = b"".join(_field(1, _field(1, side)) for side in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, FLOAT) + _field(2, dims)))


def _node(kind: str, inputs: Sequence[str], output: str) -> bytes:
    return b"".join(_field(1, each) for each in inputs) + _field(2, output) + _field(4, kind)


def write_pooling(path: Path, weights: np.ndarray, side: int, out: Sequence[int]) -> None:
    """A network whose figures are `weights` ("n 3") times the picture's mean colour, in an output of any shape."""
    n, size = len(weights), [1, len(weights), *[1] * (len(out) - 2)]
    nodes = [
        _node("GlobalAveragePool", ["images"], "mean"),
        _node("Conv", ["mean", "weights"], "figures"),
        _node("Reshape", ["figures", "size"], "flat"),
        _node("Expand", ["flat", "whole"], "output0"),
    ]
    constants = [
        _tensor("weights", weights.reshape(n, 3, 1, 1).astype(np.float32), FLOAT),
        _tensor("size", np.array(size, np.int64), INT64),
        _tensor("whole", np.array(out, np.int64), INT64),
    ]
    graph = b"".join(_field(1, node) for node in nodes) + _field(2, "pooling")
    graph += b"".join(_field(5, each) for each in constants)
    graph += _field(11, _value("images", (1, 3, side, side))) + _field(12, _value("output0", out))
    path.write_bytes(_field(1, 8) + _field(7, graph) + _field(8, _field(2, 13)))


def write_broken(path: Path) -> None:
    """A file that is no ONNX."""
    path.write_bytes(struct.pack("<Q", 2**40) + b"\x00" * 64)
