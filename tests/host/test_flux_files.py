"""Erasures of FLUX in files: low-rank ones as they were trained, and those of the official code, by rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")
from support.dit_models import DITS, twin  # noqa: E402

OFFICIAL = {
    ("dev", "esd-x"): 2 * 16 + 2 * 6,
    ("dev", "esd-x-strict"): 2 * 4 + 2 * 4,
    ("klein", "esd-x"): 2 * 8,
    ("klein", "esd-x-strict"): 2 * 4,
}
"""How many tensors the official code trains in two double and two single blocks."""


def erased(name: str, method: str, rank: int = 0) -> tuple[Any, Any]:
    """Return a tiny MODEL and what a run of two steps gives."""
    from esd_pack.esd.concepts import make_concept
    from esd_pack.esd.settings import Settings
    from esd_pack.nodes.host.run.erase import erase_model

    model = DITS[name].model()
    settings = Settings(
        method=method,
        rank=rank,
        steps=2,
        learning_rate=1e-2,
        num_inference_steps=4,
        width=64,
        height=64,
        closed_form=False,
    )
    with torch.inference_mode():
        return model, erase_model(model, DITS[name].text, [make_concept("cat")], [], settings)


@pytest.mark.parametrize("form", ["difference", "lora"])
@pytest.mark.parametrize(("name", "method"), list(OFFICIAL))
def test_a_low_rank_erasure_comes_back_as_it_was(comfy: Any, tmp_path: Path, name: str, method: str, form: str) -> None:
    """Bit for bit through our loader, and the same change through the host's own for LoRA files."""
    import comfy.lora
    import comfy.utils

    from esd_pack.nodes.host.files import export, published

    model, run = erased(name, method, rank=4)
    path = tmp_path / "w.safetensors"
    text = export.format_of(form).write(path, export.Export(run.weights, run.weights.metadata))
    assert "low-rank" in text
    assert all(key.startswith("diffusion_model.") for key in load_file(path))
    found = published.load(path, model, "auto").weights
    assert found.low_rank.keys() == run.weights.low_rank.keys() and not found.differences
    for key, change in run.weights.low_rank.items():
        assert torch.equal(found.low_rank[key].up, change.up) and torch.equal(found.low_rank[key].down, change.down)
    stock = model.clone()
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    taken = stock.add_patches(comfy.lora.load_lora(comfy.utils.load_torch_file(str(path)), keys), 1.0)
    assert set(taken) == set(run.weights.names)
    with torch.inference_mode():
        for key in run.weights.names:
            weight = model.model.state_dict()[key]
            patched = comfy.lora.calculate_weight(stock.patches[key], weight.float().clone(), key)
            assert torch.allclose(patched, weight + run.weights.change(key), atol=1e-6)


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize(("name", "method"), list(OFFICIAL))
def test_official_files_go_out_and_in_by_rows(comfy: Any, tmp_path: Path, name: str, method: str, rank: int) -> None:
    """They hold what the official code trains and no more, load into diffusers, and come back but for rounding."""
    from esd_pack.nodes.host.files import export, published

    model, run = erased(name, method, rank)
    path = tmp_path / "w.safetensors"
    export.format_of("official").write(path, export.Export(run.weights, run.weights.metadata, model))
    tensors = load_file(path)
    biases = 2 if name == "dev" and not rank else 1
    assert len(tensors) == OFFICIAL[name, method] * biases // (2 if name == "dev" else 1)
    assert all(t.dtype is torch.bfloat16 for t in tensors.values())
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["component"]) == ("erasing-esd-v2", "transformer")
    assert metadata["family"] == {"dev": "flux", "klein": "flux2_klein"}[name]
    assert (metadata["train_method"], metadata["erase_concept"], metadata["resolution"]) == (method, "cat", "64")
    assert float(metadata["inference_guidance_scale"]) == {"dev": 3.5, "klein": 4.0}[name]
    missing = twin(name, model).network.load_state_dict(tensors, strict=False)
    assert not missing.unexpected_keys
    back = published.load(path, model, "auto")
    assert back.warnings == () and set(back.weights.differences) == set(run.weights.names)
    base = model.model.state_dict()
    for key, change in back.weights.differences.items():
        wanted = run.weights.change(key)
        value = (base[key] + wanted).to(torch.bfloat16).float() - base[key]
        changed = change != 0
        assert torch.allclose(change[changed], value[changed], atol=1e-6)
        assert float((change - wanted).abs().max()) < 0.01


def test_an_official_file_made_with_diffusers_is_read(comfy: Any, tmp_path: Path) -> None:
    """A file as the official code writes it: the erased MODEL answers as diffusers does with those values."""
    from esd_pack.nodes.host.files import published
    from esd_pack.nodes.host.model.apply import apply

    model = DITS["dev"].model()
    other = twin("dev", model)
    generator = torch.Generator().manual_seed(3)
    chosen = {n: p for n, p in other.network.named_parameters() if "attn" in n and "norm" not in n}
    values = {n: (p.detach() + 0.02 * torch.randn(p.shape, generator=generator)) for n, p in chosen.items()}
    meta = {"format": "erasing-esd-v2", "family": "flux", "erase_concept": "cat", "negative_guidance": "2"}
    save_file(values, tmp_path / "w.safetensors", meta)
    found = published.load(tmp_path / "w.safetensors", model, "auto")
    assert found.weights.metadata["esd.eta"] == "1.0"
    other.network.load_state_dict(values, strict=False)
    changed = apply(model, found.weights, 1.0)
    told = {
        "context": torch.randn(1, 32, 64, generator=generator),
        "y": torch.randn(1, 32, generator=generator),
        "guidance": torch.tensor([1.0]),
    }
    x, sigma = torch.randn(1, 16, 8, 8, generator=generator), torch.tensor([0.6])
    with torch.inference_mode():
        changed.patch_model()
        ours = model.model.diffusion_model(x, sigma, transformer_options={}, **told).clone()
        changed.unpatch_model()
    with torch.no_grad():
        theirs = other.call(x, sigma, told)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


def test_an_official_file_of_another_family_is_refused(comfy: Any, tmp_path: Path) -> None:
    from esd_pack.esd.errors import EsdError
    from esd_pack.nodes.host.files import published

    meta = {"format": "erasing-esd-v2", "family": "flux2_klein"}
    save_file({"transformer_blocks.0.attn.to_q.weight": torch.ones(128, 128)}, tmp_path / "w.safetensors", meta)
    with pytest.raises(EsdError, match=r"is for FLUX.2 klein and this MODEL is FLUX.1 dev"):
        published.load(tmp_path / "w.safetensors", DITS["dev"].model(), "auto")
