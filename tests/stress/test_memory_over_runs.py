"""Runs in a row in one real server hold no more memory than the first ones did."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from support.outcomes import record

pytestmark = pytest.mark.nightly

BENCH = Path(__file__).resolve().parents[2] / "lab" / "bench"
RUNS, WARM = 12, 4


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    return pytest.importorskip("memory")


def test_memory_stays_where_it_is(host, memory, tmp_path):
    rows = list(memory.measured(host, RUNS, first_seed=500))
    assert [row["run"] for row in rows] == list(range(1, RUNS + 1))
    assert memory.growth(rows, WARM) < 0.05, [row["resident_bytes"] >> 20 for row in rows]
    memory.plot(rows, tmp_path / "memory.svg")
    (curve,) = ET.parse(tmp_path / "memory.svg").iter("{http://www.w3.org/2000/svg}polyline")
    assert len(curve.attrib["points"].split()) == RUNS
    record("runs in a row in one server, each with another seed", RUNS, "resident memory within 5 % of the warm-up's")


def test_growth_is_told(memory):
    held = [100, 200, 200, 210]
    rows = [{"run": i, "resident_bytes": each} for i, each in enumerate(held)]
    assert memory.growth(rows, 2) == pytest.approx(0.05) and memory.growth(rows, 1) == pytest.approx(1.1)
