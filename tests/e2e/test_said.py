"""The lines that nodes say, in the real page: they stay after the job, a reload and another tab, once and as text."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from support import browser
from support.page_graphs import LOAD, MAKE

pytestmark = pytest.mark.full

ROOT = Path(__file__).resolve().parents[2]
RENDERERS = pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
NODES = [
    LOAD,
    ("ESDLoadErasure", (0, 300), {"file": "emoji-world-cat-esd-x.pt"}),
    ("ESDSaveErasure", (400, 0), {"filename_prefix": "loras/said&amp;so"}),
    ("ESDErasureInfo", (400, 400), {}),
]
LINKS = [(0, "MODEL", 1, "model"), (1, "weights", 2, "weights"), (1, "weights", 3, "weights")]
WATCH = """() => { window.ended = 0; for (const kind of ['execution_success', 'execution_error'])
    window.comfyAPI.api.api.addEventListener(kind, () => { window.ended += 1 }) }"""
LINES = "() => [...document.querySelectorAll('[data-esd-said]')].map(element => element.textContent).sort()"
HOSTILE = '<img src="x" onerror="window.hacked = 1"> [[a|https://example.org]] {b}'
SAID = re.compile(r"^(SD1\.x|Saved said&amp;so.*|.*\btensors\b.*|.*read from: .*)", re.DOTALL)


@pytest.fixture(scope="module")
def shown(host: Any) -> Iterator[Any]:
    """One page for this file."""
    if not shutil.which("chromium"):
        pytest.skip("chromium is not installed")
    with browser.page_at(host.url) as page:
        yield page
        assert page.errors == []


def put(page: Any, vue: bool) -> None:
    """Open the graph as a workflow of its own."""
    browser.set_renderer(page, vue)
    page.evaluate(MAKE, [NODES, LINKS])
    as_json = "id => JSON.stringify({...window.app.graph.serialize(), id})"
    browser.load(page, json.loads(page.evaluate(as_json, str(uuid4()))))
    fit(page)


def fit(page: Any) -> None:
    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(800)


def run(page: Any) -> None:
    page.evaluate(WATCH)
    page.evaluate("() => void app.queuePrompt(0, 1)")
    page.wait_for_function("() => window.ended", timeout=120000)
    page.wait_for_timeout(700)  # newer pages clear other texts with the job


def another_tab_and_back(page: Any) -> None:
    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_function("() => window.app.graph.nodes.length === 0")
    tabs = page.locator(".workflow-tab")
    tabs.nth(tabs.count() - 2).click()
    page.wait_for_function("n => window.app.graph.nodes.length === n", arg=len(NODES))


def kept(page: Any) -> tuple[Any, Any]:
    """What a workflow and a prompt hold of each node's values."""
    nodes = page.evaluate("() => window.app.graph.serialize().nodes")
    saved = {node["id"]: node.get("widgets_values") or [] for node in nodes}
    return saved, browser.as_prompt(page)


@RENDERERS
def test_lines_stay_once_and_leave_no_trace_in_files(shown, host, vue):
    host.post("/free", {"free_memory": True})  # older hosts say nothing of a result from the cache
    put(shown, vue)
    assert shown.evaluate(LINES) == [], "no empty gap"
    before = kept(shown)
    run(shown)
    lines = shown.evaluate(LINES)
    assert len(lines) == len(NODES) and all(SAID.match(line) for line in lines), lines
    assert kept(shown) == before
    assert shown.get_by_text("Saved said&amp;so").count() == 1, "not by the page's own means as well"
    another_tab_and_back(shown)
    fit(shown)
    assert shown.evaluate(LINES) == lines
    shown.reload()
    browser.ready(shown)
    shown.wait_for_function("n => document.querySelectorAll('[data-esd-said]').length === n", arg=len(NODES))
    assert shown.evaluate(LINES) == lines


@RENDERERS
def test_a_line_is_text_and_takes_the_room_of_its_words(shown, vue):
    put(shown, vue)
    shown.evaluate("text => window.app.graph.nodes[0].onExecuted({text: [text]})", HOSTILE)
    shown.wait_for_timeout(500)
    assert shown.evaluate(LINES) == [HOSTILE]
    found = shown.evaluate("() => [document.querySelector('[data-esd-said]').children.length, window.hacked ?? 0]")
    assert found == [0, 0]
    heights = []
    for text in ("SD1.x", "word " * 60, "word\n" * 500):
        shown.evaluate("text => window.app.graph.nodes[3].onExecuted({text: [text]})", text)
        shown.wait_for_timeout(500)
        heights.append(shown.evaluate("() => window.app.graph.nodes[3].computeSize()[1]"))
    assert heights[0] < heights[1] <= heights[2] < 300


def test_the_page_knows_the_nodes_that_say_something():
    """Those whose results come with a text."""
    source = (ROOT / "web" / "said.js").read_text("utf-8")
    listed = set(re.findall(r'"(ESD\w+)"', source[: source.index("]);")]))
    saying = set()
    for path in (ROOT / "nodes").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and "ui=" in ast.unparse(node):
                saying.add(node.name)
    assert listed == saying
