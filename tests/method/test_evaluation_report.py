"""The report: JSON that reads back, a CSV that runs no formula, and a page that needs nothing and escapes all."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given

from esd_pack.esd.evaluate.in_model import Measured
from esd_pack.esd.evaluate.metrics import Score, changes
from esd_pack.esd.evaluate.report import PicturePair, Report, to_csv, to_html, to_json, to_text
from esd_pack.esd.evaluate.study import on_sheet, to_study
from support.odd_values import TEXTS, examples_of

CONCEPT = Measured("cat", (8.0, 2.0), (0.1, -0.3), (0.5, 0.4), (0.2, 0.1))
VOID = ("meta", "img", "br", "hr", "input")


def scores(model, found, prompt="cat"):
    return tuple(
        Score(model, str(i), prompt, "erased", "cat", i, "cat" if f else "dog", 0.5, f) for i, f in enumerate(found)
    )


def report(prompt="cat", **more):
    before, after = scores("base", [True] * 6, prompt), scores("erased", [True] + [False] * 5, prompt)
    return Report(
        "Cat & co",
        (("steps", "20"),),
        "a judge",
        changes(before, after),
        before + after,
        (CONCEPT,),
        (CONCEPT,),
        **more,
    )


class Page(HTMLParser):
    """Tags with attributes, texts, and whether every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_json_reads_back():
    found = json.loads(to_json(report()))
    assert found["schema"] == "esd-evaluation-1" and found["judge"] == "a judge"
    assert found["changes"][0]["before"]["found"] == 6 and found["changes"][0]["p_value"] == 2 / 32
    assert found["changes"][0]["after"]["interval"]["low"] == pytest.approx(0.0301, abs=1e-4)
    assert found["concepts"][0]["residuals"] == [0.1, -0.3] and len(found["scores"]) == 12


def test_json_has_no_nan():
    odd = Report("x", concepts=(Measured("c", (1.0,), (math.nan,), (math.inf,), (0.0,)),))
    found = json.loads(to_json(odd), parse_constant=lambda name: pytest.fail(name))
    assert found["concepts"][0]["residuals"] == [None] and found["concepts"][0]["drifts"] == [None]


def test_csv_reads_back_and_runs_no_formula():
    rows = list(csv.DictReader(io.StringIO(to_csv(scores("m", [True, False], '=cmd|"x",\n')))))
    assert [row["found"] for row in rows] == ["1", "0"] and rows[0]["prompt"] == '\'=cmd|"x",\n'
    assert rows[1]["answer"] == "dog" and rows[1]["seed"] == "1"


def test_text_has_the_figures():
    first, second, third = to_text(report()).splitlines()
    assert first == (
        "erased: found before 6 of 6 (100 %, 61 to 100 %), after 1 of 6 (17 %, 3 to 56 %); p = 0.062 (exact McNemar)"
    )
    assert second == '"cat": residual -0.10 (high noise 0.10, low noise -0.30), null drift 0.15'
    assert third == 'keep "cat": drift 0.45'


def test_page_shows_pictures_and_figures_and_loads_nothing():
    page = Page(to_html(report(), [PicturePair("erased", "cat", 7, b"before", b"after")]))
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert sources == [f"data:image/jpeg;base64,{base64.b64encode(b).decode()}" for b in (b"before", b"after")]
    assert not [tag for tag, attributes in page.tags if tag in ("script", "link") or "href" in attributes]
    assert "6 of 6 (100 %, 61 to 100 %)" in page.texts and "Cat & co" in page.texts and page.open == []


@examples_of(60)
@given(TEXTS, TEXTS)
def test_no_text_of_a_set_or_a_model_becomes_markup(prompt, name):
    hostile = f"</td><script>x</script>{prompt}\"'><img src=x onerror=y>"
    made = report(hostile)
    made = Report(hostile, ((hostile, name),), hostile, made.changes, made.scores, (CONCEPT,), (CONCEPT,))
    page = Page(to_html(made, [PicturePair(hostile, hostile, 1, b"", b"")]))
    assert not [tag for tag, attributes in page.tags if tag == "script" or any(a.startswith("on") for a in attributes)]
    assert sum(tag == "img" for tag, _ in page.tags) == 2 and page.open == []
    sheet = Page(to_study(hostile, [PicturePair(hostile, hostile, 1, b"", b"")] * 2, 0))
    assert not [tag for tag, attributes in sheet.tags if tag == "script" or any(a.startswith("on") for a in attributes)]
    assert sum(tag == "img" for tag, _ in sheet.tags) == 4 and sheet.open == []


def pairs(count, role="erased"):
    return [PicturePair(role, f"cat {i}", i, f"{i} before".encode(), f"{i} after".encode()) for i in range(count)]


def test_a_blind_sheet_has_sides_by_lot_and_its_key_at_the_end():
    asked = pairs(40) + pairs(2, "kept")
    page = Page(to_study("Cat", asked, 3))
    jpegs = [base64.b64decode(a["src"].partition(",")[2]).decode() for tag, a in page.tags if tag == "img"]
    sides = list(zip(jpegs[::2], jpegs[1::2], strict=True))
    assert all(sorted(s) == [f"{p.seed} after", f"{p.seed} before"] for s, p in zip(sides, asked, strict=True))
    swapped = ["after" in left for left, _ in sides]
    assert sum(swapped) == 21 and swapped != sorted(swapped), "as often as not, by lot"
    key = page.texts[page.texts.index("seed") + 1 :]
    rows = [cells[:6] for cells in zip(*[(text for text in key if text.strip())] * 6, strict=False)][: len(asked)]
    assert [row[1] for row in rows] == ["after" if s else "before" for s in swapped]
    assert [(int(row[0]), row[3], row[4], int(row[5])) for row in rows] == [
        (i + 1, p.role, p.prompt, p.seed) for i, p in enumerate(asked)
    ]
    radios = [a for tag, a in page.tags if tag == "input"]
    assert len(radios) == 4 * len(asked) and len({a["name"] for a in radios}) == len(asked)
    counted = [a["class"] for a in radios if a["name"] == "pair-0"]
    assert counted == [f"{kind}-0" for kind in (("after", "before") if swapped[0] else ("before", "after"))] + [
        "both-0",
        "none-0",
    ]
    assert to_study("Cat", asked, 3) == to_study("Cat", asked, 3) != to_study("Cat", asked, 4)
    others = [replace(pair, after=b"another model's") for pair in asked]
    of_another = [a["class"] for tag, a in Page(to_study("Cat", others, 3)).tags if tag == "input"]
    assert of_another != [a["class"] for a in radios], "the key of one sheet is no key of the next"
    named = Page(to_study("Cat", [replace(asked[0], label="tiger")], 3))
    assert "1. Which picture shows: tiger?" in named.texts


def test_a_blind_sheet_asks_for_some_of_each_role():
    roles = ["erased"] * 100 + ["kept"] * 5 + ["alternatives"]
    chosen = on_sheet(roles, 0)
    assert len(set(chosen)) == len(chosen) == 24 and chosen != sorted(chosen)
    assert [sum(roles[place] == role for place in chosen) for role in dict.fromkeys(roles)] == [18, 5, 1]
    assert on_sheet([], 0) == [] and on_sheet(roles, 1) != chosen


def test_an_empty_report_is_a_page_too():
    assert Page(to_html(Report("nothing"))).texts.count("nothing") == 2 and to_text(Report("nothing")) == ""
