"""Damage for weights files: what a bad disk, a bad download, a careless program or a bad person makes of them.

A mutation takes the bytes of a file and a `random.Random` and gives other bytes; equal seeds give equal bytes.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

Mutation = Callable[[bytes, Random], bytes]

NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 7, 8, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64, 2**70, 10**400),
    *(-(2**31), -(2**63), 0.5, 1e300, float("nan"), float("inf"), True, False, None, "8", "", [], [8], {}, {"a": 1}),
)
"""Where a whole number should stand."""

TEXTS = (
    "",
    " ",
    ".",
    "..",
    "../../etc/passwd",
    "C:\\Windows\\x",
    "a\nb\r\nc",
    "\x00",
    "x" * 100_000,
    "\U0001f408\u200d\U0001f5a4",
    "\u202egnp.tac\u202c \u05d7\u05ea\u05d5\u05dc",
    "(cat:1.5)",
    "embedding:x",
    "%s {0} {name} %(x)d",
    "\ud800",
    "__metadata__",
    "state_dict",
    "NaN",
    "9" * 5000,
    "[" * 60_000,
    '[{"erase": 1, "erase_from": [], "weight": "x"}]',
    '[{"prompts": 3, "weight": []}]',
    '{"width": [], "height": []}',
    "1e999",
)
"""Where a name or a line of text should stand."""

DTYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "I16", "I8", "U8", "BOOL")
OTHER_DTYPES = ("U16", "U32", "U64", "F4", "F6_E2M3", "F8_E8M0", "C64", "f32", "", None, 3, [], ["F32"], {}, 2.5)


def flip(data: bytes, random: Random, first: int = 0, end: int | None = None) -> bytes:
    """Up to eight bytes between two places become others."""
    end = len(data) if end is None else min(end, len(data))
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8)) if end > first else 0):
        at = random.randrange(first, end)
        changed[at] ^= random.choice((1, 2, 4, 8, 16, 32, 64, 128, 255))
    return bytes(changed)


def cut(data: bytes, random: Random) -> bytes:
    """The end is missing."""
    return data[: random.choice((0, 1, 7, 8, 9, 10, 16, random.randrange(len(data) + 1), max(0, len(data) - 1)))]


def longer(data: bytes, random: Random) -> bytes:
    """Something follows, or the file twice."""
    return data + random.choice((b"\0", bytes(4096), random.randbytes(64), data))


def torn(data: bytes, random: Random) -> bytes:
    """A stretch is missing, doubled, blank or from elsewhere, as after a broken resume of a download."""
    a, b = sorted(random.randrange(len(data) + 1) for _ in range(2))
    middle = random.choice((b"", data[a:b] * 2, bytes(b - a), data[: b - a][::-1], random.randbytes(min(b - a, 999))))
    return data[:a] + middle + data[b:]


def prefixed(data: bytes, random: Random) -> bytes:
    """Something stands before."""
    return random.choice((b"\xef\xbb\xbf", b"\0", b"PK\x03\x04", b"\x80\x02", b"<html>", bytes(512))) + data


def noise(data: bytes, random: Random) -> bytes:
    """Nothing of the file is left."""
    start = random.choice((b"", b"PK", b"PK\x03\x04", b"\x80\x02", b"\x80\x04", data[:9], data[: len(data) // 2]))
    return start + random.randbytes(random.choice((0, 1, 8, 64, 4096)))


ANY: tuple[Mutation, ...] = (flip, flip, cut, longer, torn, prefixed, noise)


def parts_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and values of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header: Any, values: bytes, encoding: str = "utf-8") -> bytes:
    """A safetensors file of a header (a table, or the text itself)."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode(encoding)
    return len(text).to_bytes(8, "little") + text + values


def header_flip(data: bytes, random: Random) -> bytes:
    """Flipped bytes in the header alone."""
    return flip(data, random, 8, 8 + int.from_bytes(data[:8], "little"))


def length_lie(data: bytes, random: Random) -> bytes:
    """The header's length is another one."""
    true = int.from_bytes(data[:8], "little")
    lies = (0, 1, 2, true - 1, true + 1, true + 8, len(data), len(data) - 8, len(data) - 7, 2**27, 2**63, 2**64 - 1)
    return struct.pack("<Q", random.choice(lies) % 2**64) + data[8:]


def entry_lie(data: bytes, random: Random) -> bytes:
    """One field of one entry is another one."""
    header, values = parts_of(data)
    name = random.choice([n for n in header if n != "__metadata__"])
    entry, others = header[name], [e for n, e in header.items() if n not in ("__metadata__", name)]
    kind = random.randrange(9)
    if kind == 0:
        entry["dtype"] = random.choice(DTYPES + OTHER_DTYPES)
    elif kind == 1 and entry["shape"]:
        entry["shape"][random.randrange(len(entry["shape"]))] = random.choice(NUMBERS)
    elif kind == 2:
        entry["shape"] = random.choice(
            ([], [0], [0, 2**62], [0, 2**80], [1] * 5000, [[8], [8]], "88", None, 8, {"8": 8}, entry["shape"][::-1])
        )
    elif kind == 3:
        entry["data_offsets"][random.randrange(2)] = random.choice(NUMBERS)
    elif kind == 4:
        begin, end = entry["data_offsets"]
        entry["data_offsets"] = random.choice(
            ([end, begin], [begin + 1, end + 1], [begin - 4, end], [begin], [begin, end, end], [], None, "0", [0, 0])
        )
    elif kind == 5 and others:
        entry["data_offsets"] = random.choice(others)["data_offsets"]
    elif kind == 6:
        entry.pop(random.choice(list(entry)))
    elif kind == 7:
        header[name] = random.choice((*NUMBERS, [entry], {**entry, "more": [1]}))
    else:  # the same bytes by another type and a shape that fits
        size = entry["data_offsets"][1] - entry["data_offsets"][0]
        entry["dtype"], width = random.choice((("U8", 1), ("BOOL", 1), ("F8_E4M3", 1), ("F16", 2), ("I32", 4)))
        entry["shape"] = random.choice(([size // width], [size // width, 1], [1, size // width, 1, 1]))
    return joined(header, values)


def name_lie(data: bytes, random: Random) -> bytes:
    """A tensor has another name, or none, or there is one more."""
    header, values = parts_of(data)
    name = random.choice([n for n in header if n != "__metadata__"])
    kind = random.randrange(5)
    if kind == 0:
        header[random.choice(TEXTS)] = header.pop(name)
    elif kind == 1:
        header[random.choice(("unet.", "diffusion_model.", "lora_unet_", "model.diffusion_model.")) + name] = (
            header.pop(name)
        )
    elif kind == 2:
        header.pop(name)
    elif kind == 3:
        header[name + random.choice(TEXTS)] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    else:
        header[random.choice(list(header))] = header.pop(name)
    return joined(header, values)


def metadata_lie(data: bytes, random: Random) -> bytes:
    """Other metadata: words without sense under known keys, or no words."""
    header, values = parts_of(data)
    keys = (
        "esd.concepts esd.keeps esd.settings esd.eta esd.base_sha256 esd.family family format erase_concept erase_from"
    )
    metadata = dict(header.get("__metadata__", {}))
    for _ in range(random.randrange(1, 4)):
        key = random.choice([*keys.split(), "erase_from", "negative_guidance", random.choice(TEXTS)])
        metadata[key] = random.choice(TEXTS) if random.random() < 0.8 else random.choice(NUMBERS)
    header["__metadata__"] = metadata if random.random() < 0.9 else random.choice((*NUMBERS, "text"))
    return joined(header, values)


def header_text(data: bytes, random: Random) -> bytes:
    """A header that is odd as JSON: deep, doubled, in another encoding, not a table, blank."""
    header, values = parts_of(data)
    text = json.dumps(header)
    odd = (
        b"[" * 200_000,
        b'{"a":' * 100_000,
        (text[:-1] + "," + text[1:]).encode(),
        text.encode("utf-16"),
        text.encode("utf-32"),
        text.encode().replace(b"a", b"\xff", 1),
        (text[:-1] + ',"\\ud800": 1}').encode(),
        b"{}",
        b"{",
        b"{}" + b" " * 999,
        b"[]",
        b"null",
        b"{" + b'"a":0,' * 20_000 + b'"b":0}',
        text.encode() + b"\0" * 8,
        b" " + text.encode(),
        text.replace("[", "[[[", 1).encode(),
        b'{"a": ' + b"9" * 10_000 + b"}",
    )
    return joined(random.choice(odd), values)


def odd_values(data: bytes, random: Random) -> bytes:
    """NaN, infinity, huge, tiny and random values."""
    header, values = parts_of(data)
    fill = random.choice((b"\xff", b"\0\0\x80\x7f", b"\0\0\xc0\x7f", b"\xff\xff\x7f\x7f", b"\1\0\0\0", b"\0"))
    a, b = sorted(random.randrange(len(values) + 1) // 8 * 8 for _ in range(2))
    b = min(b, a + random.choice((8, 64, 10**9)))
    return joined(header, values[:a] + (fill * (b - a))[: b - a] + values[b:])


SAFETENSORS: tuple[Mutation, ...] = (
    *ANY,
    *(header_flip, length_lie, entry_lie, entry_lie, entry_lie, name_lie, metadata_lie, header_text, odd_values),
)


def records_of(data: bytes) -> list[tuple[str, bytes]]:
    """Names and contents of a zip file."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def zipped(records: list[tuple[str, bytes]], how: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file of them, right in itself."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", how) as archive:
        for name, data in records:
            archive.writestr(zipfile.ZipInfo(name), data, how)
    return made.getvalue()


def with_pickle(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """The zip file with another pickle, and right checksums."""
    return zipped([(n, change(d) if n.endswith("data.pkl") else d) for n, d in records_of(data)])


def pickle_flip(data: bytes, random: Random) -> bytes:
    """Flipped bytes in the pickle, under a right checksum."""
    return with_pickle(data, lambda d: flip(d, random))


def pickle_torn(data: bytes, random: Random) -> bytes:
    """Another stretch in the pickle, under a right checksum."""
    return with_pickle(data, lambda d: random.choice((torn, cut, longer, prefixed, noise))(d, random))


def pickle_numbers(data: bytes, random: Random) -> bytes:
    """Some of the pickle's numbers (sizes, strides, offsets, lengths) are others."""

    def change(raw: bytes) -> bytes:
        for _ in range(random.randrange(1, 4)):
            places = [i for i, byte in enumerate(raw) if byte in b"KMJ"]  # one-, two- and four-byte numbers
            at = random.choice(places)
            old = {b"K": 2, b"M": 3, b"J": 5}[raw[at : at + 1]]
            number = random.choice([n for n in NUMBERS if type(n) is int and abs(n) < 2**71])
            raw = raw[:at] + pickle.dumps(number, 2)[2:-1] + raw[at + old :]
        return raw

    return with_pickle(data, change)


def record_lie(data: bytes, random: Random) -> bytes:
    """Records that are renamed, missing, doubled, too short, too long, squeezed or additional."""
    records = records_of(data)
    at = random.randrange(len(records))
    name, content = records[at]
    folder = name.partition("/")[0]
    kind = random.randrange(9)
    how = zipfile.ZIP_STORED
    if kind == 0:
        odd = (
            "../../x",
            "/etc/x",
            "C:\\x",
            "",
            "..",
            f"{folder}/../x",
            f"{folder}/data/../data.pkl",
            name.upper(),
            "\n",
        )
        records[at] = (random.choice(odd), content)
    elif kind == 1:
        records.pop(at)
    elif kind == 2:
        records.append((random.choice((name, name.upper(), f"x/{name}", f"other/{name}")), content[::-1]))
    elif kind == 3:
        records[at] = (name, cut(content, random) if content else b"x")
    elif kind == 4:
        records[at] = (name, longer(content, random))
    elif kind == 5:
        how = random.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    elif kind == 6:
        records.append(
            (f"{folder}/{random.choice(('code/x.py', 'constants.pkl', 'byteorder', '.format_version'))}", b"1")
        )
    elif kind == 7:
        records.append((f"{folder}/data/99", bytes(random.choice((2**16, 2**20)))))
        how = zipfile.ZIP_DEFLATED
    else:
        random.shuffle(records)
    return zipped(records, how)


def directory_flip(data: bytes, random: Random) -> bytes:
    """Flipped bytes in the zip file's table of contents."""
    return flip(data, random, max(0, data.rfind(b"PK\x01\x02") - 40), len(data))


ZIP: tuple[Mutation, ...] = (
    *ANY,
    *(pickle_flip, pickle_flip, pickle_torn, pickle_numbers, pickle_numbers, record_lie, record_lie, directory_flip),
)


def mutated(name, number, data):
    """The file of a seed and a number."""
    random = Random(f"{name}:{number}")
    kinds = ZIP if data.startswith(b"PK") else SAFETENSORS if data[8:9] == b"{" else ZIP[:7]
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        mutation = random.choice(kinds)
        try:
            data = mutation(data, random)
        except Exception:  # what an earlier mutation left is no file of the kind any more
            data = kinds[0](data, random)
    return data
