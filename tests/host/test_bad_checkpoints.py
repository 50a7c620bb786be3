"""Damaged checkpoints at the host's doors: Load Model opens them or says in one sentence why not."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save

from esd_pack.esd.errors import EsdError
from support.limits import seconds
from support.mutations import mutated, zipped
from support.outcomes import record
from support.tier import by_tier

pytestmark = pytest.mark.full

FILES = by_tier(
    {"ckpt": 2, "network.safetensors": 4, "network.ckpt": 4, "source": 2},
    {"ckpt": 6, "network.safetensors": 20, "network.ckpt": 20, "source": 8},
    {"ckpt": 60, "network.safetensors": 200, "network.ckpt": 200, "source": 80},
)
"""A whole checkpoint takes the host a second and half a gigabyte, for its text encoder."""


@pytest.fixture(scope="module")
def seeds(checkpoint, node_classes):
    """The playground as it is, and its network alone in both kinds of file."""
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    network = {k: t.half() for k, t in state.items() if k.startswith("model.diffusion_model.")}
    made = io.BytesIO()
    torch.save({"state_dict": network}, made)
    return {"ckpt": checkpoint.read_bytes(), "network.safetensors": save(network), "network.ckpt": made.getvalue()}


@pytest.fixture
def placed(comfy_base):
    """Writes a file among the checkpoints under a name, and takes it away again."""
    made = []

    def place(name, data):
        path = comfy_base / "models" / "checkpoints" / name
        path.write_bytes(data)
        made.append(path)
        return path

    yield place
    for path in made:
        path.unlink(missing_ok=True)


def loaded(name):
    from esd_pack.nodes.host.files.load import load

    with seconds(30), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = load(name)
        except EsdError as error:
            assert str(error).endswith(".") and str(error).isprintable()
            return "refused in one sentence"
    assert found.model is not None
    return "opened"


@pytest.mark.parametrize("kind", ["ckpt", "network.safetensors", "network.ckpt"])
def test_load_model_opens_or_refuses_a_damaged_checkpoint(seeds, placed, kind):
    outcomes = Counter()
    for number in range(FILES[kind]):
        data = mutated(f"checkpoint {kind}", number, seeds[kind])
        name = f"damaged.{kind}"
        placed(name, data)
        try:
            outcomes[loaded(name)] += 1
        except BaseException as error:
            raise AssertionError(f"checkpoint {kind}:{number} {type(error).__name__}: {error}") from error
    record(f"Load Model with damaged checkpoints ({kind})", FILES[kind], outcomes)


def test_load_model_says_what_is_wrong_with_the_file(placed, seeds):
    from esd_pack.nodes.host.files.load import load

    placed("cut.safetensors", seeds["network.safetensors"][:-100])
    with pytest.raises(EsdError, match=r"cut.safetensors is damaged: its header describes .*; download it again"):
        load("cut.safetensors")
    placed("other.safetensors", save({"a": torch.ones(3)}))
    with pytest.raises(EsdError, match=r'"other.safetensors" could not be loaded as a checkpoint \(.*\): choose'):
        load("other.safetensors")
    bomb = zipped([("w/data.pkl", b"\x80\x02}."), ("w/data/0", bytes(2**22))], zipfile.ZIP_DEFLATED)
    placed("bomb.ckpt", bomb)
    with pytest.raises(EsdError, match="a zip bomb"):
        load("bomb.ckpt")


def test_a_cancelled_or_too_small_machine_is_no_bad_file(placed, seeds, monkeypatch):
    import comfy.model_management
    import comfy.sd

    from esd_pack.nodes.host.files.load import load

    placed("whole.ckpt", seeds["ckpt"])
    for error in (comfy.model_management.InterruptProcessingException, MemoryError, torch.cuda.OutOfMemoryError):
        monkeypatch.setattr(comfy.sd, "load_checkpoint_guess_config", lambda *a, error=error, **k: _raise(error))
        with pytest.raises(error):
            load("whole.ckpt")


def _raise(error):
    raise error()


def test_saving_as_source_from_a_damaged_source_says_why_or_saves(seeds, placed, playground, tmp_path):
    """Whatever became of the source after it was loaded, the saver falls back with a reason, or writes it right."""
    from esd_pack.nodes.host.files.checkpoint import save_from_source

    model, clip = playground[0], SimpleNamespace(patcher=SimpleNamespace(patches={}))
    outcomes = Counter()
    for number in range(FILES["source"]):
        source = placed("source.ckpt", mutated("source", number, seeds["ckpt"]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reason = save_from_source(tmp_path / "out.safetensors", source, model, clip, {})
        assert reason is None or reason.isprintable()
        outcomes["saved" if reason is None else "left to the stock saver, with the reason"] += 1
    record("saving as source after the source file was damaged", FILES["source"], outcomes)
