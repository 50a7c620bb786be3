"""Hosts whose layers have no weights until they are filled, as under DynamicVRAM, simulated on the CPU."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from support.graphs import Graph, slot
from support.short_runs import INPUTS, NAME, QUICK

pytestmark = pytest.mark.full


class LazyLinear(nn.Module):
    """What newer hosts make of `comfy.ops.disable_weight_init.Linear` there: no weight before it is loaded."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None):
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.has_bias = in_features, out_features, bias
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)

    def _load_from_state_dict(self, state, prefix, metadata, strict, missing, unexpected, errors):
        for name, wanted in (("weight", True), ("bias", self.has_bias)):
            if prefix + name in state:
                setattr(self, name, nn.Parameter(state[prefix + name], requires_grad=False))
            elif wanted:
                missing.append(prefix + name)


@pytest.fixture(params=["the host's own", "ours"])
def lazy(request, comfy, monkeypatch):
    """Switches the lazy layers on, for networks that are built from now on."""
    import comfy.ops

    if request.param == "the host's own":
        management = pytest.importorskip("comfy.memory_management", reason="this host has no DynamicVRAM")
        if not hasattr(management, "aimdo_enabled"):
            pytest.skip("this host has no DynamicVRAM")
        monkeypatch.setattr(management, "aimdo_enabled", True)
    else:
        made = type("Linear", (LazyLinear, comfy.ops.disable_weight_init.Linear), {"forward": nn.Linear.forward})
        monkeypatch.setattr(comfy.ops.disable_weight_init, "Linear", made)


def loaded(comfy, change=lambda name, layer, leaf: None):
    """MODEL and CLIP of the playground from its file, after a change of each weight's layer."""
    model, clip, _ = comfy.NODE_CLASS_MAPPINGS["CheckpointLoaderSimple"]().load_checkpoint(NAME)
    for path, layer in model.model.diffusion_model.named_modules():
        for leaf, _ in list(layer.named_parameters(recurse=False)):
            change(f"{path}.{leaf}", layer, leaf)
    return model, clip


def keep(layer, leaf, tensor):
    """Put a tensor in the place of a weight, as a host does that keeps it otherwise than the layer computes."""
    setattr(layer, leaf, nn.Parameter(tensor, requires_grad=False))


def digest(comfy, model, clip):
    """A hash of all differences that a run of two steps gives."""
    g = Graph(comfy)
    given = {**INPUTS, "steps": 2, "start": "start over"}
    concept, settings = g.add("ESDConcept", concept="cat"), g.add("ESDEraseSettings", **QUICK)
    run = g.add("ESDErase", model=g.give(model), clip=g.give(clip), concepts=concept, settings=settings, **given)
    found = hashlib.sha256()
    for name, tensor in sorted(g.take(weights=slot(run, 1)).run()["weights"].differences.items()):
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


@pytest.fixture(scope="module")
def plain(comfy, node_classes):
    """What a run gives with ordinary layers."""
    return digest(comfy, *loaded(comfy))


def test_lazily_filled_layers_give_the_same_weights(comfy, plain, lazy):
    assert digest(comfy, *loaded(comfy)) == plain


@pytest.mark.parametrize("change", ["another shape", "one more", "one less"])
def test_layers_that_another_plugin_has_changed_are_refused(comfy, node_classes, lazy, change):
    model, clip = loaded(comfy)
    layer = next(each for path, each in model.model.named_modules() if path.endswith("attn2.to_v"))
    if change == "another shape":
        keep(layer, "weight", layer.weight[:, :-1].clone())
    elif change == "one more":
        layer.extra = nn.Parameter(torch.zeros(1), requires_grad=False)
    else:
        layer.weight = None
    with pytest.raises(AssertionError, match="Another plugin has changed the layers"):
        digest(comfy, model, clip)


def test_weights_that_are_mapped_from_a_file_stay_as_they_are(comfy, plain, tmp_path):
    mapped = {}

    def change(name, layer, leaf):
        values = getattr(layer, leaf).detach().numpy()
        values.tofile(tmp_path / name)
        mapped[name] = np.memmap(tmp_path / name, values.dtype, "c", shape=values.shape)  # writing would not crash
        keep(layer, leaf, torch.from_numpy(mapped[name]))

    assert digest(comfy, *loaded(comfy, change)) == plain
    for name, values in mapped.items():
        assert values.tobytes() == (tmp_path / name).read_bytes()


def test_weights_on_the_meta_device_count_as_zeros(comfy, node_classes):
    def without(make):
        def change(name, layer, leaf):
            if name.endswith("to_out.0.bias"):
                keep(layer, leaf, make(getattr(layer, leaf)))

        return digest(comfy, *loaded(comfy, change))

    assert without(lambda bias: torch.empty_like(bias, device="meta")) == without(torch.zeros_like)


@pytest.mark.parametrize("kept, computed", [(torch.float16, torch.float32), (torch.float32, torch.float16)])
def test_weights_kept_in_the_files_dtype_count_as_the_layers_compute(comfy, node_classes, kept, computed):
    def as_kept(name, layer, leaf):
        keep(layer, leaf, getattr(layer, leaf).to(kept))
        setattr(layer, f"{leaf}_comfy_model_dtype", computed)

    def as_computed(name, layer, leaf):
        keep(layer, leaf, getattr(layer, leaf).to(kept).to(computed))

    assert digest(comfy, *loaded(comfy, as_kept)) == digest(comfy, *loaded(comfy, as_computed))
