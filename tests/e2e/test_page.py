"""Every shipped workflow in the host's own page, in a real browser: opened from Browse Templates, and run."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lab.launch.base import PACK
from lab.launch.workflow import LARGE, missing_nodes, to_prompt
from support import browser

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / ".run" / "screenshots"
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
SHORT = {
    "ESDErase": {"steps": 3, "preview_every": 3, "start": "start over"},
    "ESDBeforeAfter": {"steps": 2},
    "ESDEvaluate": {"samples": 1, "steps": 2},
}
"""What the workflows are cut to: what they teach is for the benches, here every node of theirs must do its work."""

NOISE = ("user.css", "userdata", "subgraphs", "templates", "Content Security Policy", "reading 'id'")
"""What the page says on its console with no workflow open as well."""

WATCH = """() => {
    window.ended = [];
    for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
        window.comfyAPI.api.api.addEventListener(kind, event => window.ended.push({kind, ...event.detail}));
}"""
SHORTEN = """short => {
    for (const node of window.app.graph.nodes)
        for (const [name, value] of Object.entries(short[node.type] ?? {}))
            node.widgets.find(widget => widget.name === name).value = value;
}"""
FAULTS = """() => {
    const notes = ['Note', 'MarkdownNote'];
    const {nodes, links} = window.app.graph;
    const lost = nodes.filter(n => n.has_errors || !(n.constructor.nodeData || notes.includes(n.type)));
    const red = [...links.values()].filter(link => {
        const from = window.app.graph.getNodeById(link.origin_id), to = window.app.graph.getNodeById(link.target_id);
        return ![from?.outputs[link.origin_slot]?.type, '*'].includes(to?.inputs[link.target_slot]?.type)
            || to.inputs[link.target_slot].link !== link.id;
    });
    return [...lost.map(n => n.type), ...red.map(l => `link ${l.id}`), ...Object.keys(window.app.lastNodeErrors ?? {}),
            ...[...document.querySelectorAll('[role=dialog], .p-toast-message-warn, .p-toast-message-error')]
                .map(e => e.innerText)];
}"""
BOXES = """() => window.app.graph.nodes.map(n => {
    const least = n.computeSize();
    return {title: `${n.id} ${n.type}`, left: n.pos[0], top: n.pos[1] - 30,
            right: n.pos[0] + Math.max(n.size[0], least[0]), bottom: n.pos[1] + Math.max(n.size[1], least[1])};
})"""
SAID = """type => window.app.graph.nodes.filter(n => n.type === type)
    .map(n => n.widgets.find(w => w.name === 'said')?.element.textContent ?? '')"""
THUMBNAIL = """(card, width) => {
    while (card && !card.querySelector('img')) card = card.parentElement;
    const picture = card?.querySelector('img');
    return card?.querySelectorAll('img').length === 1 && picture.complete && picture.naturalWidth === width;
}"""


@pytest.fixture(scope="module")
def one_page(host: Any) -> Iterator[Any]:
    """One page for all workflows, which watches how prompts end and what the console says."""
    if not shutil.which("chromium"):
        pytest.skip("chromium is not installed")
    host.post("/free", {"free_memory": True})  # what other tests have run is not to come from the cache
    with browser.page_at(host.url, (1400, 800)) as page:
        page.set_default_timeout(120000)
        page.complaints = []
        page.on(
            "console",
            lambda said: (
                page.complaints.append(f"{said.text} {said.location.get('url')}") if said.type == "error" else None
            ),
        )
        page.evaluate(WATCH)
        yield page


@pytest.fixture
def shared(one_page: Any) -> Any:
    """That page, with no complaint of the test before."""
    one_page.errors.clear()
    one_page.complaints.clear()
    return one_page


def from_templates(page: Any, name: str) -> None:
    """Open a workflow by clicking its card in Browse Templates; the card shows its picture."""
    nodes = len(json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8"))["nodes"])
    card = browser.open_template(page, PACK, name)
    with Image.open(ROOT / "workflows" / f"{name}.jpg") as picture:
        deadline = time.monotonic() + 120
        while not card.evaluate(THUMBNAIL, picture.width):  # which finds the card anew: the page may have redrawn it
            assert time.monotonic() < deadline, name
            card.scroll_into_view_if_needed()  # cards laid out above push it away: unseen it is not loaded
            page.wait_for_timeout(250)
    card.click()
    page.wait_for_function(
        "n => window.app.graph.nodes.length === n && !document.querySelector('[role=dialog]')", arg=nodes
    )
    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(1000)  # the view glides there


def run(page: Any) -> None:
    """Press Run and wait for the end; the prompt must succeed."""
    before = page.evaluate("() => window.ended.length")
    browser.press_run(page)
    page.wait_for_function(
        "n => window.ended.length > n || document.querySelector('[role=dialog]')", arg=before, timeout=300000
    )
    assert page.evaluate(FAULTS) == []
    assert page.evaluate("() => window.ended.at(-1)")["kind"] == "execution_success"


def complaints(page: Any) -> list[str]:
    """What the page's scripts threw or put on the console as an error."""
    return page.errors + [said for said in page.complaints if not any(noise in said for noise in NOISE)]


def tiered(paths):
    """One workflow in the quick tier, all of them in the full one."""
    return [path if path.stem == "erase_an_object" else pytest.param(path, marks=pytest.mark.full) for path in paths]


RUNNABLE = [path for path in WORKFLOWS if path.stem not in LARGE]


@pytest.mark.parametrize("path", tiered(RUNNABLE), ids=lambda path: path.stem)
def test_opens_from_browse_templates_and_runs(shared, object_info, path):
    """Opened by clicking, converted as ours is, no node covers another, run to its end, pictures shown."""
    workflow = json.loads(path.read_text("utf-8"))
    if lacking := missing_nodes(workflow, object_info):
        pytest.skip(f"this host lacks {', '.join(lacking)}")
    from_templates(shared, path.stem)
    assert shared.evaluate(FAULTS) == []
    shown = {number: as_described(node, object_info) for number, node in browser.as_prompt(shared).items()}
    assert shown == to_prompt(workflow, object_info)
    boxes = shared.evaluate(BOXES)
    assert covered(boxes) == [], boxes
    shared.evaluate(SHORTEN, SHORT)
    run(shared)
    for number, node in shown.items():
        if node["class_type"] in ("SaveImage", "PreviewImage"):
            assert browser.wait_image(shared, int(number))
    for kind, words in {"ESDSaveErasure": "Saved", "ESDSaveCheckpoint": "Saved", "ESDLoadErasure": "tensors"}.items():
        assert [said for said in shared.evaluate(SAID, kind) if words not in said] == []
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    shared.screenshot(path=SCREENSHOTS / f"{path.stem}.png")
    assert complaints(shared) == []


def as_described(node: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """A node of the page's prompt, without its title and what the page alone adds (Preview Any's own fields)."""
    groups = object_info[node["class_type"]]["input"]
    known = {name for group in ("required", "optional") for name in groups.get(group, {})}
    inputs = {name: value for name, value in node["inputs"].items() if name in known}
    return {"class_type": node["class_type"], "inputs": inputs}


def covered(boxes: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Which nodes cover which, as the page lays them out, with each node's own least size."""
    return [
        (a["title"], b["title"])
        for i, a in enumerate(boxes)
        for b in boxes[i + 1 :]
        if a["left"] < b["right"] and b["left"] < a["right"] and a["top"] < b["bottom"] and b["top"] < a["bottom"]
    ]


@pytest.mark.full
def test_saved_files_opened_by_stock_loaders_draw_the_same(shared, host):
    """The muted group of save_in_each_format, awake after a first run: both files give the erased MODEL's pictures."""
    from_templates(shared, "save_in_each_format")
    shared.evaluate(SHORTEN, SHORT)
    run(shared)  # from the host's cache where the test before ran it
    shared.evaluate("() => window.app.refreshComboInNodes()")
    shared.evaluate("() => { for (const node of window.app.graph.nodes) node.mode = 0 }")
    run(shared)
    prompt = browser.as_prompt(shared)
    reopened = [
        n for n, node in prompt.items() if node["class_type"] == "ESDBeforeAfter" and node["inputs"]["difference_gain"]
    ]
    assert len(reopened) == 2
    for node in reopened:
        for slot, name in ((1, "before"), (2, "after")):
            prompt[f"{name}{node}"] = {
                "class_type": "SaveImage",
                "inputs": {"images": [node, slot], "filename_prefix": f"each/{name}{node}"},
            }
    with ThreadPoolExecutor() as beside:  # the browser's own event loop runs in this thread
        outputs = beside.submit(host.run, prompt).result().outputs
    pictures = {name: [host.view(image) for image in outputs[name]["images"]] for name in outputs if name[0] in "ab"}
    for node in reopened:
        assert len(pictures[f"before{node}"]) == len(prompt[node]["inputs"]["prompts"].splitlines())
        assert pictures[f"before{node}"] == pictures[f"after{node}"]


def test_the_node_search_offers_what_is_typed(shared):
    shared.evaluate("() => window.app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    shared.wait_for_function("() => window.app.graph.nodes.length === 0")
    assert browser.search_node(shared, "esd erase concept", (700, 500))[0].startswith("ESD Erase Concept")
    for _ in range(2):  # the words, then the window
        shared.keyboard.press("Escape")


ADDRESS = "/esd-concept-erasure/raw/main/workflows/models/{}"
MISSING = {"checkpoints": "emoji-world.ckpt", "esd": "emoji-world-cat-esd-x.pt"}


@pytest.fixture
def bare(shared, host) -> Iterator[Any]:
    """A page of its own, where no workflow is open, on a host that seems to have none of the playground's files."""
    page = shared.context.browser.new_page()
    page.add_init_script(browser.INIT)
    page.set_default_timeout(120000)
    page.route("**/api/experiment/models/*", lambda route: route.fulfill(json=[]))
    page.route("**/api/models/*", lambda route: route.fulfill(json=[]))
    page.route("**/api/object_info", without_models)
    page.goto(host.url)
    browser.ready(page)
    yield page
    page.close()


def without_models(route: Any) -> None:
    """The descriptions of the nodes, with no such file to choose."""
    answer = route.fetch()
    words = answer.text()
    for name in MISSING.values():
        words = words.replace(json.dumps(name), json.dumps("another.safetensors"))
    route.fulfill(response=answer, body=words)


@pytest.mark.full
def test_a_missing_model_is_named_with_its_folder_and_address(bare):
    """In the page's own window on missing models, or in its panel of errors, where a button copies the address."""
    workflow = json.loads((ROOT / "workflows" / "open_a_published_file.json").read_text("utf-8"))
    bare.evaluate("w => void window.app.loadGraphData(w)", workflow)
    window, details = bare.get_by_role("dialog"), bare.get_by_role("button", name="View details")
    window.get_by_text("Missing Models").or_(details).first.wait_for()
    if window.count():
        for folder, name in MISSING.items():
            window.get_by_text(f"{folder} / {name}").wait_for()
            window.get_by_text(ADDRESS.format(name)).wait_for()
    else:
        details.click()
        assert in_panel(bare) == {name: folder for folder, name in MISSING.items()}


def in_panel(page: Any) -> dict[str, str]:
    """The names in the panel of missing models with the folders below them; their addresses must be right."""
    page.evaluate("() => { window.copied = []; navigator.clipboard.writeText = async text => { copied.push(text) } }")
    group = page.get_by_test_id("error-group-missing-model")
    buttons = group.get_by_role("button", name="Copy URL")
    buttons.first.wait_for()
    for button in buttons.all():
        button.click()
    lines = group.get_by_test_id("missing-model-importable-rows").inner_text().splitlines()
    found = dict(zip(lines[::2], lines[1::2], strict=True))
    copied = page.evaluate("() => window.copied")
    assert [address.endswith(ADDRESS.format(name)) for name, address in zip(found, copied, strict=True)] == [True] * 2
    return found
