"""The start in closed form of transformers, where text enters them: what it changes, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from support.dit_models import DITS, OTHERS
from support.word_text import POOLED, WIDTH, WordText

RANK = 16
INPUTS = {
    "dev": ("txt_in.weight", "vector_in.in_layer.weight"),
    "schnell": ("txt_in.weight", "vector_in.in_layer.weight"),
    "sd35": ("context_embedder.weight", "y_embedder.mlp.0.weight"),
}


def case_of(name: str) -> Any:
    """The family's row with such a text encoder, where its width is free as wide as these words need."""
    row = {**DITS, **OTHERS}[name]
    if name == "sd35":  # its width is a real one; what the words leave is zeros, as of encoders that are not loaded
        return replace(row, text=WordText(4096, 2048))
    config = {**row.config, "context_in_dim": WIDTH, "vec_in_dim": POOLED}
    return replace(row, config=config, text=WordText(WIDTH, POOLED))


def settings_of(row: Any, **changes: Any) -> Any:
    """Few and small calls."""
    from esd_pack.esd.settings import Settings

    return Settings(width=row.side, height=row.side, num_inference_steps=4, trajectory_batch=1, **changes)


@pytest.mark.parametrize("rank", [0, RANK])
@pytest.mark.parametrize("name", ["dev", "schnell", pytest.param("sd35", marks=pytest.mark.full)])
def test_the_words_of_an_object_do_nothing_and_others_do_as_before(comfy: Any, name: str, rank: int) -> None:
    """The student under "cat" answers as the base under the empty prompt; under what is kept as the base does."""
    from esd_pack.esd.concepts import make_concept, make_keep, prompts_of
    from esd_pack.esd.until_gone import settled
    from esd_pack.nodes.host.model.conditioning import encode
    from esd_pack.nodes.host.run.erase import guidance_of, make_denoiser, make_plan
    from esd_pack.nodes.host.run.start import starting_edits

    row = case_of(name)
    chosen, settings = settled([make_concept("cat")], settings_of(row, rank=rank))
    keeps = [make_keep("dog\na red house", 1.0)]
    with torch.inference_mode():
        plan = make_plan(row.model(), settings)
        prompts = prompts_of(chosen, keeps)
        told = encode(plan.host, row.text, prompts, plan.latent_shape, plan.device, guidance_of(plan.settings))
        start = starting_edits(plan, row.text, told, chosen, keeps)
    assert tuple(start.edits) == INPUTS[name] == tuple(plan.begun) and not start.without_styles
    denoiser = make_denoiser(plan, lambda samples: None, start.edits)
    x, sigma = torch.randn((1, *plan.latent_shape), generator=torch.Generator().manual_seed(1)), torch.tensor([0.7])
    with torch.no_grad():
        base = {prompt: denoiser.predict(x, sigma, told[prompt]) for prompt in prompts}
        with denoiser.student():
            student = {prompt: denoiser.predict(x, sigma, told[prompt]) for prompt in prompts}
    did = (base["cat"] - base[""]).norm()
    assert (student["cat"] - base[""]).norm() < 0.35 * did
    assert all((student[kept] - base[kept]).norm() < 0.2 * did for kept in ("", "dog", "a red house"))
    learns = {n for n, p in denoiser.trainable.items() if p.requires_grad}
    fixed = {n.split(".lora_")[0].removesuffix(".weight") for n in denoiser.trainable.keys() - learns}
    assert fixed == {n.removesuffix(".weight") for n in INPUTS[name]} and learns


@pytest.mark.parametrize("rank", [0, RANK])
def test_training_goes_on_beside_it(comfy: Any, rank: int) -> None:
    """What text enters stays as the run began, and attention is trained; the MODEL that came in stays as it was."""
    from esd_pack.esd.concepts import make_concept
    from esd_pack.nodes.host.run.erase import erase_model

    row = case_of("dev")
    model = row.model()
    before = {key: value.clone() for key, value in model.model.state_dict().items()}
    with torch.inference_mode():
        begun, trained = (
            erase_model(
                model,
                row.text,
                [make_concept("cat")],
                [],
                settings_of(row, rank=rank, steps=steps, stop="after all steps", learning_rate=1e-3),
            ).weights
            for steps in (1, 3)
        )
    changed = {name for name in trained.names if not torch.equal(trained.change(name), begun.change(name))}
    inputs = {f"diffusion_model.{name}" for name in INPUTS["dev"]}
    assert inputs <= set(trained.names) and changed and not changed & inputs
    assert all(bool(trained.change(name).any()) for name in inputs)
    assert all(torch.equal(value, before[key]) for key, value in model.model.state_dict().items())


def test_methods_that_leave_text_alone_begin_as_they_are(comfy: Any) -> None:
    """And published presets, whose selections stay as published."""
    from esd_pack.esd.presets import with_preset
    from esd_pack.nodes.host.run.erase import make_plan

    row = case_of("sd35")
    for settings in (
        *(settings_of(row, method=m) for m in ("selfattn", "esd-u")),
        with_preset(settings_of(row), "official-2026"),
    ):
        plan = make_plan(row.model(), settings)
        assert not plan.begun and not plan.settings.closed_form
        assert settings.method == "esd-u" or not set(INPUTS["sd35"]) & set(plan.names)


def test_families_whose_prompts_differ_in_length_begin_as_they_are(comfy: Any) -> None:
    from esd_pack.nodes.host.run.erase import make_plan

    for name in ("chroma", "qwen", "zimage", "lumina"):
        row = OTHERS[name]
        assert not make_plan(row.model(), settings_of(row)).settings.closed_form


def begun(row: Any, text: Any) -> Any:
    """The start of a run that erases "cat"."""
    from esd_pack.esd.concepts import make_concept, prompts_of
    from esd_pack.esd.until_gone import settled
    from esd_pack.nodes.host.model.conditioning import encode
    from esd_pack.nodes.host.run.erase import guidance_of, make_plan
    from esd_pack.nodes.host.run.start import starting_edits

    chosen, settings = settled([make_concept("cat")], settings_of(row))
    with torch.inference_mode():
        plan = make_plan(row.model(), settings)
        asked = (prompts_of(chosen, []), plan.latent_shape, plan.device, guidance_of(plan.settings))
        return starting_edits(plan, text, encode(plan.host, text, *asked), chosen, [])


class Variant(WordText):
    """The same words, changed on the way out."""

    def __init__(self, change: Any) -> None:
        super().__init__(WIDTH, POOLED)
        self.change = change

    def encode_from_tokens_scheduled(self, text: str) -> list[Any]:
        return [self.change(text, *super().encode_from_tokens_scheduled(text)[0])]


def test_prompts_of_other_lengths_have_no_start(comfy: Any) -> None:
    """The tokens of one do not stand for those of the other."""
    longer = Variant(lambda text, told, others: [told if len(text) < 9 else torch.cat([told, told[:, -3:]], 1), others])
    assert begun(case_of("dev"), longer).edits == {}


def test_a_text_encoder_without_a_pooled_embedding_begins_with_its_tokens_alone(comfy: Any) -> None:
    assert (
        tuple(begun(case_of("dev"), Variant(lambda _, told, others: [told, {"pooled_output": None}])).edits)
        == INPUTS["dev"][:1]
    )


def test_of_a_wider_pooled_embedding_what_the_network_takes_counts(comfy: Any) -> None:
    def wider(text: str, told: torch.Tensor, others: dict[str, Any]) -> list[Any]:
        return [told, {"pooled_output": torch.cat([others["pooled_output"], told[:, 0]], dim=1)}]

    row, name = case_of("dev"), INPUTS["dev"][1]
    usual, found = (begun(row, text).edits[name] for text in (row.text, Variant(wider)))
    assert torch.equal(found, usual) and len(found) == POOLED


def test_what_is_remembered_of_a_text_encoder_is_bounded(comfy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from esd_pack.nodes.host.model import text_tokens

    class Patched(Variant):
        patcher, cond_stage_model = type("Patcher", (), {"patches_uuid": 0})(), torch.nn.Module()

    asked = []
    text = Patched(lambda text, told, others: (asked.append(text), [told, others])[1])
    monkeypatch.setattr(text_tokens, "MOST_BYTES", 3 * 4 * (16 * WIDTH + POOLED))
    for prompt in ("a", "b", "c", "a", "d", "a", "d"):
        text_tokens.tokens_of(text)(prompt)
    assert asked == ["a", "b", "c", "d", "a"]


def test_ovis_is_no_flux(comfy: Any) -> None:
    """It normalises the text before the layer that it enters."""
    from esd_pack.nodes.host.families import FAMILIES

    config = {"image_model": "flux", "in_channels": 16, "guidance_embed": False}
    assert [family.name for family in FAMILIES if family.matches("Flux", config)] == ["FLUX.1 schnell"]
    assert [family.name for family in FAMILIES if family.matches("Flux", {**config, "txt_norm": True})] == []


@pytest.mark.parametrize("form", ["difference", "lora"])
@pytest.mark.parametrize("rank", [0, RANK])
def test_its_files_open_in_the_stock_loader(comfy: Any, tmp_path: Path, rank: int, form: str) -> None:
    """All weights that a run has changed are taken, where text enters too, and change as much as in our loader."""
    import comfy.lora
    import comfy.utils

    from esd_pack.esd.concepts import make_concept
    from esd_pack.nodes.host.files import export, published
    from esd_pack.nodes.host.run.erase import erase_model

    row = case_of("dev")
    model = row.model()
    settings = settings_of(row, rank=rank, steps=1, stop="after all steps", learning_rate=1e-2)
    with torch.inference_mode():
        weights = erase_model(model, row.text, [make_concept("cat")], [], settings).weights
    path = tmp_path / "w.safetensors"
    export.format_of(form).write(path, export.Export(weights, weights.metadata))
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    patches = comfy.lora.load_lora(comfy.utils.load_torch_file(str(path)), keys)
    entered = {f"diffusion_model.{name}" for name in INPUTS["dev"]}
    assert entered <= set(model.clone().add_patches(patches, 1.0))
    found = published.load(path, model, "auto").weights
    for name in entered:
        wanted = weights.change(name)
        assert (found.change(name) - wanted).norm() < (0.2 if form == "lora" else 1e-6) * wanted.norm()
