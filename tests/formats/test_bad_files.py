"""Files made by hand to do harm, or to fall through one particular hole: a row for each, refused in one sentence."""

from __future__ import annotations

import io
import json
import struct
import warnings

import pytest
import torch
from safetensors.torch import save

from esd_pack.esd.erasure import PREFIX, Erasure
from esd_pack.esd.errors import MOST_CHARACTERS, EsdError
from esd_pack.esd.files.lazy import MOST_ENTRIES, open_tensors
from esd_pack.esd.files.lazy_tensor import in_memory
from esd_pack.esd.files.pickle_scan import MOST_OPCODES, check_pickle
from esd_pack.esd.files.safetensors_write import write_stream
from esd_pack.esd.formats.lora import decompose
from esd_pack.esd.formats.official import from_official, to_official
from esd_pack.esd.report import describe, layer_norms
from support.erasure_files import BLOCK, HOST, LECO, TRAINED, flat, read
from support.limits import address_space, seconds
from support.mutations import parts_of, records_of, with_pickle, zipped
from support.outcomes import record


def text(words):
    raw = words.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def called(module, name):
    return f"c{module}\n{name}\n".encode()


def stacked(module, name):
    return b"\x80\x04" + text(module) + text(name) + b"\x93"


def hidden(module, name):
    """The name that is really taken lies under one that is allowed, pushed and thrown away."""
    return b"\x80\x04" + text(module) + text("collections") + b"0" + text(name) + b"\x93"


ARGUMENT = text("touch trap-sprung")
WAYS = {
    "REDUCE": lambda m, n: called(m, n) + ARGUMENT + b"\x85R.",
    "REDUCE, protocol 4": lambda m, n: stacked(m, n) + ARGUMENT + b"\x85R.",
    "hidden by POP": lambda m, n: hidden(m, n) + ARGUMENT + b"\x85R.",
    "NEWOBJ": lambda m, n: called(m, n) + ARGUMENT + b"\x85\x81.",
    "NEWOBJ_EX": lambda m, n: b"\x80\x04" + called(m, n) + ARGUMENT + b"\x85}\x92.",
    "INST": lambda m, n: b"(" + ARGUMENT + f"i{m}\n{n}\n.".encode(),
    "OBJ": lambda m, n: b"(" + called(m, n) + ARGUMENT + b"o.",
    "BUILD": lambda m, n: called("collections", "OrderedDict") + b")R}" + text("x") + called(m, n) + b"sb.",
    "in a table": lambda m, n: b"}" + text("conv_in.weight") + called(m, n) + ARGUMENT + b"\x85Rs.",
    "as persistent id": lambda m, n: b"(" + text("storage") + called(m, n) + text("0") + text("cpu") + b"K\x01tQ.",
    "after an end": lambda m, n: called("collections", "OrderedDict") + b")R." + called(m, n) + ARGUMENT + b"\x85R.",
}
TARGETS = (
    *(("os", "system"), ("posix", "system"), ("nt", "system"), ("subprocess", "getoutput"), ("builtins", "exec")),
    *(("builtins", "eval"), ("__builtin__", "eval"), ("builtins", "__import__"), ("builtins", "getattr")),
    *(("torch", "load"), ("torch.hub", "load"), ("torch.jit", "load"), ("pickle", "loads"), ("runpy", "run_path")),
    *(("torch.storage", "_load_from_bytes"), ("operator", "attrgetter"), ("importlib", "import_module"), ("os", "")),
    *(("torch._dynamo.guards", "GuardBuilder.get"), ("collections", "OrderedDict.fromkeys"), ("numpy", "load")),
)


def test_no_way_to_run_code_from_a_pickle_is_open(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = io.BytesIO()
    torch.save(flat(), plain)
    count = 0
    for way in WAYS.values():
        for target in TARGETS:
            raw = way(*target)
            for data in (raw, b"\x80\x02" + raw, with_pickle(plain.getvalue(), lambda _, raw=raw: raw)):
                (tmp_path / "w.file").write_bytes(data)
                with pytest.raises(EsdError), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    read(tmp_path / "w.file")
                count += 1
    assert [p.name for p in tmp_path.iterdir()] == ["w.file"]
    record("pickles that would run code, bare and in PyTorch files", count, "refused in one sentence, none of it run")


@pytest.mark.parametrize("way", WAYS)
def test_the_name_of_what_would_run_is_told(tmp_path, way):
    with pytest.raises(
        EsdError, match=r"holds the Python object (os.system|\(unknown\)|system)|storage is not|0 bytes"
    ):
        name = "os.system" if way != "after an end" else None
        raw = WAYS[way](*("os", "system")) if name else called("os", "system") + b"."
        check_pickle(tmp_path / "w.pt", io.BytesIO(raw)) if way != "as persistent id" else _read_zip(tmp_path, raw)


def _read_zip(folder, raw):
    plain = io.BytesIO()
    torch.save(flat(), plain)
    (folder / "w.pt").write_bytes(with_pickle(plain.getvalue(), lambda _: raw))
    read(folder / "w.pt")


def torch_bytes(tree):
    made = io.BytesIO()
    torch.save(tree, made)
    return made.getvalue()


def laughs():
    """Eight tables, each of which holds the next one twenty times."""
    tree = {"x": torch.ones(1)}
    for _ in range(7):
        tree = {str(i): tree for i in range(20)}
    return tree


def empty_laughs():
    tree = {}
    for _ in range(7):
        tree = {str(i): tree for i in range(20)}
    return tree


def told_of(key, kind, name, length):
    return b"(" + text("storage") + called(*kind.rsplit(".", 1)) + text(key) + text(name) + b"J" + length + b"t"


def two_sizes():
    """One storage claimed in two sizes: the checks must not see the smaller one and PyTorch the larger."""
    data = torch_bytes({"conv_in.weight": torch.ones(4)})
    small, large = (told_of("0", "torch.FloatStorage", "cpu", struct.pack("<i", n)) + b"Q" for n in (4, 10**6))
    return with_pickle(data, lambda raw: b"\x80\x02" + large + b"0" + small + b".")


def spoofed():
    """The storage's length is shuffled under another number."""
    data = torch_bytes({"conv_in.weight": torch.ones(4)})
    start = b"(" + text("storage") + called("torch", "FloatStorage") + text("0") + text("cpu")
    return with_pickle(data, lambda raw: b"\x80\x02" + start + b"J" + struct.pack("<i", 10**6) + b"K\x040tQ.")


def bare_length(opcode, length):
    return b"\x80\x04" + opcode + length


def records(change):
    return zipped(change(records_of(torch_bytes(flat()))))


def lying(name, **fields):
    header, values = parts_of(save(flat()))
    header[name].update(fields)
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + values


def raw_header(raw):
    return struct.pack("<Q", len(raw)) + raw


KEY = HOST[TRAINED[0]]
HOLES = {
    "tables that hold each other, with a tensor": (lambda: torch_bytes(laughs()), "nests tables without end"),
    "tables that hold each other, empty": (lambda: torch_bytes(empty_laughs()), "nests tables without end"),
    "more entries than any network": (
        lambda: torch_bytes({"a": {i: {} for i in range(MOST_ENTRIES)}, "b": torch.ones(1)}),
        "nests tables without end",
    ),
    "a tensor repeated by strides": (
        lambda: torch_bytes({KEY: torch.ones(1).expand(2**40)}),
        "where a tensor should be",
    ),
    "a LoRA of endless rank": (
        lambda: torch_bytes(
            {
                f"{LECO}.lora_up.weight": torch.ones(8, 1).expand(8, 2**40),
                f"{LECO}.lora_down.weight": torch.ones(1, 1).expand(2**40, 768),
            }
        ),
        "where a tensor should be",
    ),
    "complex numbers": (lambda: torch_bytes({KEY: torch.ones(8, 8) * 1j}), "ComplexFloatStorage, which"),
    "a sparse tensor": (lambda: torch_bytes({KEY: torch.ones(8, 8).to_sparse()}), "not a weight|where a tensor"),
    "one name twice": (lambda: torch_bytes({"a": {"b": torch.ones(1)}, "a.b": torch.ones(1)}), "twice under one name"),
    "one storage in two sizes": (two_sizes, "storage 0 has two sizes"),
    "a storage's length hidden": (spoofed, "not referred to as PyTorch does"),
    "a pickle of endless length": (lambda: b"\x80\x02" + b"N" * (MOST_OPCODES + 9), "more than 1000000 operations"),
    "a string that claims 4 GB": (lambda: bare_length(b"X", b"\xff\xff\xff\x7f"), "pickle cannot be read"),
    "bytes that claim 2**62": (lambda: bare_length(b"\x8e", struct.pack("<Q", 2**62)), "pickle cannot be read"),
    "records in two folders": (lambda: records(lambda r: [*r, ("other/data/0", b"x")]), "not those of one set"),
    "records that differ by case": (
        lambda: records(lambda r: [*r, (r[0][0].upper().replace("ARCHIVE", "archive"), b"x")]),
        "not those of one set",
    ),
    "a record that climbs out": (lambda: records(lambda r: [*r, ("../../evil", b"x")]), "not those of one set"),
    "a record with an absolute name": (lambda: records(lambda r: [*r, ("/etc/evil", b"x")]), "not those of one set"),
    "a type that is a list": (lambda: lying(KEY, dtype=["F32"]), "cannot be read"),
    "no values, yet too many": (lambda: lying(KEY, shape=[0, 2**62, 4], data_offsets=[0, 0]), "makes no sense"),
    "half a surrogate pair": (lambda: raw_header(b'{"\\ud800": 1}'), "header cannot be read"),
    "deep JSON": (lambda: raw_header(b"[" * 200_000), "header cannot be read"),
    "an integer of 10,000 digits": (lambda: raw_header(b'{"a": ' + b"9" * 10_000 + b"}"), "header cannot be read"),
    "a LoRA of vectors": (
        lambda: save({f"{LECO}.lora_up.weight": torch.ones(8), f"{LECO}.lora_down.weight": torch.ones(1, 768)}),
        "made for another kind of model",
    ),
    "a LoRA of a bias": (
        lambda: save(
            {f"lora_unet_out_0.lora_{n}.weight": torch.ones(s) for n, s in (("up", (8, 1)), ("down", (1,)))}
        ),
        "made for another kind of model",
    ),
    "one layer spelled twice": (
        lambda: save({f"diffusion_model.{BLOCK}.to_q.diff": torch.ones(8, 8)}
                     | {f"lora_unet_{BLOCK.replace('.', '_')}_to_q.diff": torch.ones(8, 8)}),
        "a second time under another name",
    ),
}  # fmt: skip


@pytest.mark.parametrize("hole", HOLES)
def test_every_hole_is_closed(tmp_path, monkeypatch, hole):
    monkeypatch.chdir(tmp_path)
    make, message = HOLES[hole]
    (tmp_path / "w.file").write_bytes(make())
    with seconds(10), address_space(2**29), pytest.raises(EsdError, match=message) as raised:
        read(tmp_path / "w.file")
    assert "allocate" not in str(raised.value)
    assert [p.name for p in tmp_path.iterdir()] == ["w.file"]
    record(f"a file with {hole}", 1, "refused in one sentence")


def test_a_zip_file_with_a_broken_name_is_an_esd_error(tmp_path):
    data = torch_bytes(flat())
    broken = bytearray(data)
    at = data.rfind(b"PK\x01\x02")
    broken[at + 9] |= 0x08  # the name is UTF-8
    broken[at + 46] = 0xFF
    (tmp_path / "w.file").write_bytes(bytes(broken))
    with pytest.raises(EsdError, match="is damaged .*utf-8.*: download it again"):
        read(tmp_path / "w.file")


def test_messages_stay_short_and_printable(tmp_path):
    name = "x\n\x00\ud800\u202e" * 20_000
    message = str(EsdError(f'The file holds "{name}": download it again.'))
    assert len(message) <= MOST_CHARACTERS + 10 and message.isprintable()
    assert message.startswith('The file holds "x x') and message.endswith(": download it again.")
    assert str(EsdError("The size 8 x 8\ndoes not fit.")) == "The size 8 x 8 does not fit."


NONSENSE = ("", "[", "3", "null", '"x"', "[1, [], null]", "[" * 100_000, "9" * 5000, '[{"erase": 1, "prompts": 2}]')


@pytest.mark.parametrize(
    "value", [*NONSENSE, '[{"erase": "cat", "weight": "x", "erase_from": [], "prompts": ["a", 1]}]']
)
def test_metadata_without_sense_is_left_out(value):
    keys = ("concepts", "keeps", "settings", "eta", "steps", "base_file", "family")
    weights = Erasure({PREFIX + "out.0.weight": torch.ones(8)}, {f"esd.{key}": value for key in keys})
    assert "changes 1 tensors" in describe(weights)
    official = to_official(weights.metadata, "SD1.x")
    assert all(isinstance(v, str) for v in official.values()) and "nan" not in official["negative_guidance"]
    assert (
        "esd.eta" not in from_official({"format": "erasing-esd-v2", "negative_guidance": value or "nan"})
        or value == "3"
    )


def test_huge_changes_have_a_finite_norm():
    weights = Erasure({PREFIX + "out.0.weight": torch.full((8,), 3e38)})
    assert layer_norms(weights)["out"] == pytest.approx(3e38, rel=1e-6)
    assert "norm): 8.485e+38" in describe(weights)


def test_the_whole_is_not_far_larger_than_the_file(tmp_path):
    whole = torch.ones(2**20)
    (tmp_path / "w.pt").write_bytes(torch_bytes({str(i): whole for i in range(300)}))
    with pytest.raises(EsdError, match="far more than it holds"), open_tensors(tmp_path / "w.pt"):
        pass


def test_a_regular_tensor_may_be_kept_as_strides_up_to_a_bound(tmp_path):
    (tmp_path / "w.pt").write_bytes(torch_bytes({"a": torch.ones(1).expand(2**20)}))
    with open_tensors(tmp_path / "w.pt") as file:
        assert file.tensors["a"].nbytes == 2**22 and bool((file.tensors["a"].load() == 1).all())


@pytest.mark.parametrize(("broken", "words"), [(0, "could not be read as weights"), (2**40, "claim")])
def test_pytorch_s_own_errors_become_one_sentence(tmp_path, broken, words):
    """A tensor that lies outside its storage is found by PyTorch alone."""
    data = torch_bytes({KEY: torch.ones(8, 8)})
    raw = dict(records_of(data))["archive/data.pkl"]
    at = raw.index(b"K\x08K\x08")
    if not broken:
        changed = raw[:at] + b"K\x09K\x08" + raw[at + 4 :]
    else:
        changed = raw.replace(b"K\x40", b"J" + struct.pack("<i", 2**30))
    (tmp_path / "w.pt").write_bytes(with_pickle(data, lambda _: changed))
    with pytest.raises(EsdError, match=words):
        read(tmp_path / "w.pt")


def test_the_rarer_sentences(tmp_path):
    erased = Erasure({PREFIX + "a.weight": torch.full((2, 2), torch.nan)})
    with pytest.raises(EsdError, match="a.weight holds NaN or infinity, which no LoRA can stand for: erase anew"):
        decompose(erased, 1, 0.9)
    with pytest.raises(EsdError, match='"x" is torch.complex64, which a safetensors file cannot hold: convert'):
        write_stream(tmp_path / "w", {"x": in_memory(torch.ones(2) * 1j)}, {})
