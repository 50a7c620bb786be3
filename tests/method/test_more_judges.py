"""Prototypes, CLIP's words, files and other packs' nodes as judges: what they say, and when they are refused."""

from __future__ import annotations

import pytest
import torch

from esd_pack.esd.errors import EsdError
from esd_pack.esd.evaluate import prototypes, zero_shot
from esd_pack.esd.evaluate.classifier import EXPLICIT, GROUPS, NUDENET, Classifier, ClassifierJudge
from esd_pack.esd.evaluate.foreign import BELOW, Rule, one_a_picture


def clusters(labels=3, each=6, spread=0.2, seed=0):
    """Features around one direction a label."""
    noise = torch.randn((labels, each, 8), generator=torch.Generator().manual_seed(seed))
    return torch.eye(8)[:labels, None] + spread * noise


class TestPrototypes:
    """The nearest mean of the base's own pictures."""

    def test_it_names_what_it_has_learnt(self):
        learnt = prototypes.learn(("a", "b", "c"), clusters())
        assert learnt.logits(clusters(seed=1)[:, 0]).argmax(1).tolist() == [0, 1, 2]
        assert (learnt.right.found, learnt.right.n) == (18, 18)

    def test_leave_one_out_is_what_its_words_say(self):
        features = clusters(spread=0.9)
        hits = 0
        for label in range(3):
            for i in range(6):
                means = []
                for other in range(3):
                    kept = [f for j, f in enumerate(features[other]) if (other, j) != (label, i)]
                    units = torch.stack([f / f.norm() for f in kept]).double()
                    means.append(units.mean(0) / units.mean(0).norm())
                hits += int((torch.stack(means) @ features[label, i].double()).argmax()) == label
        found = prototypes.learn(("a", "b", "c"), features).right
        assert found.found == hits and 5 < hits < 18

    def test_noise_is_right_by_chance_and_softly(self):
        noise = torch.randn((4, 24, 8), generator=torch.Generator().manual_seed(3))
        learnt = prototypes.learn(tuple("abcd"), noise)
        assert learnt.right.share < 0.45 and learnt.sharpness < prototypes.learn(tuple("abcd"), clusters(4)).sharpness

    @pytest.mark.parametrize(("labels", "each"), [(1, 6), (3, 1)])
    def test_nothing_to_tell_apart(self, labels, each):
        with pytest.raises(EsdError, match="write kept prompts or alternatives, and take at least 2 pictures"):
            prototypes.learn(tuple("abc")[:labels], clusters(labels, each))


class TestZeroShot:
    """Both towers, or none."""

    @pytest.mark.parametrize(
        "weight", [None, torch.zeros(8, 8), torch.full((8, 8), 1.5e-5), torch.full((8, 8), torch.nan)]
    )
    def test_a_projection_that_no_file_has_filled(self, weight):
        with pytest.raises(EsdError, match="The text encoder has no projection into CLIP's common space"):
            zero_shot.require_projection(weight, "text encoder")
        zero_shot.require_projection(torch.eye(8), "text encoder")

    def test_the_self_test_counts_and_refuses(self):
        right = torch.eye(2).repeat_interleave(8, dim=0)
        assert zero_shot.self_test(right, ("a", "b"), 8).found == 16
        with pytest.raises(EsdError, match=r"CLIP names 8 of 16 .* and 80% are needed"):
            zero_shot.self_test(right[:1].expand(16, 2), ("a", "b"), 8)

    def test_scale(self):
        made = zero_shot.logits(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        assert made.tolist() == [[100.0, 0.0]]


def judge_of(figures, exclusive=False, cut=0.5, classes=NUDENET):
    return ClassifierJudge(Classifier("file", classes, exclusive, lambda pictures: figures, "id"), cut)


class TestFiles:
    """A classifier's classes, and a detector's groups of them."""

    def test_groups_are_those_of_the_papers(self):
        assert len(GROUPS["nudity"]) == 9 and len(EXPLICIT) == 5 and set(EXPLICIT) < set(GROUPS["nudity"])
        assert "BELLY_EXPOSED" in GROUPS["nudity"] and "BELLY_EXPOSED" not in EXPLICIT

    def test_a_group_is_found_where_any_of_it_is(self):
        figures = torch.zeros(2, 18)
        figures[0, NUDENET.index("FEET_EXPOSED")] = 0.7
        made = judge_of(figures).judge(torch.zeros(2, 4, 4, 3), ("nudity", "explicit nudity", "feet_exposed"))
        assert made.found.tolist() == [[True, False, True], [False, False, False]]
        assert made.answers[0][0] == "FEET_EXPOSED" and made.scores[0, 0] == pytest.approx(0.7)

    @pytest.mark.parametrize(("cut", "found"), [(0.2, True), (0.6, True), (0.75, False)])
    def test_the_cut_is_in_the_card_and_counts(self, cut, found):
        figures = torch.zeros(1, 18)
        figures[0, 3] = 0.7
        judge = judge_of(figures, cut=cut)
        assert f"found from {cut:g}" in judge.card and "unit: pictures" in judge.card
        assert bool(judge.judge(torch.zeros(1, 4, 4, 3), ("nudity",)).found[0, 0]) is found

    def test_of_a_classifier_the_largest_counts(self):
        judge = judge_of(torch.tensor([[0.3, 0.4, 0.3]]), True, 0.9, ("cat", "dog", "key"))
        made = judge.judge(torch.zeros(1, 4, 4, 3), ("cat", "Dog"))
        assert made.found.tolist() == [[False, True]] and made.answers[0] == ("dog", "dog")

    def test_a_label_that_it_does_not_know(self):
        with pytest.raises(EsdError, match='does not know "zebra": write one of its 3 labels'):
            judge_of(torch.zeros(1, 3), True, classes=("cat", "dog", "key")).check(["cat", "zebra"])


class TestOtherNodes:
    """Texts, numbers, yes or no, masks."""

    @pytest.mark.parametrize(
        ("words", "text", "found"),
        [
            ("", "1girl, a Cat, tree", True),
            ("", "category", False),
            ("cowboy hat", "face, cowboy_hat", True),
            ("/cats?|kitten/", "two kittens", True),
            ("/^cat$/", "a cat", False),
            ("c.t", "cat", False),
        ],
    )
    def test_texts(self, words, text, found):
        assert Rule(words).of_text(text, "cat").found is found

    def test_numbers_yes_and_masks(self):
        assert Rule().of_number(0.5, "").found and not Rule().of_number(0.4, "").found
        assert Rule(threshold=3, direction=BELOW).of_number(2, "").found and not Rule().of_boolean(False, "").found
        mask = torch.zeros(4, 4)
        mask[0, 0] = 1
        assert Rule().of_mask(mask, "").score == pytest.approx(1 / 16) and not Rule().of_mask(mask * 0, "").found

    def test_a_pattern_that_is_none(self):
        with pytest.raises(EsdError, match="is no pattern"):
            Rule("/(/").of_text("x", "cat")

    def test_one_value_a_picture(self):
        assert len(one_a_picture([torch.zeros(2, 4, 4), torch.zeros(4, 4)], "mask", 3)) == 3
        assert one_a_picture([["a", "b"]], "text", 2) == ["a", "b"]
        with pytest.raises(EsdError, match="2 values arrived for 3 pictures"):
            one_a_picture([1, 2], "number", 3)
