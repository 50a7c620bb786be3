"""Thousands of damaged, lying and malicious weights files: each opens rightly or is refused in one sentence.

Every file is made from a seed file and a number alone.  A failure names both; `ESD_FUZZ="LoRA of kohya:17"` runs that
file again, and `ESD_FUZZ_TIMES=20` makes the whole run twenty times as long.
"""

from __future__ import annotations

import io
import json
import math
import os
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from esd_pack.esd.concepts import make_concept, make_keep
from esd_pack.esd.errors import EsdError
from esd_pack.esd.files.lazy import MOST_REPEATED, open_tensors
from esd_pack.esd.files.safetensors_write import write_stream
from esd_pack.esd.formats.load import INTERPRETATIONS, Base, load_erasure
from esd_pack.esd.formats.official import to_official
from esd_pack.esd.report import describe, layer_norms
from esd_pack.esd.settings import Settings
from esd_pack.esd.snapshot import read_snapshot, write_snapshot
from esd_pack.esd.train import Training
from support.erasure_files import BLOCK, CHANGE, COMPVIS, LECO, OURS, SHAPES, TRAINED, V2, flat, nested, network, values
from support.fakes import FakeConditions, FakeDenoiser
from support.limits import TooLong, address_space, peak_rss, python_memory, seconds
from support.mutations import mutated
from support.outcomes import record
from support.tier import by_tier

pytestmark = pytest.mark.full

FILES_A_SEED = FILES_A_SNAPSHOT = by_tier(30, 200, 2000)
LONGEST, WRITTEN_TIMES, MEMORY, PYTHON_MEMORY, GROWTH = 5.0, 32, 512 * 2**20, 64 * 2**20, 200 * 2**20
"""A file's seconds; its copy's size over its own; bytes it may map; bytes of Python objects; growth of the process."""


def lora(prefix, up="lora_up", down="lora_down", rank=2, **more):
    generator = torch.Generator().manual_seed(4)
    draw = [torch.randn(s, generator=generator) * 0.1 for s in ((8, rank), (rank, 768))]
    return {f"{prefix}.{up}.weight": draw[0], f"{prefix}.{down}.weight": draw[1]} | {
        f"{prefix}.{name}": value for name, value in more.items()
    }


def pt(tree, **how):
    made = io.BytesIO()
    torch.save(tree, made, **how)
    return made.getvalue()


def changes(names=TRAINED, dtype=torch.float32):
    ends = {"weight": "diff", "bias": "diff_b"}
    return {
        f"diffusion_model.{name.rpartition('.')[0]}.{ends[name.rpartition('.')[2]]}": CHANGE[name].to(dtype)
        for name in names
    }


def shared():
    whole = torch.arange(8.0 * 8 * 2)
    to_q = f"model.diffusion_model.{BLOCK}.to_q.weight"
    return {
        to_q: whole[:64].reshape(8, 8),
        f"model.diffusion_model.{BLOCK}.to_out.0.weight": whole[64:].reshape(8, 8).T,
    }


CONVOLUTION = {
    "lora_unet_conv_in.lora_up.weight": torch.ones(8, 2, 1, 1),
    "lora_unet_conv_in.lora_down.weight": torch.ones(2, 4, 3, 3),
}
SEEDS = {
    "difference": lambda: save(changes(), OURS),
    "difference in half precision": lambda: save(changes(dtype=torch.float16), {"esd.format": "1"}),
    "official 2026": lambda: save(flat(), V2),
    "official without metadata": lambda: save(flat(dtype=torch.bfloat16)),
    "diffusers UNet": lambda: save(flat(SHAPES, prefix="unet.")),
    "CompVis safetensors": lambda: save({k: t.contiguous() for k, t in COMPVIS.items()}),
    "LoRA of kohya": lambda: save(lora(LECO, alpha=torch.tensor(2.0)), {"ss_network_dim": "2"}),
    "LoRA of PEFT": lambda: save(lora(f"diffusion_model.{BLOCK}.to_k", "lora_B", "lora_A")),
    "LoRA of diffusers": lambda: save(lora("unet.conv_in", "lora.up", "lora.down") | CONVOLUTION),
    "LoRA with full differences": lambda: save(changes(TRAINED[:1]) | lora(LECO) | CONVOLUTION),
    "pt, flat": lambda: pt(flat(SHAPES)),
    "pt, nested": lambda: pt(nested("unet.")),
    "pt, whole attention": lambda: pt(nested("", True)),
    "ckpt": lambda: pt({"epoch": 3, "state_dict": COMPVIS}),
    "bin, one storage": lambda: pt(shared()),
    "pth, LoRA": lambda: pt(lora(LECO, alpha=torch.tensor(2.0), rank=3)),
    "pt of an old PyTorch": lambda: pt(flat(), _use_new_zipfile_serialization=False),
}


def training(steps=3):
    settings = Settings(
        steps=steps,
        num_inference_steps=4,
        samples_per_trajectory=2,
        trajectory_batch=2,
        buffer_size=4,
        optimizer="adamw",
    )
    return Training(FakeDenoiser(), FakeConditions(), [make_concept("cat")], [make_keep("dog", 1.0)], settings)


def snapshot():
    run = training()
    next(iter(run))
    with tempfile.TemporaryDirectory() as folder:
        write_snapshot(run.snapshot(), Path(folder) / "w", "the run")
        return (Path(folder) / "w").read_bytes()


def _as_snapshot(path):
    run = training()
    before = [p.detach().clone() for p in run.denoiser.trainable.values()]
    try:
        run.resume(read_snapshot(path, "the run", run.denoiser))
    except EsdError:
        assert all(map(torch.equal, before, run.denoiser.trainable.values())) and not run.losses
        raise
    assert len(list(run)) <= 3


def judged(path, number, folder):
    """What came of a file at every door: opened, or refused by our own error; raises for anything else."""
    if folder.name == "snapshots":
        return "refused in one sentence" if _one_sentence(lambda: _as_snapshot(path)) == "refused" else "opened"
    outcomes = {_one_sentence(lambda: _as_erasure(path, number)), _one_sentence(lambda: _as_source(path, folder))}
    return "opened" if "opened" in outcomes else "refused in one sentence"


def _one_sentence(call):
    try:
        call()
    except EsdError as error:
        text = str(error)
        assert len(text) < 900 and text.isprintable() and text.endswith("."), text[:2000]
        assert "allocate" not in text and "MemoryError" not in text, text
        text.encode()
        return "refused"
    return "opened"


def _as_erasure(path, number):
    trained_from = network(values(0)) if number % 3 == 0 else None
    found = load_erasure(path, Base(network(), trained_from, lambda: "abc"), INTERPRETATIONS[number % 3])
    for name, change in found.weights.differences.items():
        assert tuple(change.shape) == SHAPES[name.removeprefix("diffusion_model.")], name
        assert change.dtype == torch.float32 and bool(torch.isfinite(change).all()), name
    for text in (describe(found.weights), found.summary, *found.warnings, *found.weights.metadata.values()):
        text.encode()
    assert all(math.isfinite(norm) for norm in layer_norms(found.weights).values())
    json.dumps(to_official(found.weights.metadata, "SD1.x"))


def _as_source(path, folder):
    with open_tensors(path) as file:
        stored = sum(t.nbytes for t in file.tensors.values())
        assert stored <= max(WRITTEN_TIMES * path.stat().st_size, 4 * MOST_REPEATED), f"{stored:,} bytes in a copy"
        write_stream(folder / "copy", file.tensors, file.metadata)
        with open_tensors(folder / "copy") as copy:
            assert copy.tensors.keys() == file.tensors.keys() and copy.metadata == file.metadata


def run(name, number, data, folder):
    """One file; returns its outcome, or the failure as text for the replay."""
    path = folder / "w.file"
    path.write_bytes(data)
    try:
        with seconds(LONGEST), address_space(MEMORY):
            if number % 40 == 0:
                with python_memory(PYTHON_MEMORY + 8 * len(data)):
                    return judged(path, number, folder)
            return judged(path, number, folder)
    except (Exception, TooLong) as error:
        return f'ESD_FUZZ="{name}:{number}" {type(error).__name__}: {str(error)[:300]}\n' + "".join(
            traceback.format_tb(error.__traceback__)[-3:]
        )


def fuzzed(name, seed, folder, times):
    """Outcomes of the mutations of a file; skips where another one is replayed, fails with the replay's words."""
    chosen = os.environ.get("ESD_FUZZ", f"{name}:").rpartition(":")
    if chosen[0] != name:
        pytest.skip("another seed file is replayed")
    times *= int(os.environ.get("ESD_FUZZ_TIMES", "1"))
    numbers, before = [int(chosen[2])] if chosen[2] else range(times), peak_rss()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own about odd pickles
        outcomes = Counter(run(name, number, mutated(name, number, seed), folder) for number in numbers)
    failed = [text for text in outcomes if text.startswith("ESD_FUZZ")]
    assert not failed, f"{len(failed)} of {len(numbers)}\n" + "\n".join(failed[:8])
    assert peak_rss() - before < GROWTH
    assert {p.name for p in folder.iterdir()} <= {"w.file", "copy"}, "nothing else was written"
    return len(numbers), outcomes


@pytest.mark.parametrize("name", SEEDS)
def test_every_damaged_file_opens_rightly_or_is_refused_in_one_sentence(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    times, outcomes = fuzzed(name, SEEDS[name](), tmp_path, FILES_A_SEED)
    record(f"weights files damaged at random: {name}", times, outcomes)


def test_every_damaged_snapshot_is_gone_on_with_or_refused_with_nothing_changed(tmp_path, monkeypatch):
    folder = tmp_path / "snapshots"
    folder.mkdir()
    monkeypatch.chdir(folder)
    times, outcomes = fuzzed("snapshot", snapshot(), folder, FILES_A_SNAPSHOT)
    record("snapshots of a run damaged at random", times, outcomes)
