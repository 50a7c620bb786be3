"""Walks, harvests and the pool, on a fake denoiser whose every call is counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from esd_pack.esd.concepts import Keep, make_concept
from esd_pack.esd.denoiser import Condition, same_length, stack
from esd_pack.esd.errors import EsdError
from esd_pack.esd.examples import (
    Example,
    ExampleStream,
    TargetSpec,
    collect_examples,
    keep_specs,
    target_spec,
)
from esd_pack.esd.objective import target
from esd_pack.esd.presets import with_preset
from esd_pack.esd.published import published_step
from esd_pack.esd.settings import Settings
from esd_pack.esd.step_plan import StepPlan, full_grid, strided_grid
from esd_pack.esd.trajectory import cfg_trajectory
from support.fakes import FakeConditions, FakeDenoiser, prompt_of, told

STEPS = 8
SETTINGS = Settings(
    num_inference_steps=STEPS,
    guidance_scale=3.0,
    samples_per_trajectory=STEPS,
    strided=False,
    trajectory_batch=2,
    buffer_size=2 * STEPS,
    eta=1.5,
    eta_erase_from=None,
)
CONCEPTS = {
    "plain": make_concept("cat"),
    "erase from": make_concept("hat", erase_from="cowboy"),
    "replace with": make_concept("cat", replace_with="dog"),
    "both": make_concept("hat", erase_from="cowboy", replace_with="pirate"),
}


def moved(denoiser: FakeDenoiser) -> FakeDenoiser:
    """Its student no longer equal to its base."""
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in denoiser.trainable.values():
            weight += 0.2 * torch.randn(weight.shape, generator=random)
    return denoiser


def taught(concept, eta: float = 1.5) -> TargetSpec:
    return target_spec(concept, replace(SETTINGS, eta=eta))


def noises(count: int) -> torch.Tensor:
    return torch.randn((count, 2, 4, 4), generator=torch.Generator().manual_seed(5))


def every_level(kept: list[list[int]]) -> StepPlan:
    """Walks through the whole grid, each with the levels that it keeps."""
    levels = torch.arange(max(map(max, kept)) + 1)
    return StepPlan(
        levels[:, None].expand(-1, len(kept)), torch.stack([torch.isin(levels, torch.tensor(k)) for k in kept], 1)
    )


def harvested(specs, noise, route, settings=SETTINGS, denoiser=None) -> list[Example]:
    denoiser = denoiser or FakeDenoiser()
    route = route if isinstance(route, StepPlan) else every_level(route)
    return collect_examples(
        denoiser, FakeConditions(), specs, noise, route, denoiser.sigmas(settings.num_inference_steps), settings
    )


def grid(walks: int) -> torch.Tensor:
    """The sigmas of walks through every level."""
    return FakeDenoiser().sigmas(STEPS)[:STEPS, None].expand(-1, walks)


def pool(specs, settings, total, seed=0, denoiser=None) -> list[Example]:
    random = torch.Generator().manual_seed(seed)
    return list(ExampleStream(denoiser or FakeDenoiser(), FakeConditions(), specs, settings, total, random))


def same(a: Example, b: Example) -> bool:
    return torch.equal(a.x, b.x) and torch.equal(a.target, b.target) and (a.prompt, a.sigma) == (b.prompt, b.sigma)


def test_a_walk_s_step_is_ddim():
    """x0-plus-noise scaled to the variance-preserving space follows the DDIM update (eta 0) of the alphas."""
    denoiser, noise = FakeDenoiser(), noises(2)
    conditions, alphas = [told("cat"), told("dog")], 1 / (1 + denoiser.sigmas(STEPS).square())
    expected = noise
    for level in cfg_trajectory(denoiser, noise, told(""), conditions, grid(2), 3.0):
        now, after = alphas[level.index], alphas[level.index + 1]
        assert torch.linalg.norm(level.x * now.sqrt() - expected) < 1e-5 * torch.linalg.norm(expected)
        eps = level.uncond + 3.0 * (level.cond - level.uncond)
        x0 = (expected - (1 - now).sqrt() * eps) / now.sqrt()
        expected = after.sqrt() * x0 + (1 - after).sqrt() * eps


def test_a_walk_asks_for_both_prompts_at_its_own_level():
    denoiser = FakeDenoiser()
    levels = list(cfg_trajectory(denoiser, noises(1), told(""), [told("cat")], grid(1), 3.0))
    assert len(denoiser.calls) == len(levels) == STEPS
    for level, call in zip(levels, denoiser.calls, strict=True):
        assert torch.equal(call.text, torch.cat([told("").tensors["text"], told("cat").tensors["text"]]))
        assert torch.equal(call.x, torch.cat([level.x, level.x]))
        assert call.sigma.tolist() == level.sigma.tolist() * 2 == [float(denoiser.sigmas(STEPS)[level.index])] * 2


def test_a_walk_with_embedded_guidance_asks_for_one_prompt_as_it_is_told_there():
    denoiser, elsewhere = FakeDenoiser(), told("cat, guided").tensors
    conditions = [replace(told("cat"), sampling=elsewhere)]
    levels = list(cfg_trajectory(denoiser, noises(1), told(""), conditions, grid(1), 3.0))
    assert len(denoiser.calls) == len(levels) == STEPS
    for level, call in zip(levels, denoiser.calls, strict=True):
        assert torch.equal(call.text, elsewhere["text"])
        assert level.uncond is None
        assert level.cond is None
        assert torch.equal(call.x, level.x)


@pytest.mark.parametrize("source", ["base", "student"])
@pytest.mark.parametrize("concept", CONCEPTS.values(), ids=CONCEPTS)
def test_harvest_equals_one_walk_for_each_point(concept, source):
    settings, noise = replace(SETTINGS, sampler_model=source), noises(3)
    specs = [taught(concept, settings.eta)] * 3
    levels = [[0, 3, 7], [2, 3], [5]]
    together = harvested(specs, noise, levels, settings, moved(FakeDenoiser()))
    assert len(together) == 6
    for row, row_levels in enumerate(levels):
        for index in row_levels:
            denoiser = moved(FakeDenoiser())
            (alone,) = harvested(specs[:1], noise[row : row + 1], [[index]], settings, denoiser)
            assert alone.sigma == float(denoiser.sigmas(STEPS)[index])
            (match,) = [e for e in together if e.sigma == alone.sigma and torch.allclose(e.x, alone.x, atol=1e-6)]
            assert torch.allclose(match.target, alone.target, atol=1e-6)
            assert match.prompt == alone.prompt


def test_coarse_walks_side_by_side_equal_each_alone():
    """Each walk of the batch has levels of its own."""
    route = strided_grid(3, 4, 50, torch.Generator().manual_seed(1))
    assert len({tuple(column.tolist()) for column in route.levels.T}) == 3
    settings, specs = replace(SETTINGS, num_inference_steps=50), [taught(CONCEPTS["both"])] * 3
    together = harvested(specs, noises(3), route, settings)
    assert len(together) == 12
    for row in range(3):
        column = StepPlan(route.levels[:, [row]], route.keep_mask[:, [row]])
        alone = harvested(specs[:1], noises(3)[row : row + 1], column, settings)
        assert len(alone) == 4
        for example in alone:
            (match,) = [e for e in together if e.sigma == example.sigma and torch.allclose(e.x, example.x, rtol=1e-5)]
            assert torch.allclose(match.target, example.target, rtol=1e-4, atol=1e-5)


def test_a_full_route_passes_every_level_down_to_the_last_it_keeps():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        route = full_grid(3, 4, 50, generator)
        assert route.keep_mask.sum(0).tolist() == [4, 4, 4]
        assert route.keep_mask[-1].any()
        assert route.levels.T.tolist() == [list(range(len(route.levels)))] * 3


def test_one_level_of_a_full_route_is_drawn_evenly():
    generator = torch.Generator().manual_seed(0)
    drawn = Counter(len(full_grid(1, 1, 10, generator).levels) - 1 for _ in range(2000))
    assert set(drawn) == set(range(10))
    assert all(140 <= count <= 260 for count in drawn.values())  # 200 expected, 4.5 standard deviations


@pytest.mark.parametrize("per_walk", [1, 4, 10, 25])
def test_a_coarse_route_goes_straight_down_and_keeps_every_level_equally_often(per_walk):
    route = strided_grid(4000, per_walk, 50, torch.Generator().manual_seed(0))
    assert (route.levels[0] == 0).all() and not route.keep_mask[0].any()
    assert (route.levels.diff(dim=0) >= 0).all()
    assert (route.keep_mask.sum(0) == per_walk).all()
    assert len(route.levels) == max(per_walk, 10) + 1
    counts = torch.bincount(route.levels[route.keep_mask], minlength=50)
    expected = 4000 * per_walk / 50
    assert len(counts) == 50 and (counts - expected).abs().max() < 5 * expected**0.5


def test_no_route_is_longer_than_its_grid():
    assert strided_grid(1, 10, 4, torch.Generator()).levels[1:, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("source", ["base", "student"])
@pytest.mark.parametrize("concept", CONCEPTS.values(), ids=CONCEPTS)
def test_target_is_the_base_s_whoever_walked(concept, source):
    denoiser = moved(FakeDenoiser())
    each = taught(concept, SETTINGS.eta)
    examples = harvested([each], noises(1), [list(range(STEPS))], replace(SETTINGS, sampler_model=source), denoiser)
    for example in examples:
        x, sigma = example.x[None], torch.tensor([example.sigma])
        answers = [denoiser.predict(x, sigma, told(p))[0] for p in (concept.anchor_prompt, concept.erase, "")]
        assert torch.allclose(example.target, target(*answers, SETTINGS.eta), atol=1e-5)
        assert example.prompt == concept.student_prompt


def test_x_t_comes_from_the_face_that_the_source_names():
    denoiser, conditions = moved(FakeDenoiser()), [told("cat")]
    by_base = [level.x for level in cfg_trajectory(denoiser, noises(1), told(""), conditions, grid(1), 3.0)]
    with denoiser.student():
        by_student = [level.x for level in cfg_trajectory(denoiser, noises(1), told(""), conditions, grid(1), 3.0)]
    assert not torch.allclose(by_base[4], by_student[4], atol=1e-2)
    for source, expected in (("base", by_base), ("student", by_student)):
        settings = replace(SETTINGS, sampler_model=source)
        examples = harvested([taught(CONCEPTS["plain"], 1.0)], noises(1), [[4]], settings, moved(FakeDenoiser()))
        assert torch.allclose(examples[0].x, expected[4][0], atol=1e-6)


@pytest.mark.parametrize("concept", CONCEPTS.values(), ids=CONCEPTS)
def test_walks_are_told_the_student_s_prompt(concept):
    denoiser = FakeDenoiser()
    harvested([taught(concept, 1.0)], noises(1), [[STEPS - 1]], denoiser=denoiser)
    prompts = ("", "cat", "hat", "cowboy", "dog", "pirate")
    assert {prompt_of(call.text[1], prompts) for call in denoiser.calls if call.samples == 2} >= {
        concept.student_prompt
    }
    walked = denoiser.calls[:STEPS]
    assert [[prompt_of(row, prompts) for row in call.text] for call in walked] == [["", concept.student_prompt]] * STEPS


@pytest.mark.parametrize(("name", "more"), [("plain", 0), ("erase from", 1), ("replace with", 1), ("both", 2)])
def test_the_base_is_asked_only_what_its_walk_did_not_answer(name, more):
    denoiser = FakeDenoiser()
    harvested([taught(CONCEPTS[name])], noises(1), [[4]], denoiser=denoiser)
    assert denoiser.passes == 2 * 5 + more


def test_eta_may_differ_where_something_is_erased_from():
    settings = replace(SETTINGS, eta=1.0, eta_erase_from=2.0)
    assert [target_spec(CONCEPTS[name], settings).eta for name in ("plain", "replace with", "erase from")] == [
        1.0,
        1.0,
        2.0,
    ]
    assert target_spec(CONCEPTS["erase from"], replace(settings, eta_erase_from=None)).eta == 1.0
    for nothing in (replace(settings, eta_erase_from=0.0), replace(settings, eta=0.0, eta_erase_from=None)):
        with pytest.raises(EsdError, match="With eta 0 there is nothing to learn"):
            target_spec(CONCEPTS["erase from"], nothing)


def test_eta_0_regresses_onto_the_anchor():
    examples = harvested([taught(CONCEPTS["plain"], 0.0)], noises(1), [[4]])
    expected = FakeDenoiser().predict(examples[0].x[None], torch.tensor([examples[0].sigma]), told(""))
    assert torch.allclose(examples[0].target, expected[0], atol=1e-6)


def test_a_keep_s_target_is_the_base_s_own_prediction():
    (each,) = keep_specs([Keep(("dog",), 0.5)])
    for source in ("base", "student"):
        denoiser = moved(FakeDenoiser())
        (example,) = harvested([each], noises(1), [[4]], replace(SETTINGS, sampler_model=source), denoiser)
        expected = denoiser.predict(example.x[None], torch.tensor([example.sigma]), told("dog"))
        assert torch.allclose(example.target, expected[0], atol=1e-6)
        assert (example.prompt, example.weight) == ("dog", 0.5)


def test_keeps_of_weight_0_teach_nothing():
    assert keep_specs([Keep(("dog", "apple"), 0.0)]) == []
    assert [each.prompt for each in keep_specs([Keep(("dog", "apple"), 2.0), Keep(("ghost",), 0.0)])] == [
        "dog",
        "apple",
    ]


@pytest.mark.parametrize(("preset", "more"), [("official-2026", 0), ("paper-2023", 2)])
def test_a_published_walk_stops_at_its_level(preset, more):
    """Two passes for each level up to the chosen one and none after it: 2 (k + 1) for a level k drawn evenly.

    A walk of the student's cannot answer for the base, which is then asked for both prompts.
    """
    denoiser, settings = FakeDenoiser(), with_preset(Settings(), preset)
    examples = pool([(taught(CONCEPTS["plain"], 1.0), 1.0)], settings, 60, denoiser=denoiser)
    levels = [denoiser.sigmas(50).tolist().index(example.sigma) for example in examples]
    assert denoiser.passes == sum(2 * (level + 1) + more for level in levels)
    assert len(set(levels)) > 30 and min(levels) < 5 and max(levels) > 44


def test_the_default_takes_three_passes_a_point_at_most():
    """And three for the student's forward and backward: 6 in all, where the published procedure takes 54."""
    denoiser = FakeDenoiser()
    examples = pool([(taught(CONCEPTS["plain"], 1.0), 1.0)], Settings(), Settings().examples, denoiser=denoiser)
    assert len(examples) == Settings().examples
    assert denoiser.passes / len(examples) <= 3.0


def test_a_harvest_of_the_whole_grid_takes_two_passes_a_point():
    denoiser = FakeDenoiser()
    pool([(taught(CONCEPTS["plain"], 1.0), 1.0)], SETTINGS, 10 * STEPS, denoiser=denoiser)
    assert denoiser.passes == 2 * 10 * STEPS


def test_the_pool_is_shuffled_and_reproducible():
    specs = [(taught(CONCEPTS["plain"], 1.0), 1.0)]
    first, again, other = (pool(specs, SETTINGS, 2 * STEPS, seed) for seed in (0, 0, 1))
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a.x, b.x) for a, b in zip(first, other, strict=True))
    order = [example.sigma for example in first]
    assert order != sorted(order, reverse=True)
    assert Counter(order) == dict.fromkeys(order, 2)  # both walks, every level once


def test_levels_of_a_walk_are_drawn_without_repeats():
    settings = replace(SETTINGS, samples_per_trajectory=3, trajectory_batch=1, buffer_size=3)
    examples = pool([(taught(CONCEPTS["plain"], 1.0), 1.0)], settings, 30)
    for start in range(0, 30, 3):
        assert len({example.sigma for example in examples[start : start + 3]}) == 3


SHARED = [(taught(make_concept("cat")), 3.0), (taught(make_concept("dog")), 1.0)]


def test_concepts_share_a_pool_s_walks_by_weight_and_reproducibly():
    settings = replace(SETTINGS, samples_per_trajectory=1, trajectory_batch=4, buffer_size=400, num_inference_steps=2)
    first, again = (pool(SHARED, settings, 400) for _ in range(2))
    assert [example.prompt for example in first] == [example.prompt for example in again]
    counts = Counter(example.prompt for example in first)
    assert abs(counts["cat"] - 300) <= 1 and abs(counts["dog"] - 100) <= 1


def test_concepts_share_published_walks_by_weight():
    """One walk a pool: each is drawn by chance."""
    settings = replace(SETTINGS, samples_per_trajectory=1, trajectory_batch=1, buffer_size=1, num_inference_steps=2)
    counts = Counter(example.prompt for example in pool(SHARED, settings, 400))
    assert 260 <= counts["cat"] <= 340 and counts["cat"] + counts["dog"] == 400  # 4.6 standard deviations


def test_a_pool_leaves_every_concept_a_walk_of_its_own():
    words = ["cat", "dog", "apple", "ghost", "hat"]
    settings = replace(SETTINGS, samples_per_trajectory=8, trajectory_batch=3, buffer_size=10)
    counts = Counter(example.prompt for example in pool([(taught(make_concept(w)), 1.0) for w in words], settings, 10))
    assert counts == dict.fromkeys(words, 2)


def test_a_pool_that_is_no_whole_number_of_walks_loses_no_levels():
    """Twelve points for a pool of ten: the two that are left out are no more the lowest than any other."""
    settings = replace(
        SETTINGS, strided=True, num_inference_steps=10, samples_per_trajectory=3, trajectory_batch=4, buffer_size=10
    )
    specs = [(taught(make_concept(word)), 1.0) for word in ("cat", "dog", "hat")]
    counts = Counter(example.sigma for example in pool(specs, settings, 2000))
    assert len(counts) == 10 and min(counts.values()) > 140  # of 200 each; 13 is a standard deviation


def test_refresh_0_draws_each_point_once():
    settings = replace(SETTINGS, draws_per_buffer=0)
    examples = pool([(taught(CONCEPTS["plain"], 1.0), 1.0)], settings, 40)
    assert len({example.x.numpy().tobytes() for example in examples}) == len(examples) == 40


def test_refresh_draws_from_a_pool_before_it_is_made_anew():
    settings, size = replace(SETTINGS, draws_per_buffer=24), 2 * STEPS
    examples = pool([(taught(CONCEPTS["plain"], 1.0), 1.0)], settings, 60)
    draws = [example.x.numpy().tobytes() for example in examples]
    first, second, third = draws[:24], draws[24:48], draws[48:]
    assert len(set(first)) == len(set(first[:size])) == len(set(second)) == size  # all once, then some again
    assert len(set(third)) == len(third) == 12
    assert not set(first) & set(second) and not set(second) & set(third)


def test_a_refreshed_pool_follows_the_student():
    settings = replace(
        SETTINGS,
        sampler_model="student",
        trajectory_batch=1,
        samples_per_trajectory=1,
        buffer_size=1,
        draws_per_buffer=1,
    )
    examples = {}
    for moves in (False, True):
        denoiser = FakeDenoiser()
        random = torch.Generator().manual_seed(0)
        drawn = iter(
            ExampleStream(denoiser, FakeConditions(), [(taught(CONCEPTS["plain"], 1.0), 1.0)], settings, 6, random)
        )
        first = next(drawn)
        if moves:
            moved(denoiser)
        examples[moves] = [first, *drawn]
    assert same(examples[False][0], examples[True][0])
    pairs = [(a, b) for a, b in zip(examples[False], examples[True], strict=True) if a.sigma < 14.0]
    assert len(pairs) > 1 and not any(torch.equal(a.x, b.x) for a, b in pairs[1:])


def test_the_pool_yields_just_what_the_run_draws():
    specs = [(taught(CONCEPTS["plain"], 1.0), 1.0)]
    assert [len(pool(specs, replace(SETTINGS, draws_per_buffer=refresh), 21)) for refresh in (0, 5, 100)] == [
        21,
        21,
        21,
    ]


def test_repeating_a_token_sequence_does_not_change_attention():
    random = torch.Generator().manual_seed(0)
    short, long = torch.randn((1, 4, 8), generator=random), torch.randn((1, 6, 8), generator=random)
    both = stack([Condition({"c": short}), Condition({"c": long})]).tensors["c"]
    assert both.shape == (2, 12, 8)
    query = torch.randn((1, 5, 8), generator=random)
    for row, alone in zip(both, (short, long), strict=True):
        attended = torch.nn.functional.scaled_dot_product_attention(query, row[None], row[None])
        assert torch.allclose(
            attended, torch.nn.functional.scaled_dot_product_attention(query, alone, alone), atol=1e-6
        )


def test_conditions_of_one_length_are_stacked_as_they_are():
    tensors = [torch.zeros((1, 4, 8)), torch.ones((1, 4, 8))]
    assert same_length(tensors) == tensors


@pytest.mark.parametrize("sampler_model", ["base", "student"])
@pytest.mark.parametrize("concept", CONCEPTS)
def test_the_published_step_is_the_stream_at_its_published_setting(concept, sampler_model):
    each = taught(CONCEPTS[concept])
    settings = replace(
        SETTINGS, samples_per_trajectory=1, trajectory_batch=1, buffer_size=1, sampler_model=sampler_model
    )
    streamed = pool([(each, 1.0)], settings, 5, denoiser=moved(FakeDenoiser()))
    denoiser, random = moved(FakeDenoiser()), torch.Generator().manual_seed(0)
    for example in streamed:
        torch.rand(1, generator=random, dtype=torch.float64), torch.randperm(1, generator=random)  # which concept
        made = published_step(denoiser, FakeConditions(), each, settings, random)
        torch.randperm(1, generator=random)  # the order within a buffer of one
        assert torch.equal(made.x, example.x) and (made.prompt, made.sigma) == (example.prompt, example.sigma)
        torch.testing.assert_close(made.target, example.target, rtol=1e-5, atol=1e-5)
