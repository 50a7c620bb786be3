"""The shipped workflows in the host's own page, in a real browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import browser
from launch.workflow import to_prompt

ROOT = Path(__file__).resolve().parents[1]
SCREENSHOTS = ROOT / ".run" / "screenshots"
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_graph_that_people_open_is_the_prompt_that_is_queued(page, object_info, path):
    """The page's own conversion of the workflow equals ours, which the tests and the demo queue."""
    workflow = json.loads(path.read_text("utf-8"))
    browser.load(page, workflow)
    missing = page.evaluate(
        "() => window.app.graph.nodes.filter(n => n.has_errors || !n.constructor.nodeData).map(n => n.type)"
    )
    assert [kind for kind in missing if kind not in ("Note", "MarkdownNote", "Reroute", "PrimitiveNode")] == []
    assert not page.get_by_role("dialog").is_visible()
    shown, ours = browser.as_prompt(page), to_prompt(workflow, object_info)
    without_titles = {number: {key: node[key] for key in ("class_type", "inputs")} for number, node in shown.items()}
    assert without_titles == ours
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(1500)  # the view glides there
    page.screenshot(path=SCREENSHOTS / f"{path.stem}.png")
    assert page.errors == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_node_covers_another(page, path):
    """As the page lays them out, with each node's own least size."""
    browser.load(page, json.loads(path.read_text("utf-8")))
    boxes = page.evaluate("""() => window.app.graph.nodes.map(n => {
        const least = n.computeSize();
        return {title: `${n.id} ${n.type}`, left: n.pos[0], top: n.pos[1] - 30,
                right: n.pos[0] + Math.max(n.size[0], least[0]), bottom: n.pos[1] + Math.max(n.size[1], least[1])};
    })""")
    assert len(boxes) > 2
    covered = [
        (a["title"], b["title"])
        for i, a in enumerate(boxes)
        for b in boxes[i + 1 :]
        if a["left"] < b["right"] and b["left"] < a["right"] and a["top"] < b["bottom"] and b["top"] < a["bottom"]
    ]
    assert covered == []
