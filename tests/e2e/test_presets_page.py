"""Choosing a preset fills the widgets in the real page; changing one of them makes it custom."""

from __future__ import annotations

import shutil

import pytest

from esd_pack.esd.presets import PRESETS
from support import browser
from support.outcomes import record
from support.page_graphs import CAT, ERASE, LINKS, LOAD, MAKE, SMALL

pytestmark = pytest.mark.full
SETTINGS, RUN = "ESDEraseSettings", "ESDErase"
VALUES = """type => Object.fromEntries(app.graph.nodes.filter(n => n.type === type)[0].widgets
    .filter(w => w.name !== 'live').map(w => [w.name, w.value]))"""
CHOOSE = """async ([type, name, value]) => {
    const node = app.graph.nodes.filter(n => n.type === type)[0];
    const widget = node.widgets.find(w => w.name === name);
    widget.value = value;
    widget.callback?.(value, app.canvas, node);
}"""


@pytest.fixture(scope="module")
def shown(host):
    if not shutil.which("chromium"):
        pytest.skip("chromium is not installed")
    with browser.page_at(host.url) as page:
        yield page


@pytest.fixture(params=[False, True], ids=["canvas", "vue"])
def graph(shown, request):
    """Load Model, Concept, Erase Settings and Erase, connected."""
    browser.set_renderer(shown, request.param)
    shown.evaluate(MAKE, [[LOAD, CAT, SMALL, ERASE], LINKS])
    shown.wait_for_timeout(300)
    return shown


def same(shown: dict, wanted: dict) -> bool:
    """Whether each of the wanted values that a node has a widget for, one at least, is the one that it shows."""
    both = wanted.keys() & shown.keys()
    return bool(both) and all(
        shown[name] == (pytest.approx(wanted[name]) if isinstance(wanted[name], float) else wanted[name])
        for name in both
    )


@pytest.mark.parametrize("name", ["paper-2023", "official-2025-sdxl", "default"])
def test_a_preset_fills_both_nodes(graph, name):
    graph.evaluate(CHOOSE, [SETTINGS, "preset", name])
    settings, run = graph.evaluate(VALUES, SETTINGS), graph.evaluate(VALUES, RUN)
    assert settings["preset"] == name and same(settings, PRESETS[name]) and same(run, PRESETS[name])
    queued = browser.as_prompt(graph)
    (inputs,) = [node["inputs"] for node in queued.values() if node["class_type"] == RUN]
    assert same(inputs, PRESETS[name])


@pytest.mark.parametrize(
    ("node", "field", "value"), [(SETTINGS, "strided", True), (RUN, "steps", 7), (RUN, "learning_rate", 3e-4)]
)
def test_a_change_makes_it_custom(graph, node, field, value):
    graph.evaluate(CHOOSE, [SETTINGS, "preset", "paper-2023"])
    graph.evaluate(CHOOSE, [node, field, value])
    assert graph.evaluate(VALUES, SETTINGS)["preset"] == "custom"
    assert graph.evaluate(VALUES, node)[field] == pytest.approx(value)
    rest = {name: each for name, each in PRESETS["paper-2023"].items() if name != field}
    assert same(graph.evaluate(VALUES, RUN), rest) and same(graph.evaluate(VALUES, SETTINGS), rest)


def test_what_no_preset_names_leaves_it(graph):
    graph.evaluate(CHOOSE, [SETTINGS, "preset", "paper-2023"])
    graph.evaluate(CHOOSE, [SETTINGS, "width", 128])
    graph.evaluate(CHOOSE, [RUN, "seed", 5])
    assert graph.evaluate(VALUES, SETTINGS)["preset"] == "paper-2023"


def test_another_preset_takes_back_a_size_that_the_first_one_set(graph):
    before = graph.evaluate(VALUES, SETTINGS)
    graph.evaluate(CHOOSE, [SETTINGS, "width", 0])
    graph.evaluate(CHOOSE, [SETTINGS, "height", 0])
    for name, size in (("official-2026-flux", 512), ("official-2026-klein", 1024), ("official-2026", 0)):
        graph.evaluate(CHOOSE, [SETTINGS, "preset", name])
        shown = graph.evaluate(VALUES, SETTINGS)
        assert (shown["width"], shown["height"], shown["preset"]) == (size, size, name)
    assert shown["training_guidance"] == before["training_guidance"]
    graph.evaluate(CHOOSE, [SETTINGS, "preset", "official-2026-flux"])
    graph.evaluate(CHOOSE, [SETTINGS, "width", 256])
    graph.evaluate(CHOOSE, [SETTINGS, "preset", "paper-2023"])
    shown = graph.evaluate(VALUES, SETTINGS)
    assert (shown["width"], shown["height"]) == (256, 0)


def test_an_older_graph_shows_what_counts(graph):
    """Version 0.1 left the other widgets as they were beside a preset, which won over them."""
    graph.evaluate(CHOOSE, [SETTINGS, "preset", "paper-2023"])
    saved = graph.evaluate("() => app.graph.serialize()")
    for node in saved["nodes"]:
        if node["type"] == RUN:
            node["widgets_values"][1] = 33  # steps
    browser.load(graph, saved)
    graph.wait_for_function(f"({VALUES})('{RUN}').steps === 1000")
    record("presets chosen, changed and loaded in the real page", 1, "the widgets show the values that count")


def test_a_node_connected_later_is_filled_too(graph):
    graph.evaluate(CHOOSE, [SETTINGS, "preset", "paper-2023"])
    graph.evaluate(f"""() => {{
        const [settings] = app.graph.nodes.filter(n => n.type === '{SETTINGS}');
        const [run] = app.graph.nodes.filter(n => n.type === '{RUN}');
        run.disconnectInput(run.inputs.findIndex(i => i.name === 'settings'));
        run.widgets.find(w => w.name === 'steps').value = 9;
        settings.connect(0, run, run.inputs.findIndex(i => i.name === 'settings'));
    }}""")
    graph.wait_for_function(f"({VALUES})('{RUN}').steps === 1000")
