"""The blueprint "Erase a concept": a subgraph that the page offers beside the nodes, placed from the search and run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab.launch.base import CHECKPOINT, PACK
from support import browser
from support.panels import fit

pytestmark = pytest.mark.full

(FILE,) = (Path(__file__).resolve().parents[2] / "subgraphs").glob("*.json")
BLUEPRINT = json.loads(FILE.read_text("utf-8"))
SHOWN = ["concept", "erase_from", "replace_with", "method", "steps", "eta", "seed"]
CONNECT = """checkpoint => {
    const graph = window.app.graph, placed = graph.nodes[0];
    const add = (type, place, values) => {
        const node = LiteGraph.createNode(type);
        node.pos = place;
        graph.add(node);
        for (const widget of node.widgets ?? []) if (widget.name in values) widget.value = values[widget.name];
        return node;
    };
    const to = name => placed.inputs.findIndex(input => input.name === name);
    const load = add('CheckpointLoaderSimple', [-800, 0], {ckpt_name: checkpoint});
    const few = {width: 64, height: 64, num_inference_steps: 8, samples_per_trajectory: 4, trajectory_batch: 1,
                 buffer_size: 4};
    const settings = add('ESDEraseSettings', [-800, 400], few);
    load.connect(0, placed, to('model'));
    load.connect(1, placed, to('clip'));
    settings.connect(0, placed, to('settings'));
    placed.connect(1, add('ESDErasureInfo', [1200, 0], {}), 0);
    for (const [name, value] of [['concept', 'cat'], ['steps', 2]])
        placed.widgets.find(widget => widget.name === name).value = value;
}"""
ENDED = """() => { window.ended = []; for (const kind of ['execution_success', 'execution_error'])
    window.comfyAPI.api.api.addEventListener(kind, () => window.ended.push(kind)) }"""


def test_it_is_one_node_of_our_own_nodes(node_classes):
    """Its inputs and outputs are those of the nodes within, which the host has."""
    (node,), (graph,) = BLUEPRINT["nodes"], BLUEPRINT["definitions"]["subgraphs"]
    assert node["type"] == graph["id"] and node["title"] == graph["name"] == FILE.stem
    assert [thing["name"] for thing in node["inputs"]] == [thing["name"] for thing in graph["inputs"]]
    links = {link["id"]: link for link in graph["links"]}
    for inner in graph["nodes"]:
        schema = node_classes[inner["type"]].GET_SCHEMA()
        values = [thing.default for thing in schema.inputs if hasattr(thing, "default")]
        assert inner["widgets_values"] == values
        assert {each["name"] for each in inner["inputs"]} == {thing.id for thing in schema.inputs}
        for slot, each in enumerate(inner["inputs"]):
            if each["link"] is not None:
                assert (links[each["link"]]["target_id"], links[each["link"]]["target_slot"]) == (inner["id"], slot)


def place(page: Any) -> None:
    """Take the first that the search offers; newer pages let it hang at the mouse until a click."""
    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_function("() => window.app.graph.nodes.length === 0")
    assert browser.search_node(page, FILE.stem, (700, 500))[0].startswith(FILE.stem)
    page.keyboard.press("Enter")
    page.wait_for_timeout(1000)
    if not page.locator("input:focus").count():
        page.mouse.click(700, 500)
    page.wait_for_function("() => window.app.graph.nodes.length === 1 && window.app.graph.nodes[0].subgraph")


def test_it_is_offered_placed_and_run(page, host):
    offered = [each for each in host.get("/global_subgraphs").values() if each["info"]["node_pack"].endswith(PACK)]
    assert [each["name"] for each in offered] == [FILE.stem]
    place(page)
    assert page.evaluate("() => window.app.graph.nodes[0].widgets.map(widget => widget.name)") == SHOWN
    page.evaluate(CONNECT, CHECKPOINT)
    page.evaluate("() => window.app.canvas.deselectAll()")  # or only what was placed would be in view
    fit(page)
    page.evaluate(ENDED)
    page.evaluate("() => void window.app.queuePrompt(0, 1)")
    page.wait_for_function("() => window.ended.length", timeout=120000)
    assert page.evaluate("() => window.ended") == ["execution_success"]
    (run,) = [run for run in host.get("/esd/runs")["runs"] if ":" in run["node"]][-1:]
    assert (run["state"], run["total"]) == ("finished", 2)
    page.wait_for_function("() => document.querySelector('[data-esd-said]')?.textContent.includes('cat')")
    assert page.errors == []
