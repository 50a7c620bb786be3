"""Published files and damaged ones, against a network of a few tensors and no host."""

from __future__ import annotations

import gc
import json
import os
import pickle
import weakref
import zipfile
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from esd_pack.esd.erasure import PREFIX, Erasure, save_differences
from esd_pack.esd.errors import EsdError
from esd_pack.esd.files.atomic import write_folder_atomically
from esd_pack.esd.files.lazy import open_tensors
from esd_pack.esd.files.lazy_tensor import DTYPES, LazyTensor, in_memory
from esd_pack.esd.files.pickle_scan import pickled_names
from esd_pack.esd.files.safetensors_header import safetensors_header
from esd_pack.esd.files.safetensors_write import write_safetensors, write_stream
from esd_pack.esd.files.torch_zip import MOST_UNPACKED, check_torch_zip
from esd_pack.esd.formats.diffusers import UnetShape, config
from esd_pack.esd.formats.lora import decompose, low_rank
from esd_pack.esd.formats.network import diffusers_names
from esd_pack.esd.formats.official import from_official, official_tensors, to_official
from esd_pack.esd.report import describe, layer_norms
from support.erasure_files import (
    BASE,
    BLOCK,
    CHANGE,
    COMPVIS,
    DIFFUSERS,
    ERASED,
    HOST,
    LECO,
    OURS,
    PUBLISHED,
    SHAPES,
    THERE,
    TRAINED,
    V2,
    after,
    close,
    flat,
    network,
    read,
    tensors_file,
    torch_file,
    values,
)


@pytest.mark.parametrize("kind", PUBLISHED)
def test_every_published_form_is_told_from_its_content(tmp_path, kind):
    make, form = PUBLISHED[kind]
    path = make(tmp_path)
    path = path.rename(path.with_name("anything.bin"))  # the name says nothing
    found = read(path)
    wanted = {n: ERASED[n] if n in TRAINED and (kind != "UCE" or "to_k" in n) else BASE[n] for n in SHAPES}
    assert found.weights.metadata["esd.source_form"] == form
    assert found.warnings == ()
    assert close(after(found), wanted)
    assert all(name.removeprefix(PREFIX) in TRAINED for name in found.weights.differences), (
        "untouched tensors are dropped"
    )


def test_parts_of_a_checkpoint_that_are_no_network_are_counted(tmp_path):
    assert "3 tensors of VAE" in read(torch_file(tmp_path, COMPVIS)).summary


def test_our_own_file_comes_back_bit_for_bit(tmp_path):
    weights = Erasure({PREFIX + n: t for n, t in CHANGE.items()}, {"esd.method": "esd-x", "prompt": "{}"})
    save_differences(weights, tmp_path / "w.safetensors")
    found = read(tmp_path / "w.safetensors").weights
    assert all(torch.equal(found.differences[n], t) for n, t in weights.differences.items())
    assert found.metadata["esd.method"] == "esd-x" and "prompt" not in found.metadata


@pytest.mark.parametrize("path", [LECO, f"lora_unet_{BLOCK.replace('.', '_')}_to_k", f"unet.{THERE}.to_k"])
def test_leco_and_other_loras(tmp_path, path):
    up, down = torch.randn(8, 4), torch.randn(4, 768)
    names = ("lora_B", "lora_A") if path.startswith("unet.") else ("lora_up", "lora_down")
    tensors = {f"{path}.{names[0]}.weight": up, f"{path}.{names[1]}.weight": down, f"{path}.alpha": torch.tensor(2.0)}
    (change,) = read(tensors_file(tmp_path, tensors)).weights.differences.values()
    assert torch.allclose(change, up @ down * 0.5, atol=1e-5)


def test_a_convolution_as_lora(tmp_path):
    up, down = torch.randn(8, 2, 1, 1), torch.randn(2, 4, 3, 3)
    tensors = {"lora_unet_conv_in.lora_up.weight": up, "lora_unet_conv_in.lora_down.weight": down}
    (change,) = read(tensors_file(tmp_path, tensors)).weights.differences.values()
    assert torch.allclose(change, torch.einsum("or,rihw->oihw", up[:, :, 0, 0], down), atol=1e-5)


def test_a_linear_layer_fits_its_one_by_one_convolution(tmp_path):
    name = "down_blocks.0.attentions.0.proj_in.weight"
    found = read(tensors_file(tmp_path, {name: ERASED[DIFFUSERS[name]][:, :, 0, 0] + 0.01}))
    assert list(found.weights.differences.values())[0].shape == (8, 8, 1, 1)


def test_an_fp8_file_is_compared_by_its_rounding(tmp_path):
    tensors = {HOST[n]: t.to(torch.float8_e4m3fn) for n, t in ERASED.items()}
    found = read(tensors_file(tmp_path, tensors))
    assert {n.removeprefix(PREFIX) for n in found.weights.differences} == set(TRAINED)


class TestBase:
    """Is it the base that the file was trained from, and what if it is not."""

    OTHER = {name: t + 0.02 * values(5)[name] for name, t in BASE.items()}

    def test_a_half_precision_file_changes_nothing_that_was_not_trained(self, tmp_path):
        found = read(tensors_file(tmp_path, flat(SHAPES, torch.bfloat16)))
        assert {n.removeprefix(PREFIX) for n in found.weights.differences} == set(TRAINED)
        ended = after(found)
        assert close({n: ended[n] for n in TRAINED}, {n: ERASED[n].bfloat16().float() for n in TRAINED})

    def test_a_half_precision_base_is_recognised(self, tmp_path):
        half = {name: t.half() for name, t in BASE.items()}
        found = read(tensors_file(tmp_path, flat(SHAPES)), half)
        assert found.warnings == () and len(found.weights.differences) == len(TRAINED)

    def test_as_difference_leaves_the_files_rounding_behind(self, tmp_path):
        path = tensors_file(tmp_path, flat(SHAPES, torch.bfloat16))
        found = read(path, interpret="as difference").weights.differences
        wanted = {n: ERASED[n].bfloat16().float() - BASE[n].bfloat16().float() for n in TRAINED}
        assert all(torch.equal(found[PREFIX + n], t) for n, t in wanted.items())

    def test_a_whole_file_of_another_base_warns_with_the_figure(self, tmp_path):
        found = read(torch_file(tmp_path, flat(SHAPES)), self.OTHER)
        assert "none of its 8 tensors equals this MODEL's; the median difference is" in found.warnings[0]
        assert close(after(found, self.OTHER), ERASED)

    def test_trained_tensors_of_another_world_warn_with_the_figure(self, tmp_path):
        found = read(tensors_file(tmp_path, flat()), values(9))
        assert "differ from this MODEL's by 14" in found.warnings[0]

    def test_as_difference_on_another_base_is_refused(self, tmp_path):
        with pytest.raises(
            EsdError, match="connect the model it was trained from to base_model, or choose as absolute"
        ):
            read(torch_file(tmp_path, flat(SHAPES)), self.OTHER, interpret="as difference")

    def test_an_erasure_is_carried_over_with_its_base(self, tmp_path):
        found = read(torch_file(tmp_path, flat(SHAPES)), self.OTHER, trained_from=network())
        assert found.warnings == ()
        assert close(after(found, self.OTHER), {n: t + CHANGE.get(n, 0) for n, t in self.OTHER.items()})

    def test_absolute_values_have_no_use_for_a_base_model(self, tmp_path):
        with pytest.raises(EsdError, match="leaves nothing for base_model to do: disconnect it, or choose as diff"):
            read(torch_file(tmp_path, flat(SHAPES)), trained_from=network(values(9)), interpret="as absolute")

    def test_a_base_model_that_it_was_not_trained_from_warns(self, tmp_path):
        found = read(torch_file(tmp_path, flat(SHAPES)), self.OTHER, trained_from=network(values(9)))
        assert "does not look trained from base_model: " in found.warnings[0]

    def test_a_change_of_nothing_is_left_out(self, tmp_path):
        names = [name for name in TRAINED if name.endswith("weight")]
        still = {PREFIX + name: CHANGE[name] * (name != names[0]) for name in names}
        save_differences(Erasure(still, {}), tmp_path / "a.safetensors")
        assert set(read(tmp_path / "a.safetensors").weights.differences) == {PREFIX + name for name in names[1:]}

    def test_metadata_that_names_another_base_warns(self, tmp_path):
        path = tensors_file(tmp_path, flat(), {"esd.base_sha256": "abc", "esd.base_file": "other.ckpt"})
        assert "names other.ckpt with another hash" in read(path, sha256=lambda: "def").warnings[0]
        assert read(path, sha256=lambda: "abc").warnings == ()

    def test_an_unchanged_file_is_no_erasure(self, tmp_path):
        with pytest.raises(EsdError, match="nothing to erase"):
            read(torch_file(tmp_path, {HOST[n]: t for n, t in BASE.items()}))


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("trap-sprung",))


def bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", b"\x80\x02}.")
        archive.writestr("w/data/0", bytes(2**22))
    assert MOST_UNPACKED * path.stat().st_size < 2**22


def rewritten(path, change):
    """A PyTorch file whose records went through `change`: name and bytes to what is written."""
    torch.save({HOST[TRAINED[0]]: ERASED[TRAINED[0]]}, path)
    with zipfile.ZipFile(path) as archive:
        records = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records:
            for n, d in change(name, data):
                archive.writestr(n, d)


def two_pickles(path):
    rewritten(path, lambda n, d: [(n, d), (f"x{n}", d)] if n.endswith("data.pkl") else [(n, d)])


def short_storage(path):
    rewritten(path, lambda n, d: [(n, d[:16])] if n.endswith("data/0") else [(n, d)])


def endless(path):
    tree = {}
    tree["again"] = tree
    torch.save(tree, path)


def header_of(path):
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def with_header(path, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def lie(change):
    """A safetensors file whose header is changed after it was written."""

    def make(path):
        save_file({"conv_in.weight": ERASED["input_blocks.0.0.weight"]}, path)
        header, data = header_of(path)
        with_header(path, change(header) or header, data)

    return make


def shortened(path):
    save_file(flat(), path)
    path.write_bytes(path.read_bytes()[:-100])


def changed(field, value):
    return lie(lambda h: h["conv_in.weight"].update({field: value}))


DAMAGED = {
    "code": (
        lambda p: torch.save({"conv_in.weight": Trap()}, p),
        r"holds the Python object \w+\.mkdir, which is not a weight",
    ),
    "code, bare": (lambda p: p.write_bytes(pickle.dumps(Trap())), r"holds the Python object \w+\.mkdir"),
    "code, protocol 2": (lambda p: p.write_bytes(pickle.dumps(Trap(), 2)), r"holds the Python object \w+\.mkdir"),
    "a module": (lambda p: torch.save(torch.nn.ReLU(), p), "Python object torch.nn.modules.activation.ReLU"),
    "eval": (
        lambda p: p.write_bytes(b"\x80\x02cbuiltins\neval\nX\x03\x00\x00\x001+1\x85R."),
        "Python object builtins.eval",
    ),
    "zip bomb": (bomb, "would unpack to 4194308 bytes from .* .a zip bomb."),
    "other zip": (lambda p: zipfile.ZipFile(p, "w").close(), "zip file without PyTorch weights"),
    "old pickle": (lambda p: torch.save({}, p, _use_new_zipfile_serialization=False), "from before PyTorch 1.6"),
    "two pickles": (two_pickles, "zip file without PyTorch weights"),
    "storage lies": (short_storage, "claim 256 bytes of a record of 16"),
    "endless nesting": (endless, "nests tables without end"),
    "cut zip": (
        lambda p: (torch.save(flat(), p), p.write_bytes(p.read_bytes()[:-300])),
        "is damaged .*download it again",
    ),
    "cut header": (
        lambda p: (save_file(flat(), p), p.write_bytes(p.read_bytes()[:40])),
        "header does not fit a file of 40 bytes",
    ),
    "huge header": (lambda p: p.write_bytes(b"\xff" * 8 + b"{}"), "header does not fit a file of 10 bytes"),
    "cut data": (shortened, "header describes .* bytes and the file has"),
    "empty": (lambda p: p.write_bytes(b""), "header does not fit a file of 0 bytes"),
    "no json": (lambda p: with_header(p, b"{nonsense", b""), "header cannot be read"),
    "a list": (lambda p: with_header(p, b"[1,2]", b""), "not a table of tensors"),
    "name twice": (lambda p: with_header(p, b'{"a":1,"a":2}', b""), "a name stands there twice"),
    "metadata numbers": (lie(lambda h: h.update(__metadata__={"a": 1})), "metadata is not text"),
    "shape lies": (changed("shape", [2**40, 4, 3, 3]), "claims the shape .* in 1152 bytes"),
    "offset lies": (changed("data_offsets", [0, 2**50]), "claims the shape"),
    "offset behind": (changed("data_offsets", [64, 1216]), "describes bytes twice or not at all"),
    "negative": (changed("shape", [-8, -4, 3, 3]), "makes no sense"),
    "odd type": (changed("dtype", "F4"), "as F4, which cannot be read"),
    "no entry": (lie(lambda h: h.update({"conv_in.weight": 3})), "makes no sense"),
    "a tensor alone": (lambda p: torch.save(torch.ones(2), p), "holds a Tensor and no table of weights"),
    "words inside": (lambda p: torch.save({"conv_in.weight": "hello"}, p), '"conv_in.weight", a str where a tensor'),
    "nothing known": (lambda p: save_file({"a.b": torch.ones(2)}, p), "holds no weights of a UNet"),
    "missing place": (
        lambda p: save_file({**flat(), "down_blocks.7.x.weight": torch.ones(1)}, p),
        '1 of the file\'s 5 tensors have no place in this MODEL, such as "down_blocks.7.x.weight"',
    ),
    "text encoder lora": (
        lambda p: save_file(
            {"lora_te_x.lora_up.weight": torch.ones(2, 1), "lora_te_x.lora_down.weight": torch.ones(1, 2)}, p
        ),
        'no place in this MODEL, such as "lora_te_x.lora_down.weight"',
    ),
    "other lora": (
        lambda p: save_file({**{f"{LECO}.{n}.weight": torch.ones(1, 1) for n in ("lora_up", "hada_w1_a")}}, p),
        "hada_w1_a",
    ),
    "half a lora": (
        lambda p: save_file({f"{LECO}.lora_up.weight": torch.ones(8, 1)}, p),
        "only one of the two matrices",
    ),
    "misshapen lora": (
        lambda p: save_file(
            {f"{LECO}.lora_up.weight": torch.ones(9, 1), f"{LECO}.lora_down.weight": torch.ones(1, 768)}, p
        ),
        "made for another kind of model",
    ),
    "wrong shape": (
        lambda p: save_file({"conv_in.weight": torch.ones(8, 4, 5, 5)}, p),
        r"is \(8, 4, 5, 5\) in it and \(8, 4, 3, 3\)",
    ),
    "other family": (
        lambda p: save_file({f"{THERE}.to_k.weight": torch.ones(8, 2048)}, p),
        "is for SDXL and this MODEL is SD1.x",
    ),
    "other family by metadata": (
        lambda p: save_file(flat(), p, {**V2, "family": "sdxl"}),
        "is for SDXL and this MODEL is SD1.x",
    ),
    "flux": (
        lambda p: save_file({"transformer_blocks.0.x": torch.ones(1)}, p, {**V2, "family": "flux"}),
        "is for FLUX.1 dev or FLUX.1 schnell",
    ),
    "NaN": (
        lambda p: save_file({HOST[TRAINED[0]]: torch.full((8, 8), torch.nan)}, p),
        "to_q.weight holds NaN or infinity",
    ),
    "NaN difference": (
        lambda p: save_file({f"diffusion_model.{BLOCK}.to_q.diff": torch.full((8, 8), torch.inf)}, p),
        "holds NaN or infinity",
    ),
    "twice": (
        lambda p: save_file({**flat(), **{f"unet.{k}": t.clone() for k, t in flat().items()}}, p),
        "a tensor twice under two names",
    ),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_foreign_and_malicious_files_are_refused_in_one_sentence(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    make, message = DAMAGED[kind]
    make(tmp_path / "w.file")
    with pytest.raises(EsdError, match=message) as raised:
        read(tmp_path / "w.file")
    assert not (tmp_path / "trap-sprung").exists()
    assert "\n" not in str(raised.value) and str(raised.value).endswith(".")


def test_a_header_that_lies_allocates_nothing(tmp_path, monkeypatch):
    changed("shape", [2**40, 4, 3, 3])(tmp_path / "w.file")
    monkeypatch.setattr(torch, "empty", lambda *a, **k: pytest.fail("allocated before the header was checked"))
    with pytest.raises(EsdError):
        read(tmp_path / "w.file")


def test_names_in_pickles_of_every_protocol_are_seen(tmp_path):
    for protocol in range(6):
        path = tmp_path / f"{protocol}.pkl"
        path.write_bytes(pickle.dumps([Trap(), os.rmdir, os.mkdir, zipfile.ZipFile], protocol))
        with path.open("rb") as file:
            assert set(pickled_names(file)[0]) == {f"{os.name}.mkdir", f"{os.name}.rmdir", "zipfile.ZipFile"}


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pickles_with_hundreds_of_storages_of_every_type_are_read(tmp_path, protocol):
    tree = {f"{i}": torch.full((i % 7,), i) for i in range(600)}
    tree |= {name: torch.ones(3).to(dtype) for name, dtype in DTYPES.items()} | {"part": torch.ones(9)[3:6]}
    torch.save(tree, tmp_path / "w.pt", pickle_protocol=protocol)
    if protocol > 3:  # newer opcodes, which the weights-only reader of PyTorch does not know
        check_torch_zip(tmp_path / "w.pt")
        return
    with open_tensors(tmp_path / "w.pt") as file:
        assert all(torch.equal(file.tensors[n].load().float(), t.float()) for n, t in tree.items())


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    path = tensors_file(tmp_path, flat())
    with open_tensors(path) as file:
        os.truncate(path, 200)
        with pytest.raises(EsdError, match="changed while it was read"):
            [stored.load() for stored in file.tensors.values()]


def test_a_missing_file_is_an_esd_error(tmp_path):
    with pytest.raises(EsdError, match="could not be read"):
        read(tmp_path / "none.safetensors")


class TestWriting:
    """The other direction."""

    def test_the_stream_writer_equals_the_formats_own(self, tmp_path):
        tensors = {name: torch.ones(3, 5).to(dtype) for name, dtype in DTYPES.items()}
        tensors |= {
            "scalar": torch.tensor(2.0),
            "nothing": torch.zeros(0, 4),
            "strided": torch.arange(6.0).reshape(2, 3).T,
        }
        write_stream(tmp_path / "a.safetensors", {n: in_memory(t) for n, t in tensors.items()}, {"k": "v"})
        found = load_file(tmp_path / "a.safetensors")
        assert found.keys() == tensors.keys()
        assert all(
            torch.equal(
                found[n].view(torch.uint8) if found[n].dtype.itemsize == 1 else found[n],
                t.view(torch.uint8) if t.dtype.itemsize == 1 else t,
            )
            for n, t in tensors.items()
        )
        with safe_open(tmp_path / "a.safetensors", "pt") as file, open_tensors(tmp_path / "a.safetensors") as ours:
            assert file.metadata() == ours.metadata == {"k": "v"}
            assert all(ours.tensors[n].shape == t.shape for n, t in tensors.items())
        entries, _ = safetensors_header(tmp_path / "a.safetensors")
        assert all(e.begin % e.dtype.itemsize == 0 for e in entries.values()), "aligned, as mapping readers want it"

    def test_one_tensor_at_a_time_is_in_memory(self, tmp_path):
        alive = weakref.WeakSet()

        def load():
            gc.collect()
            assert len(alive) <= 1, "the tensor before is gone, or just going"
            tensor = torch.ones(64)
            alive.add(tensor)
            return tensor

        write_stream(tmp_path / "a", {str(i): LazyTensor((64,), torch.float32, load) for i in range(9)}, {})
        assert len(load_file(tmp_path / "a")) == 9

    def test_a_tensor_that_is_not_as_announced_stops_the_writer(self, tmp_path):
        with pytest.raises(EsdError, match="changed while the file was written"):
            write_stream(tmp_path / "a", {"x": LazyTensor((2,), torch.float32, lambda: torch.ones(3))}, {})

    def test_a_folder_is_whole_or_not_there(self, tmp_path):
        def fail(folder):
            (folder / "a").write_text("x")
            raise OSError(28, "No space left on device")

        with pytest.raises(EsdError, match="No space left on device"):
            write_folder_atomically(tmp_path / "unet", fail)
        assert list(tmp_path.iterdir()) == []

    def test_lora_at_full_rank_is_the_change_itself(self):
        made = decompose(Erasure({PREFIX + n: t for n, t in CHANGE.items()}), 10**6, 1.0)
        path = f"lora_unet_{BLOCK.replace('.', '_')}_to_k"
        product = made.tensors[f"{path}.lora_up.weight"] @ made.tensors[f"{path}.lora_down.weight"]
        assert torch.allclose(product, CHANGE[f"{BLOCK}.to_k.weight"], atol=1e-6)
        assert made.energy == pytest.approx(1)
        assert torch.equal(made.tensors[f"diffusion_model.{BLOCK}.to_out.0.diff_b"], CHANGE[f"{BLOCK}.to_out.0.bias"])

    @pytest.mark.parametrize("shape", [(12, 20), (20, 12), (6, 4, 3, 3)])
    @pytest.mark.parametrize("rank", [1, 3, 5])
    def test_low_rank_is_the_best_one(self, shape, rank):
        change = torch.randn(shape, generator=torch.Generator().manual_seed(3))
        up, down, (kept, total) = low_rank(change, rank, 1.0)
        matrix = change.flatten(1)
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        assert len(low_rank(change, 99, 1.0)[1]) == min(matrix.shape), "no rank is wasted"
        best = u[:, :rank] * s[:rank] @ v[:rank]
        assert torch.allclose(up.flatten(1) @ down.flatten(1), best, atol=1e-4)
        assert kept == pytest.approx(float(s[:rank].square().sum()), rel=1e-5) and total == pytest.approx(
            float(s.square().sum()), rel=1e-5
        )

    def test_energy_chooses_the_smallest_rank_that_keeps_it(self):
        change = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.1]))
        ranks = {energy: len(low_rank(change, 0, energy)[1]) for energy in (0.5, 0.64, 0.7, 0.95, 1.0)}
        assert ranks == {0.5: 1, 0.64: 1, 0.7: 2, 0.95: 3, 1.0: 4}
        assert len(low_rank(torch.zeros(3, 3), 0, 0.9)[1]) == 1

    @pytest.mark.parametrize(("rank", "energy"), [(-1, 0.9), (0, 0.0), (0, 1.1), (0, float("nan"))])
    def test_numbers_without_sense_are_refused(self, rank, energy):
        with pytest.raises(EsdError, match="rank must be 0 or more"):
            decompose(Erasure({}), rank, energy)

    def test_the_official_loader_gets_names_values_and_metadata(self, tmp_path):
        weights = Erasure({PREFIX + n: t for n, t in CHANGE.items()})
        write_stream(tmp_path / "w", official_tensors(weights, network()), to_official(OURS, "SD1.x"))
        found = load_file(tmp_path / "w")
        assert found.keys() == {HOST[n] for n in TRAINED}
        assert all(torch.equal(found[HOST[n]], ERASED[n]) for n in TRAINED)

    def test_a_network_without_diffusers_names_is_refused(self):
        with pytest.raises(EsdError, match="no layout in diffusers"):
            diffusers_names(network(family="SD3", diffusers={}))

    def test_sdxls_label_embedding_is_written_under_the_name_that_diffusers_reads(self):
        names = {
            "class_embedding.linear_1.weight": "label_emb.0.0.weight",
            "add_embedding.linear_1.weight": "label_emb.0.0.weight",
        }
        for order in (names, dict(reversed(names.items()))):
            made = diffusers_names(network({"label_emb.0.0.weight": torch.ones(1)}, diffusers=order))
            assert made["label_emb.0.0.weight"] == "add_embedding.linear_1.weight"


def test_metadata_in_the_official_words_and_back():
    official = to_official(OURS, "SD1.x")
    assert official | {"erase_concept": "cat, fog", "negative_guidance": "2.0", "num_inference_steps": "50"} == official
    assert official | {"format": "erasing-esd-v2", "family": "sd", "component": "unet", "resolution": "512"} == official
    back = from_official(official)
    assert (back["esd.eta"], back["esd.method"], back["esd.base_file"]) == ("1.0", "esd-x", "base.ckpt")
    assert all(isinstance(v, str) for v in to_official({}, "SDXL").values())


def test_eta_with_an_erase_from_prompt_is_the_negative_guidance_itself():
    assert from_official({**V2, "erase_from": "face"})["esd.eta"] == "2.0"
    assert from_official(V2)["esd.eta"] == "1.0"
    assert "esd.eta" not in from_official({**V2, "negative_guidance": "much"})


def test_the_report_tells_what_the_metadata_tells():
    weights = Erasure({PREFIX + n: t for n, t in CHANGE.items()}, OURS)
    text = describe(weights)
    for line in (
        'concept: "cat", drawn as "dog" (weight 2)',
        "keep: dog, cow",
        "eta: 1.0",
        "seed: 7",
        "changes 4 tensors, 6,280 values",
    ):
        assert line in text
    assert list(layer_norms(weights)) == ["input_blocks.1 attn2"]
    assert "changes 1 tensors" in describe(
        Erasure({"diffusion_model.out.0.weight": torch.ones(1)}, {"esd.concepts": "[[["})
    )


def test_layers_are_in_the_networks_order():
    names = (
        "out.2.weight",
        "output_blocks.10.0.x.weight",
        "middle_block.1.y.weight",
        "input_blocks.2.1.z.ff.q.weight",
        "time_embed.0.weight",
    )
    norms = layer_norms(Erasure({PREFIX + n: torch.full((2,), 3.0) for n in names}))
    assert list(norms) == ["time_embed", "input_blocks.2 ff", "middle_block", "output_blocks.10", "out"]
    assert set(norms.values()) == {3.0}


SD15 = UnetShape(4, 4, (320, 640, 1280, 1280), (2, 2, 2, 2), (1, 1, 1, 0), 1, (0, 1, 1, 1), 768, False, 8, 0)


def test_the_configuration_of_sd15_is_the_published_one():
    made = config(SD15)
    assert made["down_block_types"] == ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
    assert (made["transformer_layers_per_block"], made["layers_per_block"], made["attention_head_dim"]) == (1, 2, 8)
    assert made["reverse_transformer_layers_per_block"] is None and "addition_embed_type" not in made
    with pytest.raises(EsdError, match="diffusers cannot express"):
        config(replace(SD15, down=(1, 1, 1, 2)))


def test_files_written_by_the_pack_keep_their_metadata_as_text(tmp_path):
    write_safetensors({f"diffusion_model.{BLOCK}.to_q.diff": torch.ones(8, 8)}, tmp_path / "w", OURS)
    assert read(tmp_path / "w").weights.metadata["esd.seed"] == "7"
