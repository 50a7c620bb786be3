"""Intervals and tests of shares: against closed values, and against counting everything."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from esd_pack.esd.errors import EsdError
from esd_pack.esd.evaluate.metrics import BOOTSTRAP, BY_PROMPT, WILSON, Score, changes, percent, rate
from esd_pack.esd.evaluate.statistics import Z95, cluster_bootstrap, mcnemar, wilson


def score(found, role="erased", prompt="cat", case="1", seed=0, model="m"):
    return Score(model, case, prompt, role, prompt, seed, prompt if found else "", float(found), found)


class TestWilson:
    """The score interval."""

    @pytest.mark.parametrize("n", [1, 5, 20, 100])
    def test_none_found_has_a_closed_form(self, n):
        found = wilson(0, n)
        assert found.low == 0 and found.high == pytest.approx(Z95**2 / (n + Z95**2))

    @pytest.mark.parametrize(("found", "n"), [(2, 50), (23, 50), (63, 500), (108, 142), (1, 1), (20, 20)])
    def test_its_ends_solve_the_score_equation(self, found, n):
        """|share - p| = z sqrt(p (1 - p) / n) at both ends p, which is how the interval is defined."""
        ends = wilson(found, n)
        for p in (ends.low, ends.high):
            if 0 < p < 1:
                assert abs(found / n - p) == pytest.approx(Z95 * math.sqrt(p * (1 - p) / n))
        assert ends.low <= found / n <= ends.high

    @pytest.mark.parametrize(
        ("found", "n", "low", "high"), [(63, 500, 10.0, 15.8), (2, 50, 1.1, 13.5), (134, 4703, 2.4, 3.4)]
    )
    def test_published_values(self, found, n, low, high):
        ends = wilson(found, n)
        assert (round(100 * ends.low, 1), round(100 * ends.high, 1)) == (low, high)

    def test_found_and_missing_mirror_each_other(self):
        there, gone = wilson(3, 17), wilson(14, 17)
        assert there.low == pytest.approx(1 - gone.high) and there.high == pytest.approx(1 - gone.low)

    @pytest.mark.parametrize(("n", "p"), [(10, 0.5), (30, 0.2), (50, 0.4)])
    def test_it_covers_what_it_says(self, n, p):
        """The exact coverage: the probability of all counts whose interval holds p."""
        ends = [wilson(k, n) for k in range(n + 1)]
        covered = sum(
            math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1) if ends[k].low <= p <= ends[k].high
        )
        assert 0.92 < covered < 0.99

    @pytest.mark.parametrize(("found", "n"), [(0, 0), (2, 1), (-1, 3)])
    def test_no_share(self, found, n):
        with pytest.raises(EsdError, match="There is no share"):
            wilson(found, n)


class TestMcNemar:
    """Two models on the same rows."""

    @pytest.mark.parametrize(("lost", "won"), [*itertools.product(range(6), repeat=2)])
    def test_it_is_the_share_of_all_outcomes_that_are_as_uneven(self, lost, won):
        n = lost + won
        outcomes = [sum(signs) for signs in itertools.product((0, 1), repeat=n)]
        uneven = sum(abs(2 * k - n) >= abs(lost - won) for k in outcomes)
        assert mcnemar(lost, won) == pytest.approx(uneven / 2**n)

    def test_large_counts_stay_exact(self):
        assert mcnemar(0, 900) == pytest.approx(2.0**-899, rel=1e-12) and mcnemar(0, 9000) == 0.0
        assert mcnemar(2000, 2000) == 1.0


class TestBootstrap:
    """Pictures of one prompt resemble each other."""

    def test_it_nears_the_distribution_of_every_possible_draw(self):
        """Three prompts: all 27 draws counted, against the drawn ones."""
        clusters = {"a": [True, True, False], "b": [False], "c": [True, False]}
        found = [each for values in clusters.values() for each in values]
        names = [name for name, values in clusters.items() for _ in values]
        shares = sorted(
            sum(map(sum, chosen)) / sum(map(len, chosen)) for chosen in itertools.product(clusters.values(), repeat=3)
        )
        ends = cluster_bootstrap(found, names, draws=20_000)
        assert ends.low == pytest.approx(shares[0]) and ends.high == pytest.approx(shares[-1])

    def test_one_picture_a_prompt_is_about_wilson(self):
        found = [i % 5 == 0 for i in range(400)]
        ends, plain = cluster_bootstrap(found, range(400)), wilson(80, 400)
        assert ends.low == pytest.approx(plain.low, abs=0.01) and ends.high == pytest.approx(plain.high, abs=0.01)

    def test_pictures_that_agree_within_prompts_count_as_one(self):
        """20 prompts of 10 equal pictures tell as much as 20 pictures, not as 200."""
        prompts = [i for i in range(20) for _ in range(10)]
        ends = cluster_bootstrap([p % 2 == 0 for p in prompts], prompts)
        few, many = wilson(10, 20), wilson(100, 200)
        assert ends.high - ends.low == pytest.approx(few.high - few.low, abs=0.05)
        assert ends.high - ends.low > 2 * (many.high - many.low)

    def test_equal_seeds_give_equal_ends_and_nothing_global_moves(self):
        state = torch.get_rng_state()
        found, names = [i % 3 == 0 for i in range(60)], [i // 4 for i in range(60)]
        first = cluster_bootstrap(found, names, seed=3)
        assert first == cluster_bootstrap(found, names, seed=3) and torch.equal(state, torch.get_rng_state())
        uneven = [i * i % 7 < 3 for i in range(500)], [i * i % 61 for i in range(500)]
        assert len({cluster_bootstrap(*uneven, seed=seed) for seed in range(4)}) > 1

    def test_nothing_to_draw_from(self):
        with pytest.raises(EsdError, match="give one name a picture"):
            cluster_bootstrap([True], [])


class TestRates:
    """Which interval a rate has, and two models beside each other."""

    def test_one_picture_a_prompt(self):
        found = rate([score(i < 3, prompt=str(i)) for i in range(10)])
        assert (found.found, found.n, found.method, found.interval) == (3, 10, WILSON, wilson(3, 10))

    def test_one_prompt_many_times(self):
        assert rate([score(i < 3, seed=i) for i in range(10)]).method == WILSON

    def test_many_prompts_many_times(self):
        some = [score(i % 2 == 0, prompt=str(i), seed=k) for i in range(20) for k in range(5)]
        assert rate(some).method == BOOTSTRAP and rate(some).share == 0.5

    @pytest.mark.parametrize("there", [True, False])
    def test_where_all_agree_each_prompt_counts_once(self, there):
        found = rate([score(there, prompt=str(i), seed=k) for i in range(20) for k in range(5)])
        assert found.method == BY_PROMPT and found.interval == wilson(20 * there, 20)

    def test_changes_by_role(self):
        before = [score(True, case=str(i)) for i in range(8)] + [score(i > 0, "kept", "dog", str(i)) for i in range(4)]
        after = [score(i < 2, case=str(i)) for i in range(8)] + [score(i < 3, "kept", "dog", str(i)) for i in range(4)]
        erased, kept = changes(before, after)
        assert (erased.only_before, erased.only_after, erased.p_value) == (6, 0, 2 * 0.5**6)
        assert (kept.only_before, kept.only_after, kept.p_value) == (1, 1, 1.0)
        assert percent([erased, kept], "erased", missing=True) == 75.0 and percent([erased, kept], "kept") == 75.0
        assert math.isnan(percent([erased], "kept"))

    def test_rows_that_do_not_match(self):
        with pytest.raises(EsdError, match="draw the same rows with the same seeds"):
            changes([score(True, seed=1)], [score(True, seed=2)])
