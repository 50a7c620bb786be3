"""Names, links and prompts that try to lead a node out of the host's folders, in the real host."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from esd_pack.esd.erasure import PREFIX, Erasure
from esd_pack.esd.errors import EsdError
from esd_pack.esd.files.atomic import write_atomically, write_folder_atomically
from support.graphs import Graph, slot
from support.outcomes import record
from support.short_runs import module

LAYER = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
FORMATS = ("difference", "lora", "official", "diffusers unet", "checkpoint")
CLIMBING = ("../x", "../../x", "a/../../x", "/x", "//x", "/", "{outside}/x", "%year%/../../x", "{models}/x")
ODD = (
    *(
        "..",
        "../",
        ".",
        "x/",
        "./x",
        "~/x",
        "$HOME/x",
        "..\\x",
        "..\\..\\x",
        "C:\\x",
        "C:x",
        "\\\\server\\share\\x",
        "file:///x",
    ),
    *("%2e%2e/x", "..%2fx", "\uff0e\uff0e/x", "\u2024\u2024/x", "x\u202e", " x ", "x.", "-x", "%date%", "%date:yyyy%"),
    *(
        "%width%/%height%",
        "con",
        "nul",
        "aux/x",
        "COM1",
        "prn.safetensors",
        "esd/runs/x",
        "x.esd-partial",
        "; rm -rf x",
    ),
)
BROKEN = (
    "",
    " ",
    "x\0",
    "\0",
    "x\0/../y",
    "x\n",
    "x\x1b[2J",
    "\ud800",
    "a" * 300,
    "\xe4" * 150,
    "a" * 100_000,
    "a/" * 3000,
)


def told(call):
    """What the call gives, or the sentence of its refusal."""
    try:
        return call()
    except ValueError as error:
        assert isinstance(error, EsdError), repr(error)
        text = str(error)
        assert text.isprintable() and len(text) < 500 and ": " in text and text.endswith((".", '"')), text
        return text


class Disk:
    """Every file and folder of a place with size and time, and what Python opened there since `watch`."""

    opened: list[str] = []
    hooked = False

    def __init__(self, place, but=()):
        self.place, self.but = place, but
        if not Disk.hooked:
            sys.addaudithook(Disk._heard)
            Disk.hooked = True
        self.before = self.listed()
        Disk.opened.clear()

    @staticmethod
    def _heard(event, values):
        if event in ("open", "os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink"):
            Disk.opened.extend(os.fsdecode(v) for v in values[:2] if isinstance(v, str | bytes) and len(v) > 1)

    def listed(self):
        """Below the place, links not followed."""
        found = {}
        for folder, folders, files in os.walk(self.place):
            folders[:] = [name for name in folders if Path(folder, name) not in self.but]
            for path in (Path(folder, name) for name in (*folders, *files)):
                status = path.lstat()
                found[path] = (status.st_mode, status.st_size if path.is_file() else 0, status.st_mtime_ns)
        return {path: about for path, about in found.items() if not path.is_dir() or path.is_symlink()} | {
            path: () for path in found if path.is_dir()
        }

    def untouched(self):
        """Nothing there was made, changed, deleted, or as much as opened by Python."""
        own = [Path(name) for name in Disk.opened if Path(name).is_relative_to(self.place)]
        return self.listed() == self.before and all(any(p.is_relative_to(b) for b in self.but) for p in own)


@pytest.fixture(scope="module")
def place(comfy_base, playground, node_classes, tmp_path_factory):
    """The host's folders, one outside them with valid weights in it, and weights to save."""
    outside = tmp_path_factory.mktemp("outside")
    change = {PREFIX + LAYER: torch.full(playground[0].model.state_dict()[PREFIX + LAYER].shape, 0.01)}
    module("files.folders").register()
    (comfy_base / "models" / "esd").mkdir(exist_ok=True)
    secret = {f"lora_unet_{LAYER.removesuffix('.weight').replace('.', '_')}.diff": change[PREFIX + LAYER]}
    for folder in (outside, comfy_base, comfy_base / "models", comfy_base / "input", comfy_base / "output"):
        save_file(secret, folder / "secret.safetensors")
    (outside / "secret.txt").write_text("12345678: the secret words of somebody else\n" * 9)
    return SimpleNamespace(
        base=comfy_base, output=comfy_base / "output", models=comfy_base / "models", outside=outside,
        parts=module("files.save").Parts(*playground), weights=Erasure(change, {}),
    )  # fmt: skip


def save(place, prefix, form):
    """Write in one of the formats; the path, or the sentence of a refusal."""
    saving = module("files.save")
    if form == "checkpoint":
        return told(lambda: saving.save_checkpoint(prefix, place.parts, None, {}))
    export = module("files.export").Export(place.weights, {}, place.parts.model, 2)
    return told(lambda: saving.save_erasure(prefix, export, {}, form))


def filled(place, name):
    return name.format(outside=place.outside, models=place.models) if "{" in name else name


@pytest.mark.parametrize("form", FORMATS)
def test_no_file_name_leads_a_saver_out_of_the_output_folder(place, form):
    disks = Disk(place.base, [place.output]), Disk(place.outside)
    names = [*CLIMBING, *BROKEN, *ODD] if form == "difference" else [*CLIMBING, *BROKEN[2:6], *ODD[:3], "esd/runs/x"]
    ends = {"refused in one sentence": 0, "written inside the output folder": 0}
    for name in names:
        made = save(place, filled(place, name), form)
        assert isinstance(made, str) or name not in (*CLIMBING, *BROKEN), name
        assert name not in CLIMBING or "leaves the output folder" in made, made
        if isinstance(made, str):
            assert str(place.base) not in made or name.startswith("{"), made
        else:
            assert made[0].exists() and made[0].resolve().is_relative_to(place.output.resolve()), name
            assert str(place.base) not in made[1]
            module("files.save").listing(*made)
        ends["refused in one sentence" if isinstance(made, str) else "written inside the output folder"] += 1
        assert all(disk.listed() == disk.before for disk in disks), name
    assert all(disk.untouched() for disk in disks)
    record(f"file names that climb out, are reserved, broken or too long, in the savers ({form})", len(names), ends)


@pytest.mark.parametrize("name", ["../x", "/x", "x\0", "a" * 300])
def test_a_graph_with_such_a_name_is_refused_before_it_runs(comfy, place, name):
    g = Graph(comfy)
    g.add("ESDSaveErasure", weights=g.give(place.weights), filename_prefix=name)
    outcome = g.run()
    assert outcome.ending == "refused" and outcome.message.endswith(".")


def test_what_no_windows_file_is_called_is_refused_there(place, monkeypatch):
    monkeypatch.setattr(module("files.save"), "FORBIDDEN", '<>:"|?*')
    for name in ("a:b", "C:\\x", "x?", "a/<b>", "x|y"):
        assert "no file name can have" in save(place, name, "difference")
    record("names with what Windows forbids or hides, refused as there", 5, "refused in one sentence")


def test_a_pickle_is_refused_where_the_host_would_run_what_is_in_it(place, monkeypatch):
    import comfy.utils

    monkeypatch.setattr(comfy.utils, "ALWAYS_SAFE_LOAD", False)  # as with PyTorch before 2.4
    assert "use a safetensors file, or PyTorch 2.4" in told(lambda: module("files.load").load("emoji-world.ckpt"))


def unlisted(place):
    """Names of files that are there, by every way that leads to them but the list."""
    for folder in ("..", "../..", "../../output", "../output", "../input", "x/../..", "./../"):
        yield f"{folder}/secret.safetensors"
    yield from (str(folder / "secret.safetensors") for folder in (place.outside, place.base, place.models))
    yield str(place.outside / "secret.txt")
    yield f"file://{place.outside}/secret.safetensors"
    yield os.path.relpath(place.outside / "secret.safetensors", place.models / "esd")
    yield from ("..\\secret.safetensors", "C:\\secret.safetensors", "\\\\server\\secret.safetensors", "/etc/passwd")
    yield from (
        "%2e%2e/secret.safetensors",
        "~/secret.safetensors",
        "secret.safetensors\0",
        "\0",
        "",
        ".",
        "/",
        "a" * 300,
    )
    yield from ("con.safetensors", "nul", "\ud800.pt", "x" * 100_000 + ".pt", None, 5, True, {}, ["a"], b"secret.pt")


def test_no_name_opens_what_is_not_in_the_models_folders(place):
    folders, loading, provenance = module("files.folders"), module("files.load"), module("files.graph")
    hidden = [Disk(place.outside), Disk(place.base / "input")]
    count = 0
    for name in unlisted(place):
        prompt = {"1": {"inputs": {"model": ["2", 0]}}, "2": {"inputs": {"ckpt_name": name, "unet_name": name}}}
        for call in (folders.path_of, loading.load, folders.fingerprint):
            assert "There is no " in told(lambda call=call, name=name: call(name)), name
            count += 1
        assert provenance.base_file(prompt, "1") is None, name
        count += 1
    opened = [n for n in Disk.opened if "secret" in n or "passwd" in n]
    assert all(disk.untouched() for disk in hidden) and opened == []
    record("names of files elsewhere in the loaders and in a graph's own words", count, "refused in one sentence")


def test_a_graph_that_names_such_a_file_opens_none(comfy, place):
    hidden = [Disk(place.outside), Disk(place.base / "input")]
    names = [n for n in unlisted(place) if isinstance(n, str) and len(n) < 1000 and "\ud800" not in n]
    for name in names:
        g = Graph(comfy)
        g.add("ESDLoadErasure", file=name, model=g.give(place.parts.model))
        g.add("ESDErasureInfo", weights=["2", 1])
        outcome = g.run()
        assert outcome.ending in ("refused", "execution_error"), name
        g = Graph(comfy)
        g.take(model=g.add("ESDLoadModel", ckpt_name=name))
        assert g.run().ending in ("refused", "execution_error"), name
    assert all(disk.untouched() for disk in hidden)
    record("the same in graphs that are queued without the page", 2 * len(names), "refused, and no file opened")


TEXTS = (
    *("../../x", "/etc/passwd", "C:\\con", "x\0y", "%year%/../../x", "esd/runs/../../x", "a" * 300, "nul"),
    *("embedding:../../secret", "embedding:{outside}/secret.safetensors", "embedding:../../output/secret.safetensors"),
)


def train(comfy, place, *words, keep="", **inputs):
    """A training of one step in the host, from the concepts' words to weights."""
    g = Graph(comfy)
    small = {
        "width": 64,
        "height": 64,
        "num_inference_steps": 2,
        "samples_per_trajectory": 2,
        "trajectory_batch": 1,
        "buffer_size": 2,
    }
    concepts = g.give(())
    for concept in words:
        concepts = g.add("ESDConcept", concept=concept, previous=concepts)
    if keep:
        inputs["keep"] = g.add("ESDKeep", prompts=keep)
    run = g.add(
        "ESDErase", model=g.give(place.parts.model), clip=g.give(place.parts.clip), concepts=concepts,
        settings=g.add("ESDEraseSettings", **small),
        **{"method": "esd-x-strict", "steps": 1, "preview_every": 0, "snapshot_every": 0, **inputs},
    )  # fmt: skip
    return g.take(weights=slot(run, 1)).run()


def test_no_prompt_becomes_the_name_of_a_file(comfy, place, runs):
    disks = Disk(place.outside), Disk(place.base, [place.output / "esd", place.base / "temp"])
    texts = [filled(place, text) for text in TEXTS]
    outcome = train(comfy, place, *texts[:3], keep="\n".join(texts[3:]))
    assert "weights" in outcome.taken, outcome.message
    made = sorted(runs.iterdir())
    assert made and all(module("run.store")._RUN.fullmatch(path.name) for path in made)
    assert all(disk.listed() == disk.before for disk in disks) and disks[0].untouched()
    record(
        "concepts and keeps that name files, folders and embeddings elsewhere",
        len(TEXTS),
        "taken as words; no such file opened",
    )


@pytest.fixture
def link(place):
    """Makes links that are gone after the test."""
    made = []

    def make(path, target):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.symlink_to(target, target_is_directory=Path(target).is_dir())
        except (NotImplementedError, PermissionError):
            pytest.skip("this system makes no links without leave")
        made.append(path)
        return path

    yield make
    for path in made:
        if path.is_symlink():
            path.unlink()


@pytest.mark.parametrize("form", FORMATS)
def test_a_linked_folder_leads_no_saver_out(place, link, form):
    disk = Disk(place.outside)
    link(place.output / "away", place.outside)
    link(place.output / "deep" / "down", place.outside)
    link(place.output / time.strftime("%m"), place.outside)
    names = ("away/x", "away/new/x", "deep/down/x", "%month%/x", "%month%/new/x", "deep/../away/x")
    for name in names:
        assert "is a link that leads out" in save(place, name, form)
    assert disk.listed() == disk.before
    record(f"links to other places in the output folder, in the savers ({form})", len(names), "refused in one sentence")


def test_links_between_the_host_s_own_folders_are_used(comfy, place, link, tmp_path):
    import folder_paths

    link(place.output / "mine", place.models / "loras")
    path, _ = save(place, "mine/kept", "difference")
    assert (place.models / "loras" / path.name).is_file()
    (tmp_path / "elsewhere").mkdir()
    before = folder_paths.get_output_directory()
    try:
        folder_paths.set_output_directory(str(link(tmp_path / "output", tmp_path / "elsewhere")))
        path, _ = save(place, "sub/kept", "difference")
        other, _ = save(place, "../output/kept", "difference")
    finally:
        folder_paths.set_output_directory(before)
    assert (tmp_path / "elsewhere" / "sub" / path.name).is_file() and (tmp_path / "elsewhere" / other.name).is_file()
    record("links from the output folder to a models folder, and an output folder that is a link", 3, "written there")


def test_links_planted_at_the_names_that_are_written(place, link, monkeypatch):
    import esd_pack.esd.files.atomic as files

    disk = Disk(place.outside)
    victim = place.outside / "secret.txt"
    write_atomically(link(place.output / "final", victim), lambda to: to.write_text("ours"))
    assert (place.output / "final").read_text() == "ours" and not (place.output / "final").is_symlink()
    monkeypatch.setattr(files, "uuid4", lambda: SimpleNamespace(hex="0" * 32))  # as if it could be foreseen
    for target in (victim, place.outside, place.outside / "new"):
        x, y = (link(place.output / f"{n}.{'0' * 8}.{os.getpid()}.esd-partial", target) for n in "xy")
        with pytest.raises(EsdError, match="could not be written"):
            write_atomically(place.output / "x", lambda to: to.write_text("ours"))
        with pytest.raises(EsdError, match="could not be written"):
            write_folder_atomically(place.output / "y", lambda to: (to / "new").write_text("ours"))
        x.unlink(missing_ok=True)
        y.unlink(missing_ok=True)
    assert disk.listed() == disk.before
    (place.output / "final").unlink()
    record(
        "links planted at the names of finished and unfinished files",
        7,
        "replaced or refused; what they lead to is as before",
    )


def test_links_planted_as_run_folders(comfy, place, link):
    train(comfy, place, "linked")
    runs = place.output / "esd" / "runs"
    (kept,) = [p for p in runs.iterdir() if (p / "erasure.safetensors").is_file() and "linked" in load_words(p)]
    disk = Disk(place.outside)
    aside = kept.rename(runs.parent / "aside")
    link(kept, place.outside)
    again = train(comfy, place, "linked", start="start over", snapshot_every=1)
    assert again.ending == "execution_success" and disk.listed() == disk.before
    kept.unlink()
    aside.rename(kept)
    whole = runs.rename(runs.parent / "aside")
    link(runs, place.outside)
    assert train(comfy, place, "linked").ending == "execution_success" and disk.listed() == disk.before
    runs.unlink()
    whole.rename(runs)
    record("links planted as the folder of a run and as that of all runs", 2, "trained; nothing written through them")


def load_words(folder):
    """The concepts in the metadata of a kept run."""
    from safetensors import safe_open

    with safe_open(folder / "erasure.safetensors", "pt") as file:
        return file.metadata()["esd.concepts"]


def test_what_is_not_a_run_s_own_is_never_deleted(place, link, monkeypatch):
    runs = module("run.store")
    folder = place.output / "esd" / "runs"
    monkeypatch.setattr(runs, "MOST_BYTES", 0)
    monkeypatch.setattr(runs, "runs_folder", lambda: folder)
    own, newest = folder / ("a" * 16), folder / ("b" * 16)
    for path in (
        own / "snapshot.esd",
        own / "notes.txt",
        folder / "mine" / "model.safetensors",
        newest / "snapshot.esd",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 99)
    outside = place.outside / "run"
    outside.mkdir()
    (outside / "snapshot.esd").write_bytes(b"x")
    link(folder / ("c" * 16), outside)
    runs.evict_oldest(newest)
    assert not (own / "snapshot.esd").exists() and (own / "notes.txt").is_file()
    assert (folder / "mine" / "model.safetensors").is_file() and (outside / "snapshot.esd").is_file()
    dead = "x.12345678.999999999.esd-partial"
    link(place.output / dead, place.outside / "secret.txt")
    link(place.output / f"y{dead}", place.outside)
    disk = Disk(place.outside)
    module("run.cleanup").delete_partials()
    assert disk.listed() == disk.before
    record("files of others, and links, where old runs and half-written files are deleted", 5, "all there")


def test_a_link_in_a_models_folder_is_read_as_the_host_reads_it_and_tells_nothing_else(comfy, place, link):
    link(place.models / "esd" / "good.safetensors", place.outside / "secret.safetensors")
    link(place.models / "esd" / "gone.safetensors", place.outside / "gone.safetensors")
    link(place.models / "esd" / "round.safetensors", place.models / "esd" / "round.safetensors")
    bad = [
        link(place.models / "esd" / f"bad.{end}", place.outside / "secret.txt") for end in ("safetensors", "pt", "ckpt")
    ]
    load, path_of = module("files.published").load, module("files.folders").path_of
    found = load(path_of("good.safetensors"), place.parts.model, "auto")
    assert len(found.weights.differences) == 1
    for path in bad:
        refusal = told(lambda path=path: load(path_of(path.name), place.parts.model, "auto"))
        assert isinstance(refusal, str) and "secret" not in refusal and "somebody" not in refusal
        assert str(int.from_bytes(b"12345678", "little")) not in refusal
    for name in ("gone.safetensors", "round.safetensors"):
        assert "There is no" in told(lambda name=name: path_of(name))
    assert load_file(place.outside / "secret.safetensors")
    record("links in models/esd: to weights, to other files, to nothing, to themselves", 6, {
        "opened": 1, "refused in one sentence that tells nothing of what they lead to": 5,
    })  # fmt: skip
