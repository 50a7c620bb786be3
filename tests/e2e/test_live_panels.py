"""Live panels where more than one thing goes on: several Erase nodes, hidden nodes, a server that goes away."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from lab.launch.base import PACK
from lab.launch.server import Server
from support import browser, panels
from support.outcomes import record

pytestmark = pytest.mark.full

OURS = f"/extensions/{PACK}/"
NAMES = ("canvas", "Nodes 2.0")
RENDERERS = pytest.mark.parametrize("vue", [False, True], ids=["canvas", "vue"])


class RestartableServer:
    """A server of this file's own, that a test may kill and start again under the same address."""

    def __init__(self, host: Any, base: Any) -> None:
        self.host, self.base, self.port = host, base, None
        self.start()

    def start(self) -> None:
        self.server = Server(self.host, self.base, self.port, arguments=["--cpu"]).wait()
        self.port = self.server.port

    def kill(self) -> None:
        """As the kernel does when memory runs out: it can write nothing any more."""
        os.killpg(self.server.process.pid, signal.SIGKILL)
        self.server.process.wait()

    def runs(self) -> list[dict[str, Any]]:
        return list(self.server.get("/esd/runs")["runs"])

    def stop_all(self) -> None:
        """Leave nothing running or queued."""
        self.server.post("/queue", {"clear": True})
        self.server.interrupt()


@pytest.fixture(scope="module")
def own(comfy_path: Any, tmp_path_factory: Any) -> Iterator[RestartableServer]:
    if not shutil.which("chromium"):
        pytest.skip("chromium is not installed")
    made = RestartableServer(comfy_path, tmp_path_factory.mktemp("own"))
    yield made
    made.server.stop()


@pytest.fixture(scope="module")
def opened(own: RestartableServer) -> Iterator[Any]:
    """One browser for this file; `requests` collects what the page asks for, `said` what its console says."""
    with browser.page_at(own.server.url) as page:
        page.requests, page.said = [], []
        tools = page.context.new_cdp_session(page)
        tools.send("Network.enable")
        tools.on("Network.requestWillBeSent", lambda told: page.requests.append(told))
        page.on("console", lambda message: page.said.append((message.type, message.text, message.location["url"])))
        yield page


@pytest.fixture
def shown(own: RestartableServer, opened: Any) -> Iterator[Any]:
    """The page, with nothing collected yet; nothing of ours has gone wrong in it when a test ends."""
    for collected in (opened.errors, opened.requests, opened.said):
        collected.clear()
    yield opened
    own.stop_all()
    assert opened.errors == []
    assert [said for said in opened.said if said[0] == "error" and ("esd" in said[1] or "esd" in said[2])] == []
    assert ours_elsewhere(opened) == []


def ours(page: Any) -> list[str]:
    """The requests that our files made."""
    stacks = [(each["request"]["url"], json.dumps(each["initiator"].get("stack", ""))) for each in page.requests]
    return [url for url, stack in stacks if OURS in stack and not url.startswith("data:")]


def ours_elsewhere(page: Any) -> list[str]:
    """Those of them that left the server."""
    here = urlsplit(page.url).netloc
    return [url for url in ours(page) if urlsplit(url).netloc != here]


@RENDERERS
def test_each_panel_shows_its_own_run_and_finishes_it_alone(shown, own, vue):
    nodes = panels.put(shown, panels.erasing("cat", "dog"), vue)
    assert [panels.text(shown, node).count("not trained yet") for node in nodes] == [1, 1]
    shown.evaluate("() => void app.queuePrompt(0, 1)")
    shown.wait_for_function("() => /step [1-9]/.test(document.body.textContent)", timeout=1000 * panels.STEP_SECONDS)
    first, second = nodes if panels.step(shown, nodes[0]) > 0 else nodes[::-1]
    assert "not trained yet" in panels.text(shown, second) and not panels.can_finish(shown, second)
    panels.at_step(shown, first, 3)
    panels.finish(shown, first)
    panels.wait_for(shown, first, "finished early")
    ended = panels.step(shown, first)
    panels.at_step(shown, second, 3)
    assert panels.can_finish(shown, second) and not panels.can_finish(shown, first)
    assert panels.step(shown, first) == ended == panels.points(shown, first) < panels.STEPS
    shown.reload()
    browser.ready(shown)
    panels.fit(shown)
    panels.at_step(shown, second, 6)
    panels.wait_for(shown, first, "finished early")
    assert panels.step(shown, first) == ended == panels.points(shown, first)
    assert panels.can_finish(shown, second) and not panels.can_finish(shown, first)
    panels.finish(shown, second)
    panels.wait_for(shown, second, "finished early")
    assert [run["state"] for run in own.runs()[-2:]] == ["finished", "finished"]
    assert {run["node"] for run in own.runs()[-2:]} == {str(first), str(second)}
    record(f"two Erase nodes in one graph, one reload, each finished early ({NAMES[vue]})", 1, "each panel its own run")


def test_a_result_from_the_cache_is_named_so(shown, own):
    graph = panels.erasing("cat", steps=2)
    for last in ("finished", "nothing to train: this result was made before"):
        (node,) = panels.put(shown, graph)  # the second time as another workflow, with the same inputs
        assert "not trained yet" in panels.text(shown, node)
        shown.evaluate("() => void app.queuePrompt(0, 1)")
        panels.wait_for(shown, node, last)
    record(
        "a graph's erasure is still in the host's cache, and the graph is another workflow's", 1, "the panel says so"
    )


HIDING = {
    "collapsed": ("app.graph.getNodeById(id).collapse()", "app.graph.getNodeById(id).collapse()"),
    "outside the view": (
        "app.canvas.ds.offset[0] += 90000; app.canvas.setDirty(true, true)",
        "app.canvas.ds.offset[0] -= 90000; app.canvas.setDirty(true, true)",
    ),
    "in another workflow's tab": (
        "await app.extensionManager.command.execute('Comfy.NewBlankWorkflow')",
        lambda page: browser.click_tab(page, 1),  # a click that a script makes does not count on every host
    ),
}
SUBGRAPH = "const {node} = app.graph.convertToSubgraph(new Set([app.graph.getNodeById(id)])); return node.id"
ENTER = "app.canvas.setGraph([...app.rootGraph.subgraphs.values()][0])"


def quiet(page: Any, own: RestartableServer, node: int) -> tuple[dict[str, int], int]:
    """What our files did in two seconds or more in which the run went on; and the step that the server then is at."""
    before = own.runs()[-1]
    assert before["state"] == "running"
    counted = panels.count(page, node, OURS, 2)
    while own.runs()[-1]["step"] <= before["step"] + 1:
        page.wait_for_timeout(500)
        counted = panels.counted(page)
    return counted, own.runs()[-1]["step"]


@RENDERERS
def test_hidden_panels_do_no_work_and_are_right_when_they_come_back(shown, own, vue):
    (node,) = panels.put(shown, panels.erasing("cat"), vue)
    idle = [panels.count(shown, node, OURS, 2) for _ in range(3)]  # the page may still be laying itself out at first
    assert idle[-1] == {"calls": 0, "changes": 0}, "nothing runs: no frame, no timer, no question"
    shown.evaluate("() => void app.queuePrompt(0, 1)")
    panels.at_step(shown, node, 2)
    assert quiet(shown, own, node)[0]["changes"] > 0, "while it is seen it is drawn"
    for way, (hide, show) in HIDING.items():
        shown.evaluate(f"async id => {{ {hide} }}", node)
        shown.wait_for_timeout(700)
        counted, step = quiet(shown, own, node)
        assert counted == {"calls": 0, "changes": 0}, way
        if callable(show):
            show(shown)
        else:
            shown.evaluate(f"async id => {{ {show} }}", node)
        panels.at_step(shown, node, step)
    panels.finish(shown, node)
    panels.wait_for(shown, node, "finished early")
    assert len(ours(shown)) <= 2, "the button, and nothing in a regular way"
    record(f"Erase node collapsed, out of view, in another tab ({NAMES[vue]})", 3, "no work, right when shown again")


def test_in_a_subgraph_the_panel_sleeps_until_it_is_opened(shown, own):
    (node,) = panels.put(shown, panels.erasing("cat"))
    shown.evaluate(f"id => {{ {SUBGRAPH} }}", node)
    inside = shown.evaluate("[...app.rootGraph.subgraphs.values()][0].nodes[0].id")
    shown.evaluate("() => void app.queuePrompt(0, 1)")
    while not any(":" in run["node"] and run["step"] > 1 for run in own.runs()):
        shown.wait_for_timeout(300)
    counted, step = quiet(shown, own, inside)
    assert counted == {"calls": 0, "changes": 0}
    assert ":" in own.runs()[-1]["node"]
    shown.evaluate(f"() => {{ {ENTER} }}")
    shown.wait_for_timeout(500)  # the page goes to where this graph was last looked at
    panels.fit(shown)
    panels.at_step(shown, inside, step)
    assert panels.can_finish(shown, inside)
    panels.finish(shown, inside)
    panels.wait_for(shown, inside, "finished early")
    record("Erase node in a subgraph that is not open while it trains", 1, "no work, right when it is opened")


LOOKS = """() => {
    const host = sheet => sheet.href ?? sheet.ownerNode?.getAttribute('data-primevue-style-id');
    const all = element => [...getComputedStyle(element)].filter(name => !name.startsWith('--p-')).map(
        name => `${name}: ${getComputedStyle(element).getPropertyValue(name)}`);
    const foreign = ['html', 'body', '#graph-canvas', 'textarea.comfy-multiline-input', 'button', 'svg', 'h1, p, span'];
    return {
        sheets: [...document.styleSheets, ...document.adoptedStyleSheets].filter(sheet => !host(sheet)).map(
            sheet => [...sheet.cssRules].map(rule => rule.cssText).join(' ')),
        looks: foreign.map(each => [each, document.querySelector(each)]).filter(each => each[1]).map(
            ([name, element]) => [name, ...all(element)]),
        globals: Object.keys(window),
    };
}"""


def test_the_page_looks_as_it_does_without_us(shown):
    """Style sheets, the computed style of the page's own elements, and global names, with our files and without.

    The variables of the page's theme are left out: it adds those of a button, say, when it first shows one.
    """
    found = []
    for blocked in (True, False):
        page = shown.context.new_page()
        if blocked:
            page.route(f"**{OURS}**/*.js", lambda route: route.abort())
        page.goto(shown.url)
        browser.ready(page)
        nodes, links = panels.erasing("cat")
        panels.put(page, ([("CLIPTextEncode", (-500, 0), {}), *nodes], []))
        assert page.locator("[data-esd-live]").count() == (not blocked)
        found.append(page.evaluate(LOOKS))
        page.close()
    without, ours_too = found
    assert len(without["looks"]) >= 5 and without["sheets"]
    assert sorted(ours_too["sheets"]) == sorted(without["sheets"])
    assert [each[0] for each in ours_too["looks"]] == [each[0] for each in without["looks"]]
    for mine, plain in zip(ours_too["looks"], without["looks"], strict=True):
        assert (mine[0], set(mine) ^ set(plain)) == (plain[0], set())
    assert set(ours_too["globals"]) - set(without["globals"]) == set()


ORDERS = """async ours => {
    const {Runs} = await import(`${ours}live/runs.js`);
    const run = (id, losses, more) => ({id, node: '1', losses, previews: [], state: 'running', workflow: '', ...more});
    const seen = [];
    let answers = [];
    const runs = new Runs(() => new Promise(done => answers.push(done)), () => {});
    const first = runs.refresh();
    runs.refresh();  // asked while asking: asked once more
    runs.receive(run('a', [1, 2, 3], {first: 0, state: 'finished'}));
    answers.shift()([run('a', [1, 2])]);  // an answer from before the message
    await new Promise(done => setTimeout(done));
    seen.push(runs.of(['1'], '').state, runs.of(['1'], '').losses.length, answers.length);
    answers.shift()([run('a', [1, 2, 3], {state: 'finished'}), run('b', [1], {node: '7:1'})]);
    await first;
    seen.push(runs.of(['7:1'], '').id, runs.of(['1', '7:1'], '').id);
    runs.away();
    seen.push(runs.of(['7:1'], '').away, runs.of(['1'], '').away);
    const back = runs.refresh();
    answers.shift()([]);  // another server process: it knows of nothing
    await back;
    seen.push(runs.of(['7:1'], '').state, runs.of(['1'], '').state);
    return seen;
}"""


def test_whatever_order_messages_and_answers_come_in(shown):
    seen = shown.evaluate(ORDERS, OURS)
    assert [bool(each) if each in (None, False) else each for each in seen] == [
        *("finished", 3, 1),
        *("b", "b", True, False),
        *("lost", "finished"),
    ]
    record("answers of the server that cross its messages, a lost and a new server", 4, "the newest state is shown")


def test_the_server_dies_in_a_run_and_the_page_stays(shown, own):
    (node,) = panels.put(shown, panels.erasing("fox", snapshot_every=5, start="reuse or resume"))
    shown.evaluate("() => void app.queuePrompt(0, 1)")
    panels.at_step(shown, node, 12)
    own.kill()
    panels.wait_for(shown, node, "server disconnected")
    assert not panels.can_finish(shown, node)
    own.start()
    panels.wait_for(shown, node, "interrupted: the server was restarted")
    assert "resume from the last snapshot" in panels.text(shown, node) and not panels.can_finish(shown, node)
    assert panels.points(shown, node) >= 12
    assert [each.inner_text() for each in shown.get_by_role("dialog").all() if each.is_visible()] == []
    shown.evaluate("() => void app.queuePrompt(0, 1)")
    panels.wait_for(shown, node, "resumed after step ")
    resumed = int(re.search(r"resumed after step (\d+)", panels.text(shown, node))[1])
    assert resumed >= 10 and resumed % 5 == 0
    panels.at_step(shown, node, resumed + 1)
    panels.finish(shown, node)
    panels.wait_for(shown, node, "finished early")
    assert panels.points(shown, node) == panels.step(shown, node) > resumed
    record(
        "server killed in a run with the page open, and started again", 1, "told in words, gone on from the snapshot"
    )
