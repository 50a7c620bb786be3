"""A run that measures what is left: when it ends, what it draws, and that it is as resumable as any other."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from esd_pack.esd import train, until_gone
from esd_pack.esd.concepts import make_concept
from esd_pack.esd.contexts import KINDS, by_kind, make_rules, with_contexts
from esd_pack.esd.denoiser import batched, predict
from esd_pack.esd.errors import EsdError
from esd_pack.esd.examples import concept_specs
from esd_pack.esd.presets import PRESETS, with_preset
from esd_pack.esd.settings import ALL_STEPS, OWN_WORDS, WHEN_GONE, Settings
from esd_pack.esd.snapshot import read_snapshot, write_snapshot
from esd_pack.esd.train import Training, erase
from esd_pack.esd.until_gone import (
    GoneGauge,
    Left,
    gone_at,
    measuring_again_passes,
    measuring_passes,
    settled,
    shares_by_left,
)
from support.fakes import FakeConditions, FakeDenoiser
from support.small_runs import LESSONS, outcome

LONG = replace(LESSONS, steps=400, stop=WHEN_GONE)
CAT, STYLE = make_concept("cat"), make_concept("ink style")
ATTRIBUTE = make_concept("hat", erase_from="man outdoors")
NAMED = make_concept("hat", erase_from="man in a hat")


def training(*concepts, denoiser=None, **changes) -> Training:
    """A run of these concepts with their contexts."""
    chosen, settings = settled(concepts, replace(LONG, **changes))
    return Training(denoiser or FakeDenoiser(), FakeConditions(), chosen, [], settings)


@pytest.fixture
def soon_gone(monkeypatch):
    """A network of ten lines holds its concepts fast: here they are gone when a part is."""
    monkeypatch.setattr(until_gone, "GONE", dict.fromkeys(KINDS, (0.7, 0.7)))
    monkeypatch.setattr(until_gone, "INSTEAD", (0.7, 0.7))
    monkeypatch.setattr(until_gone, "shown", lambda denoiser, conditions, specs, *others: [False] * len(specs))


@pytest.mark.usefixtures("soon_gone")
@pytest.mark.parametrize("concepts", [(CAT,), (STYLE,), (ATTRIBUTE,), (CAT, STYLE)], ids=["cat", "ink", "hat", "both"])
def test_it_ends_when_all_is_gone_and_not_before(concepts):
    run = training(*concepts)
    met = []
    for step in run:
        if (step.index + 1) % train.CHECK_EVERY == 0:
            met.append(all(left.is_gone for left in step.left))
    assert run.is_gone and run.is_complete and len(run.losses) < run.settings.steps
    assert met[-1] and len(run.worst) - 1 == len(met) == len(run.losses) // train.CHECK_EVERY and run.worst[0] == 1.0
    again = GoneGauge(run.denoiser, run.conditions, run.concepts, run.settings)
    for left, concept in zip(again.measure(), run.concepts, strict=True):
        assert all(rho <= gone_at(concept, prompt) for prompt, rho in left.residuals.items()) == left.is_gone
        assert left.is_gone


def test_the_steps_end_it_where_it_does_not_go():
    run = training(CAT, STYLE, steps=15, learning_rate=1e-6)
    assert len(list(run)) == 30 and run.is_complete and not run.is_gone
    assert [left.percent for left in run.left] == [100, 100]


@pytest.mark.usefixtures("soon_gone")
def test_it_goes_on_where_other_trajectories_show_that_it_is_not_gone(monkeypatch):
    monkeypatch.setattr(GoneGauge, "confirmed", lambda *asked: True)
    at_once = len(finished_losses(training(CAT)))
    answers = iter([False, False])
    monkeypatch.setattr(GoneGauge, "confirmed", lambda *asked: next(answers, True))
    assert len(finished_losses(training(CAT))) >= at_once + 2 * train.CHECK_EVERY


def ended(run: Training) -> tuple:
    """Losses and weights after all its steps."""
    list(run)
    return outcome(run)


def same(one: tuple, other: tuple) -> bool:
    """Whether losses and weights are equal bit for bit."""
    return one[0] == other[0] and all(torch.equal(one[1][name], weight) for name, weight in other[1].items())


def finished_losses(run: Training) -> list[float]:
    """The losses of all its steps."""
    list(run)
    return run.losses


def test_published_runs_never_stop_early_and_have_no_contexts():
    for name in PRESETS:
        settings = with_preset(Settings(), name)
        published = name != "default"
        assert (settings.stop == ALL_STEPS) == (settings.contexts == OWN_WORDS) == published
        (concept,), same = settled([CAT], settings)
        assert (concept.contexts is None) == published and same.steps == settings.steps


def test_measuring_moves_nothing_that_is_drawn():
    """Up to the end of the first buffer, since what is left decides what the next one has."""
    run, plain = training(CAT, buffer_size=40), training(CAT, buffer_size=40, stop=ALL_STEPS)
    for step, other in itertools.islice(zip(run, plain, strict=False), 40):
        assert step.loss == other.loss and step.sigma == other.sigma


def test_what_is_left_is_drawn_most():
    run = training(CAT, STYLE)
    gauge = GoneGauge(FakeDenoiser(), FakeConditions(), run.concepts, run.settings)
    cat, style = gauge.measure()
    gone = replace(cat, residuals=dict.fromkeys(cat.residuals, -1.0))
    shares = shares_by_left(run.concepts, [gone, style])
    contexts = len(run.concepts[0].contexts)
    of_cat, of_style = sum(shares[: 1 + contexts]), sum(shares[1 + contexts :])
    assert of_style > 8 * of_cat > 0
    half = replace(style, residuals={p: -1.0 if p == STYLE.erase else r for p, r in style.residuals.items()})
    own, *around = shares_by_left(run.concepts, [cat, half])[1 + contexts :]
    assert sum(around) > 8 * own > 0


def test_weights_still_count():
    chosen, settings = settled([CAT, replace(STYLE, weight=3.0)], LONG)
    left = GoneGauge(FakeDenoiser(), FakeConditions(), chosen, settings).measure()
    shares = shares_by_left(chosen, left)
    of_cat = sum(shares[: 1 + len(chosen[0].contexts)])
    assert sum(shares) / of_cat == pytest.approx(4.0, rel=1e-3)


def test_what_is_drawn_instead_is_what_it_is_measured_against():
    """The prompt without its words, or another, also in contexts; where there is none, its own direction."""
    for concept, null, changed in (
        (NAMED, "man in a", "man in a hat"),
        (ATTRIBUTE, "", "hat"),
        (make_concept("cat", replace_with="dog"), "dog", "cat"),
    ):
        run = training(concept)
        gauge = GoneGauge(FakeDenoiser(), FakeConditions(), run.concepts, run.settings)
        own, *around = (each.points for each in gauge.measured)
        assert own.prompt == concept.student_prompt and own.null == null and len(around) == 2
        direct = FakeDenoiser()
        told = [FakeConditions()[prompt] for prompt in (changed, null)]
        found = [predict(direct, own.x, own.sigma, batched([each])) for each in told]
        torch.testing.assert_close(own.change, found[0] - found[1])
        assert around[0].null == (null and f"a photo of a {null}")
        assert all(left.residuals[own.prompt] == pytest.approx(1.0, abs=1e-5) for left in gauge.measure())


@pytest.mark.parametrize("many", [4, 5])
def test_many_concepts_are_measured_coarsely(many):
    run = training(*(make_concept(f"cat {i}") for i in range(many)))
    each = 2 * (3 + 2 + 2) if many == 4 else 2 * (2 + 1)
    assert measuring_passes(run.concepts, run.settings) == many * each


def test_a_measurement_costs_what_it_says():
    run = training(CAT, STYLE, ATTRIBUTE)
    denoiser = FakeDenoiser()
    gauge = GoneGauge(denoiser, FakeConditions(), run.concepts, run.settings)
    before = denoiser.passes
    gauge.measure()
    assert denoiser.passes - before == measuring_passes(run.concepts, run.settings)


def test_the_few_that_many_leave_are_measured_again_closely():
    """A coarse measurement that is off must not make a run train what is gone; nor end it where something is left."""
    run = training(*(make_concept(f"cat {i}") for i in range(5)))
    denoiser = FakeDenoiser()
    gauge = GoneGauge(denoiser, FakeConditions(), run.concepts, run.settings)
    limits = [
        {prompt: gone_at(c, prompt) for prompt in left.residuals}
        for c, left in zip(run.concepts, gauge.measure(), strict=True)
    ]
    coarse = [
        Left(c.student_prompt, dict.fromkeys(each, -1.0), each) for c, each in zip(run.concepts, limits, strict=True)
    ]
    doubtful = replace(coarse[2], residuals=dict.fromkeys(limits[2], 0.4))
    gauge.measure = lambda is_trained: [*coarse[:2], doubtful, *coarse[3:]]
    before = denoiser.passes
    left, is_gone = gauge.check(0)
    assert not is_gone and [each.is_gone for each in left] == [True, True, False, True, True]
    assert left[2].worst == pytest.approx(1.0, abs=1e-5) and len(left[2].residuals) == 3
    first = denoiser.passes - before
    gauge.check(10)
    assert first > denoiser.passes - before - first == measuring_again_passes(run.concepts[:1] * 5, run.settings) // 4


@pytest.mark.parametrize("alone", [-9.0, 0.9])
def test_what_other_trajectories_doubt_of_many_is_measured_closely(monkeypatch, alone):
    run, measure = training(*(make_concept(f"cat {i}") for i in range(5))), GoneGauge.measure

    def told(gauge, is_trained):
        left = measure(gauge, is_trained)
        first = 0.9 if len(left) == 5 else alone
        return [
            replace(each, residuals=dict.fromkeys(each.residuals, first if i == 0 else -9.0))
            for i, each in enumerate(left)
        ]

    monkeypatch.setattr(GoneGauge, "measure", told)
    gauge = GoneGauge(FakeDenoiser(), FakeConditions(), run.concepts, run.settings)
    assert gauge.confirmed() == (alone < 0)


@pytest.mark.parametrize("stop", [1, 9, 10, 11, 20, 25])
def test_stopped_and_gone_on_with_it_is_bit_for_bit_the_same(tmp_path, stop):
    settings = {"steps": 30, "learning_rate": 3e-3}
    whole = ended(training(CAT, STYLE, **settings))
    run = training(CAT, STYLE, **settings)
    for _ in itertools.islice(run, stop):
        pass
    write_snapshot(run.snapshot(), tmp_path / "s", "the run")
    fresh = training(CAT, STYLE, **settings)
    fresh.resume(read_snapshot(tmp_path / "s", "the run", fresh.denoiser))
    assert same(ended(fresh), whole)
    assert len(fresh.worst) == len(fresh.losses) // train.CHECK_EVERY + 1


def test_interrupted_while_it_measures_it_goes_on_as_if_not(tmp_path):
    settings = {"steps": 20, "learning_rate": 3e-3}
    whole = ended(training(CAT, **settings))

    class Stop(Exception):
        pass

    def before(call):
        if call.student and not call.training:
            raise Stop

    run = training(CAT, denoiser=FakeDenoiser(before), **settings)
    with pytest.raises(Stop):
        list(run)
    assert len(run.losses) == train.CHECK_EVERY
    write_snapshot(run.snapshot(), tmp_path / "s", "the run")
    fresh = training(CAT, **settings)
    fresh.resume(read_snapshot(tmp_path / "s", "the run", fresh.denoiser))
    assert same(ended(fresh), whole)


class TestContexts:
    """The prompts around a concept."""

    @pytest.mark.parametrize(
        ("concept", "prompts"),
        [
            (CAT, ("a photo of a cat", "", "")),
            (STYLE, ("cat in ink style", "cat", "cat")),
            (NAMED, ("a photo of a man in a hat", "", "a photo of a man in a hat")),
            (make_concept("cat", replace_with="dog"), ("a photo of a cat", "", "a photo of a dog")),
            (make_concept("Monet style", replace_with="ink style"), ("cat in Monet style", "cat", "cat in ink style")),
        ],
    )
    def test_by_kind(self, concept, prompts):
        first, *others = by_kind([concept])[0].contexts
        assert (first.prompt, first.carrier, first.anchor) == prompts and others

    def test_nothing_is_carried_by_itself(self):
        contexts = by_kind([make_concept("cat style")])[0].contexts
        assert contexts and not any(each.prompt.startswith("cat in") for each in contexts)

    def test_rules_of_the_users_own(self):
        rules = make_rules("auto", " [concept] at night \n\n[carrier] by [concept]", "a hill\na lake")
        made = with_contexts(make_concept("Monet"), rules)
        assert [c.prompt for c in made.contexts] == ["Monet at night", "a hill by Monet", "a lake by Monet"]
        assert [c.carrier for c in made.contexts] == ["", "a hill", "a lake"]

    def test_a_template_without_the_concept_is_refused(self):
        with pytest.raises(EsdError, match=r'The template "a photo" does not say where .* write \[concept\] there'):
            make_rules("auto", "a photo", "")

    def test_with_the_own_words_as_the_only_context_it_is_esd_as_published(self):
        settings = replace(LONG, steps=20, stop=ALL_STEPS, contexts=OWN_WORDS)
        chosen, same = settled([CAT], settings)
        assert chosen == [CAT] and same == settings
        run = erase(FakeDenoiser(), FakeConditions(), chosen, same)
        assert not run.worst and run.streams[0].specs == [concept_specs(CAT, same)[0][0]]
