"""What a user types: concepts, keeps, settings and presets, and the sentence for each mistake."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest

from esd_pack.esd.concepts import Concept, Keep, make_concept, make_keep, prompts_of
from esd_pack.esd.errors import EsdError
from esd_pack.esd.presets import PRESETS, with_preset
from esd_pack.esd.settings import FIELDS, Settings, check


def test_words_are_stripped():
    assert make_concept(" cat ", "\tface ", " dog\n") == Concept("cat", "face", "dog", 1.0)


@pytest.mark.parametrize(
    ("concept", "student", "anchor", "asked"),
    [
        (make_concept("cat"), "cat", "", ("", "cat")),
        (make_concept("hat", "cowboy"), "cowboy", "cowboy", ("", "cowboy", "hat")),
        (make_concept("cat", replace_with="dog"), "cat", "dog", ("", "cat", "dog")),
        (make_concept("hat", "cowboy", "pirate"), "cowboy", "pirate", ("", "cowboy", "hat", "pirate")),
    ],
)
def test_prompts_of_a_concept(concept, student, anchor, asked):
    assert (concept.student_prompt, concept.anchor_prompt, concept.prompts) == (student, anchor, asked)


@pytest.mark.parametrize("blank", ["", " ", "\t\n "])
def test_an_empty_concept_is_refused(blank):
    with pytest.raises(EsdError, match="The concept is empty: type the words"):
        make_concept(blank)


def test_erase_from_the_concept_itself_is_refused():
    with pytest.raises(EsdError, match='"erase from" equals the concept "cat": leave it empty'):
        make_concept("cat", " cat ")


@pytest.mark.parametrize(("erase", "erase_from", "replace_with"), [("cat", "", "cat"), ("hat", "cowboy", "cowboy")])
def test_replacing_a_prompt_with_itself_is_refused(erase, erase_from, replace_with):
    with pytest.raises(EsdError, match='"replace with" equals the prompt it replaces .*: name another prompt'):
        make_concept(erase, erase_from, replace_with)


def test_an_attribute_may_be_replaced_by_the_bare_concept():
    assert make_concept("hat", "cowboy", "hat").anchor_prompt == "hat"


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_a_concept_s_weight_must_be_above_0(weight):
    with pytest.raises(EsdError, match="weight is .*: it must be a number above 0"):
        make_concept("cat", weight=weight)


def test_keep_prompts_are_lines():
    assert make_keep(" dog \n\n  apple\ndog\n", 0.0) == Keep(("dog", "apple"), 0.0)


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_keeping_nothing_is_refused(text):
    with pytest.raises(EsdError, match="no prompts to keep: write one prompt a line"):
        make_keep(text, 1.0)


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_keep_s_weight_must_not_be_below_0(weight):
    with pytest.raises(EsdError, match="keep weight is .*: it must be 0"):
        make_keep("dog", weight)


def test_a_run_s_prompts_are_distinct_and_start_with_the_empty_one():
    concepts = [make_concept("cat"), make_concept("hat", "cat")]
    assert prompts_of(concepts, [Keep(("dog", "cat"))]) == ["", "cat", "hat", "dog"]


def test_the_defaults_and_every_preset_pass_the_check():
    for name in ("custom", *PRESETS):
        settings = with_preset(Settings(), name)
        assert check(settings) is settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("steps", -5),
        ("learning_rate", -1e-5),
        ("learning_rate", math.nan),
        ("learning_rate", 1.5),
        ("eta", math.inf),
        ("batch_size", 0),
        ("gradient_accumulation_steps", 0),
        ("num_inference_steps", 0),
        ("num_inference_steps", 1001),
        ("guidance_scale", -1.0),
        ("samples_per_trajectory", 0),
        ("trajectory_batch", 0),
        ("buffer_size", -1),
        ("draws_per_buffer", -1),
        ("width", -8),
        ("height", 100000),
        ("seed", -1),
        ("seed", 2**64),
    ],
)
def test_numbers_out_of_range_are_named(name, value):
    with pytest.raises(EsdError, match=f"^{name} is .*: it must be a (whole )?number from"):
        check(replace(Settings(), **{name: value}))


@pytest.mark.parametrize("name", ["sampler_model", "optimizer", "gradient_checkpointing", "precision"])
def test_unknown_choices_are_named(name):
    with pytest.raises(EsdError, match=f'^{name} is "sgd": choose one of '):
        check(replace(Settings(), **{name: "sgd"}))


def test_points_count_batches_and_accumulation():
    assert Settings(steps=10, batch_size=3, gradient_accumulation_steps=2).examples == 60


def test_a_preset_replaces_what_it_names_and_leaves_the_rest():
    mine = Settings(method="esd-u", seed=7, width=64, height=64, steps=3)
    paper = with_preset(mine, "paper-2023")
    assert (paper.steps, paper.learning_rate, paper.eta, paper.sampler_model) == (1000, 1e-5, 1.0, "student")
    assert (paper.num_inference_steps, paper.guidance_scale, paper.samples_per_trajectory, paper.buffer_size) == (
        50,
        3.0,
        1,
        1,
    )
    assert (paper.method, paper.seed, paper.width, paper.preset) == ("esd-u", 7, 64, "paper-2023")
    assert with_preset(mine, "custom") is mine


def test_another_preset_takes_back_what_the_first_one_set_alone():
    flux = with_preset(Settings(), "official-2026-flux")
    assert (flux.width, flux.height, flux.training_guidance) == (512, 512, 1.0)
    assert with_preset(flux, "official-2026") == with_preset(Settings(), "official-2026")
    mine = with_preset(replace(flux, width=768), "default")
    assert (mine.width, mine.height, mine.training_guidance) == (768, 0, Settings().training_guidance)
    assert with_preset(flux, "official-2026-klein").width == 1024


def test_presets_name_only_settings_that_exist():
    assert {name for preset in PRESETS.values() for name in preset} <= {f.name for f in fields(Settings)}


def test_an_unknown_preset_is_refused():
    with pytest.raises(EsdError, match='There is no preset "paper": choose one of default, paper-2023'):
        with_preset(Settings(), "paper")


def test_the_defaults_are_the_documented_ones():
    made = Settings()
    assert (made.method, made.steps, made.learning_rate, made.eta) == ("esd-x", 300, 0.0, -1.0)
    assert (made.sampler_model, made.num_inference_steps, made.samples_per_trajectory) == ("base", 50, 10)
    assert made.strided is True and made.deterministic is True
    assert {name for name, field in FIELDS.items() if not field.affects_result} == {"preset", "gradient_checkpointing"}
    assert all(preset["strided"] is (name == "default") for name, preset in PRESETS.items())
