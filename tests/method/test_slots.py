"""Free tokens: what they begin as, where Adam takes them, and attacks with them on students of known kinds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from esd_pack.esd.concepts import Concept
from esd_pack.esd.denoiser import Condition
from esd_pack.esd.errors import EsdError
from esd_pack.esd.evaluate import attack
from esd_pack.esd.random_streams import stream_generator
from esd_pack.esd.residual import hold_out
from esd_pack.esd.settings import Settings
from esd_pack.esd.slots import SLOTS, move, open_slots, token_name
from support.fakes import TokenConditions, TokenDenoiser

SETTINGS = Settings(num_inference_steps=8, guidance_scale=3.0)
CAT = Concept("cat")


class Erased(TokenDenoiser):
    """A student that no longer hears the concept's own direction, or any direction at all."""

    def __init__(self, deaf: bool) -> None:
        super().__init__()
        (cat,), (null,) = (TokenConditions()[words].tensors["text"] for words in ("cat", ""))
        direction = torch.nn.functional.normalize((cat - null).mean(0), dim=0)
        kept = torch.zeros(3, 3) if deaf else torch.eye(3) - torch.outer(direction, direction)
        with torch.no_grad():
            self.trainable["text.weight"].copy_(self.trainable["text.weight"] @ kept)


def held(denoiser, seed=0, concept=CAT, count=2):
    specs = [attack.attacked_spec(concept)] * count
    return hold_out(denoiser, TokenConditions(), specs, SETTINGS, stream_generator(seed, 2), 4)


class TestSlots:
    """What a condition with free tokens is."""

    def test_they_begin_as_the_prompt_itself_or_at_random(self):
        cat = TokenConditions()["cat"]
        assert torch.allclose(open_slots(cat).condition.tensors["text"], cat.tensors["text"])
        slots = open_slots(cat, torch.Generator().manual_seed(1))
        own, free = cat.tensors["text"], slots.condition.tensors["text"]
        count = len(slots.values)
        assert count == min(SLOTS, own.shape[1] // 2)
        assert torch.equal(own[:, :-count], free[:, :-count]) and not torch.allclose(own, free)
        assert float(free.norm(dim=2).max()) <= float(own.norm(dim=2).max()) * 1.0001

    def test_everything_else_that_the_network_is_told_stays(self):
        pooled = torch.ones(1, 5)
        told = Condition({"text": TokenConditions()["cat"].tensors["text"], "y": pooled})
        assert open_slots(told).condition.tensors["y"] is pooled and token_name(told) == "text"

    @pytest.mark.parametrize(
        "told",
        [
            Condition({"text": torch.ones(1, 3)}),
            Condition({"text": torch.ones(1, 4, 3), "more": torch.ones(1, 4, 3)}),
            Condition({"text": torch.ones(1, 4, 3)}, {"num_tokens": 4}),
            Condition({"text": torch.ones(1, 4, 3)}, repeatable=False),
        ],
    )
    def test_other_conditions_are_refused(self, told):
        with pytest.raises(EsdError, match="not told a prompt as one plain sequence"):
            open_slots(told)

    def test_a_step_goes_down_and_leaves_the_student_alone(self):
        denoiser = TokenDenoiser()
        (points,) = held(denoiser, count=1)
        weights = {name: t.detach().clone() for name, t in denoiser.trainable.items()}
        slots, x, sigma = open_slots(TokenConditions()[""]), points.x, points.sigma
        wanted = torch.ones_like(x)

        def apart(each):
            told = each.condition.tensors["text"].expand(len(x), -1, -1)
            with torch.no_grad(), denoiser.student():
                return float((denoiser.predict(x, sigma, Condition({"text": told})) - wanted).square().mean())

        moved = slots
        for _ in range(10):
            moved = move(moved, denoiser, x, sigma, wanted)
        assert apart(moved) < apart(slots) and moved.moved == 10 and slots.moved == 0
        assert all(torch.equal(weights[name], t) and t.grad is None for name, t in denoiser.trainable.items())

    def test_a_gradient_that_is_not_finite_moves_nothing(self):
        denoiser = TokenDenoiser()
        (points,) = held(denoiser, count=1)
        slots = open_slots(TokenConditions()["cat"])
        assert move(slots, denoiser, points.x, points.sigma, torch.full_like(points.x, float("nan"))) is slots


class TestAttacks:
    """Searches in students that have forgotten nothing, one direction, or all."""

    def test_a_concept_that_was_only_renamed_comes_back(self):
        """The student knows everything but the word: the tokens are found beside the empty prompt."""
        denoiser = TokenDenoiser()
        conditions = TokenConditions()
        seen, unseen = held(denoiser), held(denoiser, 1)
        start = open_slots(conditions[""])
        before = attack.residual_under(denoiser, conditions, start.condition, unseen)
        found = attack.search(denoiser, conditions, [start], seen, 60, torch.Generator().manual_seed(0))
        after = attack.residual_under(denoiser, conditions, found.condition, unseen)
        assert before.mean == pytest.approx(0, abs=1e-5) and after.mean > 0.5
        assert after.low <= after.mean <= after.high

    def test_a_deaf_student_has_nothing_to_find(self):
        denoiser, conditions = Erased(deaf=True), TokenConditions()
        seen = held(denoiser)
        starts = attack.starts_of(conditions, CAT)
        found = attack.search(denoiser, conditions, starts, seen, 20, torch.Generator().manual_seed(0))
        assert attack.residual_under(denoiser, conditions, found.condition, seen).mean == pytest.approx(0, abs=1e-5)

    def test_the_control_has_the_concept_s_size_and_another_shape(self):
        (points,) = held(TokenDenoiser(), count=1)
        turned = attack.upside_down(points)
        assert turned.change.norm() == pytest.approx(float(points.change.norm()))
        assert not torch.allclose(turned.change, points.change) and torch.equal(turned.base, turned.change)

    def test_equal_generators_find_equal_tokens(self):
        def once():
            denoiser, conditions = Erased(deaf=False), TokenConditions()
            order = torch.Generator().manual_seed(3)
            return attack.search(denoiser, conditions, [open_slots(conditions[""])], held(denoiser), 5, order)

        assert torch.equal(once().values, once().values)

    def test_an_attribute_is_measured_against_the_prompt_without_it(self):
        spec = attack.attacked_spec(Concept("sunglasses", "face wearing sunglasses"))
        assert (spec.prompt, spec.null) == ("face wearing sunglasses", "face wearing")

    def test_passes(self):
        denoiser, conditions = TokenDenoiser(), TokenConditions()
        seen = held(denoiser)
        before, rows = denoiser.passes, 2 * 4
        attack.search(denoiser, conditions, [open_slots(conditions[""])], seen, 3, torch.Generator().manual_seed(0))
        assert denoiser.passes - before == rows + 3 * attack.TOGETHER + 2 * rows


class TestPictures:
    """Inversions and completions."""

    def test_raw_outputs_and_clean_latents_are_each_other(self):
        denoiser = TokenDenoiser()
        clean, noise, sigma = torch.randn(2, 2, 4, 4), torch.randn(2, 2, 4, 4), torch.tensor([3.0, 0.5])
        x = clean + sigma[:, None, None, None] * noise
        assert torch.allclose(attack.raw_of(denoiser, clean, x, sigma), noise, atol=1e-5)

    def test_an_inversion_explains_pictures(self):
        denoiser, conditions = TokenDenoiser(), TokenConditions()
        latents = torch.full((3, 2, 4, 4), 0.7)
        noised = lambda x, noise, sigma: x + sigma[:, None, None, None] * noise  # noqa: E731
        levels = denoiser.sigmas(8)[:-1]

        def error(slots):
            draws = torch.Generator().manual_seed(9)
            noise = torch.randn((len(levels), 2, 4, 4), generator=draws)
            x = noised(latents[:1].expand(len(levels), -1, -1, -1), noise, levels)
            told = slots.condition.tensors["text"].expand(len(levels), -1, -1)
            with torch.no_grad(), denoiser.student():
                return float((denoiser.predict(x, levels, Condition({"text": told})) - noise).square().mean())

        start = open_slots(conditions[""])
        found = attack.invert(denoiser, start, latents, noised, levels, 40, torch.Generator().manual_seed(0))
        assert error(found) < error(start)

    def test_a_completion_lies_between_the_base_s_picture_and_the_student_s(self):
        denoiser, conditions = Erased(deaf=True), TokenConditions()
        noise = torch.randn((2, 2, 4, 4), generator=torch.Generator().manual_seed(0))
        drawn = [attack.draw(denoiser, conditions[""], conditions["cat"], noise, 6, 3.0, by) for by in (0, 2, 6)]
        assert all(torch.isfinite(each).all() for each in drawn)
        assert not torch.allclose(drawn[0], drawn[1]) and not torch.allclose(drawn[1], drawn[2])
        calls = [call.student for call in denoiser.calls]
        assert calls == [True] * 6 + [False] * 2 + [True] * 4 + [False] * 6

    def test_the_base_alone_is_a_guided_trajectory(self):
        from esd_pack.esd.trajectory import cfg_trajectory

        denoiser, conditions = TokenDenoiser(), TokenConditions()
        noise, sigmas = torch.ones(1, 2, 4, 4), denoiser.sigmas(4)
        steps = cfg_trajectory(denoiser, noise, conditions[""], [conditions["cat"]], sigmas[:-1, None], 3.0)
        *_, last = steps
        drawn = attack.draw(denoiser, conditions[""], conditions["cat"], noise, 4, 3.0, 4)
        assert torch.allclose(drawn, denoiser.denoised(last.guided, last.x, last.sigma), atol=1e-5)


def test_a_comeback_says_what_it_found():
    from esd_pack.esd.evaluate.metrics import plain_rate
    from esd_pack.esd.evaluate.report import Report, to_html, to_json, to_text

    spread = attack.Spread(0.5, 0.25, 0.75)
    found = (("attack", plain_rate(3, 8)),)
    made = attack.Comeback("cat", spread, spread, replace(spread, mean=0.25), found)
    report = Report("Attacks", attacks=(made,))
    assert made.excess == 0.25 and "under attack 0.50 (0.25 to 0.75), control 0.25" in to_text(report)
    assert "attack: found 3 of 8 (38 %" in to_text(report) and '"attacked"' in to_json(report)
    assert "<h2>Brought back</h2>" in to_html(report) and "Brought back" not in to_html(Report("x"))
