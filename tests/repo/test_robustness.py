"""The rows of docs/robustness.json stand for tests that there are, and every outcome in it is understood."""

from __future__ import annotations

import pytest

from support import outcomes


def test_every_row_has_its_test_and_every_test_its_row():
    assert {row.test for row in outcomes.in_docs()} == set(outcomes.testing()), (
        "run the tests, then see CONTRIBUTING.md"
    )


def test_nothing_in_the_table_is_unknown():
    for row in outcomes.in_docs():
        assert row.what and row.happened and not outcomes.DOUBTFUL.search(row.happened), row
        assert int(row.times.replace(",", "")) > 0


def test_rows_are_kept_merged_and_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(outcomes, "KEPT", tmp_path)
    add = outcomes.record  # by another name, so that this test counts as none that makes rows
    add("a | b", 3, {"opened": 1, "refused": 2})
    add("c", 1000, "fine")
    here = "tests/repo/test_robustness.py::test_rows_are_kept_merged_and_refused"
    assert outcomes.kept() == [
        outcomes.Row("a / b", "3", "opened: 1, refused: 2", here),
        outcomes.Row("c", "1,000", "fine", here),
    ]
    for times, happened in ((3, {"opened": 1}), (1, ""), (1, "unknown"), (1, "it crashed"), (0, "fine")):
        with pytest.raises(AssertionError):
            add("d", times, happened)
