"""The checkpoint file goes, changes or shrinks while its MODEL is in use: no run is lost, no wrong file is written."""

from __future__ import annotations

import hashlib
import os
import shutil
from types import SimpleNamespace

import pytest
import torch

from support.faults import bits, in_child, listening, make_world, needs_fork, undisturbed
from support.outcomes import record
from support.short_runs import INPUTS, QUICK, module

NAME = "base-that-changes.ckpt"


@pytest.fixture(scope="module")
def world(comfy, node_classes, comfy_base):
    made = make_world(comfy, comfy_base)
    made.clear()
    yield made
    made.clear()


@pytest.fixture
def base(world, checkpoint):
    """A copy of the checkpoint file, which may be damaged."""
    path = checkpoint.with_name(NAME)
    shutil.copyfile(checkpoint, path)
    yield path
    path.unlink(missing_ok=True)


DAMAGES = {
    "deleted": lambda path: path.unlink(),
    "replaced": lambda path: (path.with_suffix(".new").write_bytes(b"another"), path.with_suffix(".new").replace(path)),
    "truncated": lambda path: os.truncate(path, 1000),
}


def train(world):
    """As from the page: the loader is in the graph, so that the file is known."""
    graph = world.graph()
    loader = graph.add("CheckpointLoaderSimple", ckpt_name=NAME)
    settings = graph.add("ESDEraseSettings", **{**QUICK, "num_inference_steps": 2})
    more = {**INPUTS, "steps": 2, "method": "esd-x-strict", "start": "start over"}
    concepts = graph.add("ESDConcept", concept="cat")
    run = graph.add("ESDErase", model=loader, clip=[loader[0], 1], concepts=concepts, settings=settings, **more)
    return graph.take(weights=[run[0], 1], losses=[run[0], 2]).run()


def test_while_it_trains(world, base):
    digest = hashlib.sha256(base.read_bytes()).hexdigest()
    whole = None
    for damage in (None, *DAMAGES.values()):
        if damage and not base.exists() or base.stat().st_size < 2000:
            shutil.copyfile(base.with_name("emoji-world.ckpt"), base)
        with undisturbed(world), listening() as told:
            told.at_step = lambda data, damage=damage: damage and data["step"] == 1 and base.exists() and damage(base)
            outcome = train(world)
        whole = whole or outcome
        assert bits(outcome) == bits(whole)
        assert outcome["weights"].metadata["esd.base_file"] == NAME
        assert outcome["weights"].metadata["esd.base_sha256"] == digest
    record("the checkpoint file is deleted, replaced or truncated while its MODEL trains", len(DAMAGES), "the same bits, and the name and hash of the file that was trained")  # fmt: skip  # noqa: E501


def erased(world):
    model = world.model.clone()
    name = "diffusion_model.input_blocks.0.0.bias"
    model.add_patches({name: ("diff", (torch.full((320,), 1e-3),))}, 1.0)
    return model, SimpleNamespace(patcher=SimpleNamespace(patches={}))


def test_before_it_is_saved_as_source(world, base, tmp_path):
    save = module("files.checkpoint").save_from_source
    for damage in DAMAGES.values():
        shutil.copyfile(base.with_name("emoji-world.ckpt"), base)
        damage(base)
        reason = save(tmp_path / "out.safetensors", base, *erased(world), {})
        assert reason and NAME in reason and reason.endswith(".")
        assert not list(tmp_path.iterdir())
    record("the checkpoint file is deleted, replaced or truncated before its MODEL is saved as source", len(DAMAGES), "left to the stock saver, with the reason")  # fmt: skip  # noqa: E501


@needs_fork
def test_while_it_is_saved_as_source(world, base, tmp_path):
    """In a process of its own: reading on in a file that became shorter would end it."""
    whole = base.read_bytes()
    out = tmp_path / "out.safetensors"
    damages = {
        "truncated": lambda: os.truncate(base, 1000),
        "overwritten": lambda: base.write_bytes(whole[::-1]),
        "deleted": base.unlink,
    }
    endings = {}
    for name, damage in damages.items():
        base.write_bytes(whole)
        endings[name] = in_child(lambda damage=damage: _save_with(world, base, out, damage))
        if name == "deleted":  # the open file stays as it was, and so the saved one is right
            with module("files.checkpoint").open_tensors(out) as file:
                bias = file.tensors["model.diffusion_model.input_blocks.0.0.bias"].load()
            assert len(file.tensors) > 200 and bias.shape == (320,)
        else:
            assert not list(tmp_path.iterdir())
    assert endings == {"truncated": 9, "overwritten": 9, "deleted": 0}
    record("the checkpoint file is cut, overwritten or deleted while its MODEL is being saved as source", 3, {
        "refused in one sentence, no file": 2, "saved right": 1,
    })  # fmt: skip


def _save_with(world, base, out, damage):
    """Leave the process with 9 when the save is refused with its sentence."""
    checkpoint = module("files.checkpoint")
    original = checkpoint.comfy.lora.calculate_weight

    def calculate(*args, **kwargs):
        damage()
        return original(*args, **kwargs)

    checkpoint.comfy.lora.calculate_weight = calculate
    try:
        assert checkpoint.save_from_source(out, base, *erased(world), {}) is None
    except checkpoint.EsdError as error:
        assert f"{NAME} changed while it was read: " in str(error)
        os._exit(9)
