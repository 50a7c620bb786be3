"""The Erase node's live panel in the real page: it follows the run, survives a reload, and its button ends the run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from uuid import uuid4

import pytest

from lab.launch.base import PACK
from support import browser

ROOT = Path(__file__).resolve().parents[2]


def workflow(steps: int) -> dict:
    """Load, Concept, Erase and what keeps the graph alive, with many steps."""
    made = json.loads((ROOT / "workflows" / "erase_an_object.json").read_text("utf-8"))
    made["id"] = str(uuid4())  # a graph of its own: the panel shows what this node of this workflow ran before
    for node in made["nodes"]:
        if node["type"] == "ESDLoadModel":  # the stock loader: what other tests expect of ours is not done before them
            node["type"] = "CheckpointLoaderSimple"
        elif node["type"] == "ESDErase":
            node["widgets_values"] = ["esd-x-strict", steps, 1e-5, 1.0, steps, 4, 0, "start over"]
        elif node["type"] == "ESDConcept":
            node["widgets_values"][:2] = "sunglasses", "face"  # not named there, so that it takes steps
        elif node["type"] == "ESDBeforeAfter":
            node["widgets_values"][0], node["widgets_values"][2] = "cat", 1
    return made


def line(page) -> str:
    return page.locator("[data-esd-line]").first.inner_text()


def at_step(page, least: int) -> None:
    page.wait_for_function(
        "n => Number(document.querySelector('[data-esd-line]')?.textContent.match(/step (\\d+)/)?.[1]) >= n",
        arg=least,
        timeout=120000,
    )


FINISH = "() => window.app.extensionManager.command.execute('ESD.FinishNow')"


@pytest.mark.parametrize("vue", [False, pytest.param(True, marks=pytest.mark.full)], ids=["canvas", "vue"])
def test_followed_reloaded_and_finished(page, host, vue):
    browser.set_renderer(page, vue)
    browser.load(page, workflow(3000 + vue))
    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(1500)
    assert line(page) == "not trained yet"
    browser.press_run(page)
    at_step(page, 5)
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.reload()
    browser.ready(page)
    at_step(page, 10)
    assert [words for words in said if "Unknown message" in words] == []
    drawn = page.evaluate("""() => [...document.querySelectorAll('[data-esd-live] path')].map(
        path => path.getAttribute('d').split('M').length - 1)""")
    left = page.evaluate("() => document.querySelector('[data-esd-left]').textContent")
    assert re.fullmatch(r"face: \d+ % left", left), left
    assert drawn[0] >= 10 and drawn[1:] == [1, 1]  # a point a step, the mean, and where the run is
    if vue:
        page.evaluate(FINISH)
    else:
        page.get_by_role("button", name="Finish now").click()
    page.wait_for_function(
        "() => document.querySelector('[data-esd-live]').textContent.includes('finished early')", timeout=120000
    )
    assert page.get_by_role("button", name="Finish now").is_disabled()
    assert page.errors == []
    runs = host.get("/esd/runs")["runs"]
    assert runs[-1]["state"] == "finished" and 10 <= runs[-1]["step"] < 3000
    browser.set_renderer(page, False)
    prompt = browser.as_prompt(page)
    assert not any("live" in node["inputs"] for node in prompt.values())


def notes(page, words):
    """The messages in the corner that say so."""
    return page.locator("[data-testid=toast], .p-toast-message").filter(has_text=words)


TELL = """async ([ours, run, before]) => (await import(`${ours}notice.js`)).tellOfEnd(run, before)"""


@pytest.mark.full
def test_the_end_of_a_long_run_is_told(page):
    """Finished or failed after more than a minute; neither short nor cancelled nor old ones."""
    run = {"state": "finished", "seconds": 200, "step": 7, "total": 9, "message": "<b>words</b>"}
    on, ours = {"state": "running"}, f"/extensions/{PACK}/"
    quiet = [({**run, "seconds": 59}, on), ({**run, "state": "stopped"}, on), (run, None), (run, run)]
    for each, before in [*quiet, (run, on), ({**run, "state": "failed"}, on)]:
        page.evaluate(TELL, [ours, each, before])
    for state in ("finished", "failed"):
        notes(page, f"{state} at step 7 of 9, after 3 min. <b>words</b>").wait_for()
    assert notes(page, "ESD Erase Concept").count() == 2


@pytest.mark.full
def test_nothing_to_finish_is_said(page):
    page.route("**/esd/runs", lambda route: route.fulfill(json={"runs": []}))
    page.reload()
    browser.ready(page)
    page.evaluate(FINISH)
    notes(page, "There is no run to finish.").wait_for()
