"""Shipped workflows as the page lays them out: no node covers another or leaves its group, in either renderer."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.launch.workflow import missing_nodes
from support import browser

pytestmark = pytest.mark.full

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
LONG = "Saved erasure_00001_.safetensors: lora of rank 4 to 128, which keeps 99.0 % of the change"
FOLDED = "Comfy.Node.AlwaysShowAdvancedWidgets"
"""The setting of newer pages that unfolds rarely used inputs: nodes are at their tallest then."""

UNFOLD = """async name => {
    const settings = window.app.extensionManager.setting;
    if (window.app.ui.settings.settingsLookup?.[name]) await settings.set(name, true);
}"""
SAY = """text => { for (const node of window.app.graph.nodes)
    if (node.comfyClass?.startsWith('ESD')) node.onExecuted?.({text: [text]}) }"""
ZOOM = """() => { const view = window.app.canvas.ds; view.scale = 0.3; view.offset = [600, 600];
    window.app.canvas.setDirty(true, true) }"""
PLACES = """() => {
    const {nodes, groups} = window.app.graph, view = window.app.canvas.ds;
    const canvas = document.querySelector('#graph-canvas').getBoundingClientRect();
    const drawn = n => {
        const box = document.querySelector(`[data-node-id="${n.id}"]`)?.getBoundingClientRect();
        if (box) return [(box.left - canvas.left) / view.scale - view.offset[0],
            (box.top - canvas.top) / view.scale - view.offset[1], box.width / view.scale, box.height / view.scale];
        const least = n.computeSize();
        return [n.pos[0], n.pos[1] - 30, Math.max(n.size[0], least[0]), Math.max(n.size[1], least[1]) + 30];
    };
    const corners = ([x, y, w, h]) => [x, y, x + w, y + h];
    return {
        nodes: nodes.map(n => [`${n.id} ${n.type}`, corners(drawn(n))]),
        groups: groups.map(g => [g.title, corners([...g.pos, ...g.size])]),
        drawn: document.querySelectorAll('[data-node-id]').length,
    };
}"""


@pytest.fixture(scope="module")
def shown(host: Any) -> Iterator[Any]:
    """One page for all workflows."""
    if not shutil.which("chromium"):
        pytest.skip("chromium is not installed")
    with browser.page_at(host.url, (1900, 1200)) as page:
        page.evaluate(UNFOLD, FOLDED)
        yield page


def overlap(a: list[float], b: list[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def inside(inner: list[float], outer: list[float]) -> bool:
    return outer[0] <= inner[0] and outer[1] <= inner[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def faults(places: dict[str, Any]) -> list[str]:
    """What covers what, and what lies across the edge of a group."""
    nodes, groups = places["nodes"], places["groups"]
    found = [f"{a[0]} on {b[0]}" for a, b in itertools.combinations(nodes, 2) if overlap(a[1], b[1])]
    found += [f"{a[0]} on {b[0]}" for a, b in itertools.combinations(groups, 2) if overlap(a[1], b[1])]
    across = [(n, g) for n in nodes for g in groups if overlap(n[1], g[1]) and not inside(n[1], g[1])]
    return found + [f"{n[0]} across the edge of {g[0]}" for n, g in across]


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
def test_no_node_covers_another_or_leaves_its_group(shown, object_info, vue):
    """With a line of text on every node that says one, and rarely used inputs unfolded."""
    browser.set_renderer(shown, vue)
    found = {}
    for path in WORKFLOWS:
        workflow = json.loads(path.read_text("utf-8"))
        if missing_nodes(workflow, object_info):
            continue
        browser.load(shown, workflow)
        shown.evaluate(ZOOM)
        shown.wait_for_function(
            "n => document.querySelectorAll('[data-node-id]').length === n", arg=len(workflow["nodes"]) * vue
        )
        shown.evaluate(SAY, LONG)
        shown.wait_for_timeout(500)
        places = shown.evaluate(PLACES)
        assert places["drawn"] == len(workflow["nodes"]) * vue
        assert shown.locator("[data-esd-said]").count() > 0
        found[path.stem] = faults(places)
    assert len(found) >= len(WORKFLOWS) - 1
    assert {name: fault for name, fault in found.items() if fault} == {}
