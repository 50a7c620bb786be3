"""The help pages in the info panel: an item for every input, pictures that exist, messages that the code says."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "web" / "docs"
PAGES = sorted(FOLDER.glob("*.md"))
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
LARGEST = 150_000
GAP = "\x00"
EVERY = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def rows(path: Path, heading: str) -> list[list[str]]:
    """The cells of the tables below a heading, without the tables' heads."""
    part = re.split(r"^#{2,3} ", path.read_text("utf-8"), flags=re.MULTILINE)
    lines = [line for each in part if each.startswith(heading) for line in each.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not set(line) <= set("|- ")]


def inputs(path: Path) -> dict[str, str]:
    """The name of each input with the values that are sensible for it, from the list below the heading."""
    part = re.split(r"^#{2,3} ", path.read_text("utf-8"), flags=re.MULTILINE)
    items = [line for each in part if each.startswith("Input") for line in each.splitlines()]
    found = [
        re.match(r"- ((?:\*\*\w+\*\*(?:, )?)+)(?: \((.*?)\))?: \S", line) for line in items if line.startswith("- ")
    ]
    assert all(found), "an item is: - **name** (values): what it does"
    return {name: each[2] or "" for each in found if each for name in re.findall(r"\*\*(\w+)\*\*", each[1])}


GROWING = {"more"}
"""Inputs that only hosts with sockets that grow have."""


def test_every_node_has_its_page_and_every_page_its_node(node_classes):
    assert {path.stem for path in PAGES} == set(node_classes)


@EVERY
def test_every_input_has_its_item(node_classes, path):
    from comfy_api.latest import io

    later = set() if hasattr(io, "Autogrow") else GROWING
    assert sorted(inputs(path).keys() - later) == sorted(t.id for t in node_classes[path.stem].GET_SCHEMA().inputs)


@EVERY
def test_numbers_and_texts_have_sensible_values(node_classes, path):
    """A link needs none, and a choice names its options in words; what is typed has a range or an example."""
    typed = {i.id for i in node_classes[path.stem].GET_SCHEMA().inputs if i.io_type in ("INT", "FLOAT", "STRING")}
    assert [name for name, values in inputs(path).items() if name in typed and not values] == []


@EVERY
def test_tables_fit_into_the_info_panel(path):
    """Two columns do; what has more is a list."""
    assert [line for line in path.read_text("utf-8").splitlines() if line.startswith("|") and line.count("|") > 3] == []


@EVERY
def test_every_page_has_all_its_parts(node_classes, path):
    text = path.read_text("utf-8")
    headings = re.findall(r"^## (\w+)", text, re.MULTILINE)
    for wanted in ("Input", "Output", "Common", "Example"):
        assert [h for h in headings if h.startswith(wanted)], f"no heading {wanted}"
    assert text.startswith(f"# {node_classes[path.stem].GET_SCHEMA().display_name}\n")
    assert f"(pictures/{path.stem}.jpg)" in text, "no picture of an example graph"
    assert len(rows(path, "Common errors")) > 1 or "none of its own" in text


@EVERY
def test_messages_are_those_that_the_code_says(path):
    """Each message, cut at its dots, quotes and brackets, stands in a text of the code."""
    said = "\n".join(_texts())
    for message, _ in rows(path, "Common errors")[1:]:
        for part in re.split(r"…|\.\.\.|\"|\*|\([^)]*\)|, (?=[A-Z])", message):
            assert _says(said, part.strip(" :.,").split()), f"nothing says {part!r}"


def _says(said: str, words: list[str]) -> bool:
    """Whether the words stand there, up to three in a row of them put in at run time."""
    gaps = [(i, j) for i in range(len(words)) for j in range(i, min(i + 4, len(words) + 1))]
    with_gap = (" ".join([*words[:i], GAP, *words[j:]] if j > i else words) for i, j in gaps)
    return len(words) < 4 or any(each in said for each in with_gap)


@functools.cache
def _texts() -> list[str]:
    """Every text in the pack's code; what is put in at run time leaves a gap."""
    trees = [ast.parse(p.read_text("utf-8")) for part in ("esd", "nodes") for p in (ROOT / part).rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    plain = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    joined = [node.values for node in nodes if isinstance(node, ast.JoinedStr)]
    return plain + ["".join(v.value if isinstance(v, ast.Constant) else GAP for v in values) for values in joined]


@pytest.mark.parametrize("path", [*PAGES, *GUIDES], ids=lambda path: path.stem)
def test_every_picture_exists_is_small_and_has_words(path):
    for words, target in PICTURE.findall(path.read_text("utf-8")):
        if "://" not in target:
            assert (path.parent / target).is_file(), target
            assert (path.parent / target).stat().st_size < LARGEST, target
            assert len(words) > 10, f"{target} says nothing to those who cannot see it"


def test_no_picture_is_left_over():
    shown = {(p.parent / t).resolve() for p in (*PAGES, *GUIDES) for _, t in PICTURE.findall(p.read_text("utf-8"))}
    there = {
        path.resolve() for folder in (FOLDER / "pictures", ROOT / "docs" / "pictures") for path in folder.glob("*")
    }
    assert there - shown == set()
