"""Runs against attacks: what they draw and teach, what they cost, when they end, and that they resume bit for bit."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from esd_pack.esd import robust, until_gone
from esd_pack.esd.concepts import Concept, Keep, make_concept, make_keep
from esd_pack.esd.contexts import KINDS
from esd_pack.esd.errors import EsdError
from esd_pack.esd.passes import planned_passes, together_of
from esd_pack.esd.settings import ALL_STEPS, LIGHT, OFF, STRONG, WHEN_GONE
from esd_pack.esd.snapshot import read_snapshot, write_snapshot
from esd_pack.esd.train import Training
from esd_pack.esd.until_gone import settled
from support.fakes import FakeConditions, FakeDenoiser, TokenConditions, TokenDenoiser
from support.small_runs import LESSONS, STEPS, assert_same, outcome

SMALL = replace(LESSONS, steps=12, stop=ALL_STEPS, robustness=LIGHT)
CAT, HAT = make_concept("cat"), make_concept("hat", "man in a hat")
KEEP = (make_keep("dog\ntree", 1.0),)


def training(*concepts: Concept, keeps=KEEP, denoiser=None, **changes) -> Training:
    chosen, settings = settled(concepts or (CAT,), replace(SMALL, **changes))
    return Training(denoiser or TokenDenoiser(), TokenConditions(), chosen, keeps, settings)


def run_through(run: Training) -> Training:
    for _ in run:
        pass
    return run


class TestSteps:
    """What a step under attack is made of."""

    @pytest.mark.parametrize("keeps", [(), KEEP])
    @pytest.mark.parametrize("batch", [1, 2])
    def test_own_words_and_attack_share_a_weight_and_keeps_have_theirs(self, keeps, batch):
        run = training(keeps=keeps, batch_size=batch)
        run.adversary.since = 0
        micro = [[next(stream) for stream in run.streams for _ in range(batch)]]
        plain = [[replace(e, weight=e.weight * len(run.streams)) for e in micro[0]]]
        (joined,), conditions = run.adversary.joined(plain, 1)
        own, attacked, kept = joined[:batch], joined[batch : 2 * batch], joined[2 * batch :]
        size = len(joined)
        assert sum(e.weight for e in own) / size == pytest.approx(0.5)
        assert sum(e.weight for e in attacked) / size == pytest.approx(0.5)
        assert sum(e.weight for e in kept) / size == pytest.approx(1.0 if keeps else 0.0)
        for before, after in zip(own, attacked, strict=True):
            assert torch.equal(before.x, after.x) and torch.equal(before.target, after.target)
            told = conditions[after.prompt].tensors["text"]
            assert told.shape == conditions[before.prompt].tensors["text"].shape
            assert not torch.equal(told, conditions[before.prompt].tensors["text"])
        assert set(run.conditions) == set(dict(run.conditions)) and not any("attacks" in p for p in run.conditions)

    def test_attacks_begin_after_the_warm_up_and_go_round(self):
        run = training(steps=20)
        for step in run:
            assert (run.adversary.since >= 0) == (step.index >= 20 // robust.WARM_UP)
        assert run.adversary.since == 4 and all(slots.moved for slots in run.adversary.slots)

    def test_each_concept_has_its_own_attacks(self):
        run = run_through(training(CAT, HAT, steps=24))
        assert len(run.adversary.slots) == 4 and run.adversary.silent == ["", "man in a"]
        assert all(slots.moved for slots in run.adversary.slots)

    def test_an_attack_goes_up_the_student_s_answer_and_training_down(self):
        """Under attack the concept is stronger than under its own words, until the student has met it."""
        from esd_pack.esd.evaluate import attack
        from esd_pack.esd.random_streams import stream_generator
        from esd_pack.esd.residual import hold_out

        def under_attack(run):
            conditions, order = TokenConditions(), torch.Generator().manual_seed(0)
            held = hold_out(run.denoiser, conditions, [attack.attacked_spec(CAT)], SMALL, stream_generator(1, 2), 4)
            starts = attack.starts_of(conditions, CAT)
            found = attack.search(run.denoiser, conditions, starts, held, 20, order)
            return attack.residual_under(run.denoiser, conditions, found.condition, held).mean

        plain = run_through(training(keeps=(), steps=60, robustness=OFF))
        strong = run_through(training(keeps=(), steps=60, robustness=STRONG))
        assert under_attack(strong) < under_attack(plain) - 0.05


class TestKeeps:
    """Which keeps are drawn most, and which there are."""

    def test_the_shares_reach_the_stream(self):
        run = training(steps=12)
        run_through(run)
        assert len(run.streams[1].state.shares) == 2 and len(set(run.streams[1].state.shares)) == 2

    def test_the_pool_is_near_and_says_no_concept(self):
        tokens = {word: torch.nn.functional.one_hot(torch.tensor([0]), 3).double() for word in robust.COMMON_WORDS}
        tokens |= {"": torch.zeros(1, 3).double(), "dog": torch.tensor([[0.0, 1.0, 0.1]]).double()}
        tokens |= {"horse": torch.tensor([[0.0, 1.0, 0.5]]).double(), "cat": torch.tensor([[0.0, 1.0, 0.0]]).double()}
        assert robust.pool([CAT], [], tokens.__getitem__, 2) == Keep(("", "dog", "horse"))
        assert robust.pool([CAT], ["dog"], tokens.__getitem__, 1) == Keep(("", "horse"))
        tokens["dog house"] = tokens["dog"]
        assert "dog" not in robust.pool([make_concept("dog house")], [], tokens.__getitem__, 3).prompts
        tokens["hat"] = tokens["cat"]
        assert robust.pool([HAT], [], tokens.__getitem__, 1).prompts[:2] == ("", "man in a")


class TestRuns:
    """Whole runs."""

    def test_off_is_as_it_was(self):
        run = training(robustness=OFF)
        assert run.adversary is None and together_of(run.settings, KEEP) == 2
        assert together_of(replace(run.settings, robustness=LIGHT), KEEP) == 3

    def test_networks_that_cannot_be_attacked_are_refused_before_a_step(self):
        denoiser = FakeDenoiser()
        with pytest.raises(EsdError, match="leave robustness off"):
            Training(denoiser, FakeConditions(), [CAT], (), SMALL)
        assert not denoiser.calls

    @pytest.mark.parametrize("robustness", [LIGHT, STRONG])
    @pytest.mark.parametrize("stop", range(1, STEPS))
    def test_resumed_after_any_step(self, tmp_path, robustness, stop):
        whole = outcome(run_through(training(CAT, HAT, robustness=robustness, steps=STEPS)))
        run = training(CAT, HAT, robustness=robustness, steps=STEPS)
        for _ in itertools.islice(run, stop):
            pass
        write_snapshot(run.snapshot(), tmp_path / "s", "run")
        fresh = training(CAT, HAT, robustness=robustness, steps=STEPS)
        fresh.resume(read_snapshot(tmp_path / "s", "run", fresh.denoiser))
        assert_same(outcome(run_through(fresh)), whole)

    def test_interrupted_in_the_middle_of_an_attack(self, tmp_path):
        """The snapshot is that of the last whole step, though the attack has moved on."""
        whole = outcome(run_through(training(steps=STEPS)))
        run = training(steps=STEPS)
        for _ in itertools.islice(run, 5):
            pass

        def stop(call):
            if call.student:
                raise KeyboardInterrupt

        run.denoiser.before_call = stop
        with pytest.raises(KeyboardInterrupt):
            next(iter(run))
        write_snapshot(run.snapshot(), tmp_path / "s", "run")
        fresh = training(steps=STEPS)
        fresh.resume(read_snapshot(tmp_path / "s", "run", fresh.denoiser))
        assert_same(outcome(run_through(fresh)), whole)

    @pytest.mark.parametrize("batch", [1, 2])
    @pytest.mark.parametrize("robustness", [LIGHT, STRONG])
    def test_what_attacks_add_is_foretold(self, robustness, batch):
        """At most what was foretold, and less by the warm-up alone."""
        taken, foretold = [], []
        for each in (OFF, robustness):
            run = run_through(training(steps=40, robustness=each, batch_size=batch))
            taken.append(run.denoiser.passes)
            foretold.append(planned_passes(run.settings, run.concepts, KEEP))
        added, planned = taken[1] - taken[0], foretold[1] - foretold[0]
        assert 0.75 * planned < added <= planned and taken[1] <= foretold[1]

    def test_it_meets_attacks_for_long_enough_before_it_ends(self, monkeypatch):
        monkeypatch.setattr(until_gone, "GONE", dict.fromkeys(KINDS, (0.9, 0.9)))
        monkeypatch.setattr(until_gone, "SLACK", 1.0)
        monkeypatch.setattr(robust, "LEVELS", {LIGHT: robust.Level(1, 20, 10, 2)})
        run = run_through(training(steps=200, stop=WHEN_GONE, learning_rate=3e-2))
        assert run.is_gone and len(run.losses) - run.adversary.since >= 20
        assert run.adversary.since % 10 == 0 and len(run.losses) < 200
