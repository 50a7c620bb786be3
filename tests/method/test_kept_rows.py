"""What is kept of an evaluation survives a kill at any byte, and several models compare by their rows."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from esd_pack.esd.errors import EsdError
from esd_pack.esd.evaluate.compare import arms_of, compare
from esd_pack.esd.evaluate.kept_rows import ScoreFile
from esd_pack.esd.evaluate.metrics import Score

SCORE = Score("base", "1", "a caf\u00e9", "erased", "cat", 2**63, "cat", 0.5, True)


class TestScoreFile:
    """Lines that are only ever added."""

    def test_killed_at_any_byte_no_whole_line_is_lost_and_the_next_is_whole(self, tmp_path):
        whole = ScoreFile(tmp_path / "whole")
        for number in range(3):
            whole.add(f"k{number}", replace(SCORE, seed=number))
        data = whole.path.read_bytes()
        ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
        for cut in range(len(data) + 1):
            file = ScoreFile(tmp_path / "cut")
            file.path.write_bytes(data[:cut])
            complete = sum(end - 1 <= cut for end in ends)
            assert list(file.read()) == [f"k{number}" for number in range(complete)]
            if cut % 7 == 0:
                file.add("new", SCORE)
                assert file.read()["new"] == SCORE and len(file.read()) == complete + 1

    def test_scores_come_back_as_they_were(self, tmp_path):
        file = ScoreFile(tmp_path / "scores")
        assert file.read() == {}
        odd = replace(SCORE, score=math.inf, answer="\ud800 \n,", found=False)
        file.add("a", SCORE)
        file.add("b", odd)
        assert file.read() == {"a": SCORE, "b": odd}

    def test_lines_of_others_are_passed_over(self, tmp_path):
        file = ScoreFile(tmp_path / "scores")
        file.path.write_bytes(b'[]\n{"key": 1}\n{"key": "a", "model": "x"}\n\xff\xfe\nnull\n{"key": "x"}\n')
        file.add("b", SCORE)
        assert file.read() == {"b": SCORE}

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(EsdError, match="could not be written"):
            ScoreFile(tmp_path / "no" / "scores").add("a", SCORE)


def scores(model, *found):
    return [replace(SCORE, model=model, case=str(i), seed=i, found=f) for i, f in enumerate(found)]


class TestCompare:
    """Models by name, each beside the first."""

    def test_rows_meet_by_what_they_are_and_not_by_their_order(self):
        before, after = scores("base", True, True, True), scores("x", True, False, False)
        base, esd = compare({"base": before, "esd": after[::-1]})
        assert base.changes == () and esd.rate("erased").found == 1
        assert (esd.changes[0].only_before, esd.changes[0].only_after) == (2, 0)
        assert esd.changes[0].p_value == 0.5 and esd.rate("kept") is None

    def test_other_pictures(self):
        with pytest.raises(EsdError, match='"b" and "a" are of different pictures'):
            compare({"a": scores("a", True), "b": scores("b", True, True)})

    def test_the_base_of_all_reports_is_taken_once_and_names_stay_apart(self):
        two = [*scores("base", True, True), *scores("erased", False, True)]
        arms = arms_of([("ESD", "card", two), ("ESD", "card", two), ("other", "card", scores("o", True, False))])
        assert list(arms) == ["before", "ESD", "ESD (2)", "other"]
        assert [s.model for s in arms["before"]] == ["base"] * 2 and [s.found for s in arms["ESD"]] == [False, True]

    def test_judges_that_differ(self):
        with pytest.raises(EsdError, match="different judges"):
            arms_of([("a", "card", scores("a", True)), ("b", "other", scores("b", True))])
        with pytest.raises(EsdError, match="no judged pictures"):
            arms_of([("a", "card", [])])
