"""The Erase nodes' live panels in the page: put such nodes on the canvas, read panels, and count what our files do."""

from __future__ import annotations

import itertools
import json
from typing import Any
from uuid import uuid4

from support import browser
from support.page_graphs import CAT, MAKE, SMALL, STOCK

STEPS, STEP_SECONDS = 3000, 150
"""More steps than any test waits for, and how many seconds the first ones may take on a busy machine."""
SEEDS = itertools.count()
"""Each graph trains anew: the host would take the result of equal inputs from its cache."""


def erasing(*concepts: str, **values: Any) -> tuple[list[Any], list[Any]]:
    """Nodes and links of a graph with an Erase node for each concept; its loader is the host's own."""
    quick = {
        "num_inference_steps": 8,
        "samples_per_trajectory": 8,
        "trajectory_batch": 1,
        "buffer_size": 8,
    }  # the first step comes at once
    nodes: list[Any] = [STOCK, (SMALL[0], (0, 520), SMALL[2] | quick)]
    links: list[Any] = []
    settings: dict[str, Any] = {"seed": next(SEEDS)}
    settings |= {"method": "esd-x-strict", "steps": STEPS, "learning_rate": 1e-5, "preview_every": 0}
    for row, concept in enumerate(concepts):
        first = len(nodes)
        nodes += [
            (CAT[0], (0, 150 + 190 * row), {"concept": concept}),
            (
                "ESDErase",
                (370 + 480 * row, 0),
                settings | {"snapshot_every": 0, "start": "start over", "stop": "after all steps"} | values,
            ),
            ("ESDErasureInfo", (370 + 480 * row, 950), {"size": (300, 60)}),
        ]
        from_loader = [(0, "MODEL", first + 1, "model"), (0, "CLIP", first + 1, "clip")]
        links += [*from_loader, (1, "settings", first + 1, "settings")]
        links += [(first, "concepts", first + 1, "concepts"), (first + 1, "weights", first + 2, "weights")]
    return nodes, links


def put(page: Any, graph: tuple[list[Any], list[Any]], vue: bool = False) -> list[int]:
    """Open a graph as a workflow of its own; the ids of its Erase nodes."""
    browser.set_renderer(page, vue)
    page.evaluate("() => app.canvas.setGraph(app.rootGraph ?? app.graph)")  # out of a subgraph, if one is open
    page.wait_for_timeout(300)  # the page notes where it is
    page.evaluate(MAKE, list(graph))
    as_json = "id => JSON.stringify({...window.app.graph.serialize(), id})"
    browser.load(page, json.loads(page.evaluate(as_json, str(uuid4()))))
    fit(page)
    return list(page.evaluate("window.app.graph.nodes.filter(n => n.type === 'ESDErase').map(n => n.id)"))


def fit(page: Any) -> None:
    """Show all of the graph, and wait until the view has come to rest."""
    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    view = "() => { const {scale, offset} = window.app.canvas.ds; return [scale, ...offset] }"
    before, now = None, page.evaluate(view)
    for _ in range(60):
        page.wait_for_timeout(400)  # it glides there
        before, now = now, page.evaluate(view)
        if before == now:
            break


PANEL = """const panel = id => {
    const found = graph => (graph.nodes ?? []).flatMap(
        n => String(n.id) === String(id) && n.type === 'ESDErase' ? [n] : n.subgraph ? found(n.subgraph) : []);
    return found(app.rootGraph ?? app.graph)[0]?.widgets.find(w => w.name === 'live').element;
};"""


def text(page: Any, node: int) -> str:
    """All words of a node's panel."""
    return str(page.evaluate(f"id => {{ {PANEL} return panel(id).textContent }}", node))


def wait_for(page: Any, node: int, words: str, seconds: float = STEP_SECONDS) -> None:
    """Until the node's panel says the words."""
    try:
        page.wait_for_function(
            f"([id, words]) => {{ {PANEL} return panel(id)?.textContent.includes(words) }}",
            arg=[node, words],
            timeout=1000 * seconds,
        )
    except Exception as error:
        raise AssertionError(f"node {node} says {text(page, node)!r} and not {words!r}") from error


def step(page: Any, node: int) -> int:
    """The step that a panel shows; -1 where it shows none."""
    found = page.evaluate(f"id => {{ {PANEL} return panel(id)?.textContent.match(/step (\\d+)/)?.[1] }}", node)
    return int(found or -1)


def points(page: Any, node: int) -> int:
    """How many points the chart of a panel has."""
    marks = f"id => {{ {PANEL} return panel(id).querySelector('path').getAttribute('d') ?? '' }}"
    return str(page.evaluate(marks, node)).count("M")


def at_step(page: Any, node: int, least: int) -> None:
    """Until the node's panel names at least that step and its chart has a point for each up to it."""
    page.wait_for_function(
        f"""([id, n]) => {{ {PANEL} const shown = panel(id);
            return Number(shown?.textContent.match(/step (\\d+)/)?.[1]) >= n
                && (shown.querySelector('path').getAttribute('d') ?? '').split('M').length > n }}""",
        arg=[node, least],
        timeout=1000 * STEP_SECONDS,
    )


def finish(page: Any, node: int) -> None:
    """Press the node's button, as a mouse would if it is within reach."""
    page.evaluate(f"id => {{ {PANEL} panel(id).querySelector('button').click() }}", node)


def can_finish(page: Any, node: int) -> bool:
    """Whether the node's button can be pressed."""
    return bool(page.evaluate(f"id => {{ {PANEL} return !panel(id).querySelector('button').disabled }}", node))


COUNT = """([id, ours]) => {
    PANEL;
    window.counted = {calls: 0, changes: 0};
    if (!window.countedFrom) {
        window.countedFrom = true;
        for (const name of ['requestAnimationFrame', 'setTimeout', 'setInterval', 'fetch']) {
            const before = window[name];
            window[name] = function (...values) {
                if (new Error().stack.includes(ours)) window.counted.calls += 1;
                return before.apply(this, values);
            };
        }
    }
    window.watching?.disconnect();
    window.watching = new MutationObserver(changes => { window.counted.changes += changes.length });
    const root = panel(id);
    if (root) for (const child of root.children) window.watching.observe(
        child, {subtree: true, childList: true, attributes: true, characterData: true});
}"""


def count(page: Any, node: int, ours: str, seconds: float) -> dict[str, int]:
    """For some seconds: frames, timers and fetches that our files ask for, and changes inside the node's panel."""
    page.evaluate(COUNT.replace("PANEL;", PANEL), [node, ours])
    page.wait_for_timeout(1000 * seconds)
    return counted(page)


def counted(page: Any) -> dict[str, int]:
    """What was counted up to now, since `count` was called."""
    return dict(page.evaluate("window.counted"))
