"""Drive the host's page in Chromium, with Playwright."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Error, Page, sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # proves that nothing else is needed
]
INIT = """
localStorage.setItem('vueNodesBannerDismissed', 'true');
localStorage.setItem('comfy.vueNodesMigration.dismissed', 'true');
"""

RENDERER = "Comfy.VueNodes.Enabled"
"""The setting that tests switch; the server keeps it, so each page puts it back for the next one."""

MORE = ("[data-testid=error-overlay-see-errors]", "[data-testid^=error-group] button:has([class*=--info])")
"""Buttons to the panel of errors, and to an error's own words in it."""


@contextlib.contextmanager
def page_at(url: str, size: tuple[int, int] = (1600, 1000)) -> Iterator[Page]:
    """The page at an address, ready; `page.errors` collects the exceptions that its scripts throw."""
    with sync_playwright() as playwright:
        home = {"HOME": tempfile.gettempdir()}  # it would write settings there
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=FLAGS, env={**os.environ, **home}
        )
        context = browser.new_context(viewport={"width": size[0], "height": size[1]})
        context.add_init_script(INIT)
        page: Any = context.new_page()
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(url)
        ready(page)
        renderer = page.evaluate("name => window.app.extensionManager.setting.get(name)", RENDERER)
        yield page
        with contextlib.suppress(Error):  # the server may be gone
            set_renderer(page, renderer)
        browser.close()


def set_renderer(page: Page, vue: bool) -> None:
    """Draw nodes as Nodes 2.0 does, or on the canvas."""
    page.evaluate("([name, on]) => window.app.extensionManager.setting.set(name, on)", [RENDERER, vue])


def ready(page: Page) -> None:
    """Wait until the app is set up: its extensions ran, and the first workflow's tab is there."""
    page.wait_for_function(
        "window.app?.extensionManager && !window.app.extensionManager.spinner"
        " && window.app.graph && document.querySelector('#graph-canvas')"
        " && window.app.extensionManager.workflow?.activeWorkflow",
        timeout=120000,
    )
    settled(page)


def settled(page: Page) -> None:
    """Wait for the blocking mask to fade: after start-up, and after a drop."""
    page.wait_for_function("!document.querySelector('.p-blockui-mask')")


def load(page: Page, workflow: dict[str, Any]) -> None:
    """Open a UI-format workflow."""
    page.evaluate("async w => { await window.app.loadGraphData(w) }", workflow)
    page.wait_for_function("n => window.app.graph.nodes.length === n", arg=len(workflow["nodes"]))


def as_prompt(page: Page) -> dict[str, Any]:
    """The API prompt that the page would queue for the open workflow."""
    return dict(page.evaluate("async () => (await window.app.graphToPrompt()).output"))


def press_run(page: Page) -> None:
    """Press the Run button; the test id is on it, or on what is around it."""
    page.locator("button[data-testid=queue-button], [data-testid=queue-button] button").first.click()


def failure(page: Page, words: str, seconds: int = 120) -> str:
    """What the page says of a prompt that failed, in a dialog or in its panel of errors, once these words are in it."""
    said = ""
    for _ in range(2 * seconds):
        for more in (
            "[data-testid=error-overlay-see-errors]",
            "[data-testid^=error-group] button:has([class*=--info])",
        ):
            if page.locator(more).count() and words not in said:
                page.locator(more).first.click()
        page.wait_for_timeout(500)
        said = "\n".join(page.locator(".p-dialog, [data-testid^=error-group]").all_inner_texts())
        if words in said:
            break
    return said


def wait_image(page: Page, node_id: int, seconds: float = 120) -> list[Any]:
    """Wait until the node shows a loaded picture: its width, height and address."""
    shown = page.wait_for_function(
        "id => { const i = window.app.graph.getNodeById(id)?.imgs?.[0];"
        " return i?.complete && i.naturalWidth ? [i.naturalWidth, i.naturalHeight, i.src] : null }",
        arg=node_id,
        timeout=seconds * 1000,
    )
    return list(shown.json_value())


def open_file(page: Page, path: Path) -> None:
    """Open a workflow JSON, or a picture that carries a workflow, as the Open command does."""
    page.locator("#comfy-file-input").set_input_files(path)


def search_node(page: Page, text: str, at: tuple[int, int] = (300, 800)) -> list[str]:
    """Double-click an empty place of the canvas and type: the names that the search offers."""
    page.mouse.dblclick(*at)
    box = page.locator(".comfy-vue-node-search-container input, input[aria-controls=results-list]")
    box.wait_for()
    box.fill(text)
    options = page.locator(
        ".p-autocomplete-list .p-autocomplete-option, .comfy-autocomplete-list li, #results-list [role=option]"
    )
    options.first.wait_for()
    page.wait_for_timeout(500)  # the list follows the text
    return options.all_inner_texts()


def click_tab(page: Page, back: int) -> None:
    """Go to the workflow whose tab is so many before the last one."""
    tabs = page.locator(".workflow-tab")
    tabs.nth(tabs.count() - 1 - back).click()
    page.mouse.move(700, 500)  # or a preview of the tab opens


def open_template(page: Page, pack: str, workflow: str) -> Any:
    """Open Browse Templates at the pack's category; the card of the workflow."""
    page.get_by_role("button", name="Templates").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text(pack, exact=True).first.click()
    card = dialog.get_by_text(workflow, exact=True).first
    card.wait_for()
    return card
