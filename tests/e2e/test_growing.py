"""Sockets that grow, in the real page of hosts that have them: one more than are connected, and each one counts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

from support import browser
from support.page_graphs import LOAD, MAKE

pytestmark = pytest.mark.full

FILE = {"file": "emoji-world-cat-esd-x.pt"}
NODES = [
    LOAD,
    ("ESDLoadErasure", (0, 300), FILE),
    ("ESDLoadErasure", (0, 600), {**FILE, "interpret": "as absolute"}),
    ("ESDMergeErasures", (450, 0), {"mode": "sum"}),
    ("ESDErasureInfo", (900, 0), {}),
]
LINKS = [(0, "MODEL", 1, "model"), (0, "MODEL", 2, "model"), (1, "weights", 3, "weights"), (3, "weights", 4, "weights")]
CONNECT = """() => {
    const {graph} = window.app, nodes = graph.nodes;
    const merge = nodes.find(n => n.type === 'ESDMergeErasures');
    const second = nodes.filter(n => n.type === 'ESDLoadErasure')[1];
    second.connect(1, merge, merge.inputs.findIndex(i => i.name === 'more.weights_5'));
}"""
GROWN = """() => window.app.graph.nodes.find(n => n.type === 'ESDMergeErasures')
    .inputs.map(i => i.name).filter(name => name.startsWith('more.'))"""


@pytest.fixture(scope="module")
def shown(host: Any) -> Iterator[Any]:
    """One page for this file."""
    if not shutil.which("chromium"):
        pytest.skip("chromium is not installed")
    if "more" not in host.get("/object_info/ESDMergeErasures")["ESDMergeErasures"]["input"].get("optional", {}):
        pytest.skip("this host has no inputs that grow")
    with browser.page_at(host.url) as page:
        yield page
        assert page.errors == []


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])
def test_one_more_erasure_is_merged_for_each_socket_that_grew(shown, host, vue):
    browser.set_renderer(shown, vue)
    shown.evaluate(MAKE, [NODES, LINKS])
    assert shown.evaluate(GROWN) == ["more.weights_5"]
    shown.evaluate(CONNECT)
    shown.wait_for_function(f"() => ({GROWN})().length === 2")
    assert shown.evaluate(GROWN) == ["more.weights_5", "more.weights_6"]
    saved = shown.evaluate("id => JSON.stringify({...window.app.graph.serialize(), id})", str(uuid4()))
    browser.load(shown, json.loads(saved))
    assert shown.evaluate(GROWN) == ["more.weights_5", "more.weights_6"]
    prompt = shown.evaluate("async () => (await window.app.graphToPrompt()).output")
    (merge,) = [node["inputs"] for node in prompt.values() if node["class_type"] == "ESDMergeErasures"]
    assert prompt[merge["more.weights_5"][0]]["inputs"]["interpret"] == "as absolute"
    with ThreadPoolExecutor() as beside:  # the browser's own event loop runs in this thread
        outputs = beside.submit(host.run, prompt).result().outputs
    assert any("merged: 2 erasures" in "".join(each.get("text", ())) for each in outputs.values())
