"""Make the pictures of the shipped workflows by running them: `python lab/pictures/workflow_pictures.py`.

Each workflow runs on a real server as it ships, and the last picture that it saves becomes the .jpg beside it, which
Browse Templates shows. Nodes that wait muted for the files of the first run are then run too.
Names on the command line choose workflows; without any, all are run.
Those for large models, which cannot run here, show their graph instead.  The slider is shown as the page draws it, and
needs a ComfyUI that has it: COMFYUI_PATH, and that ComfyUI's Python.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from graph_picture import graph_picture  # noqa: E402
from help_pictures import save  # noqa: E402

from lab.launch.server import Server  # noqa: E402
from lab.launch.workflow import LARGE, MUTED, to_prompt  # noqa: E402
from lab.paths import OWN_HOST  # noqa: E402
from support import browser  # noqa: E402

FOLDER = ROOT / "workflows"
SLIDER = "ImageCompare"
WIDEST, LARGEST = 1200, 100_000


def phases(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """The workflow as it ships, and where nodes of it are muted, the same with all of them awake."""
    awake = {**workflow, "nodes": [{**node, "mode": 0} for node in workflow["nodes"]]}
    muted = any(node["mode"] == MUTED for node in workflow["nodes"])
    return [workflow, awake] if muted else [workflow]


def result(server: Server, workflow: dict[str, Any]) -> bytes:
    """Run a workflow; the last picture that it saves."""
    pictures = []
    for phase in phases(workflow):
        prompt = to_prompt(phase, server.get("/object_info"))
        run = server.run(prompt)
        savers = sorted((n for n, node in prompt.items() if node["class_type"] == "SaveImage"), key=int)
        pictures += [image for saver in savers for image in run.outputs[saver]["images"]]
    return server.view(pictures[-1])


def slider(server: Server, workflow: dict[str, Any]) -> bytes:
    """Run a workflow in the page; its slider over two pictures."""
    (node,) = [node for node in workflow["nodes"] if node["type"] == SLIDER]
    with browser.page_at(server.url, (1900, 1300)) as page:
        browser.set_renderer(page, True)
        browser.load(page, workflow)
        browser.press_run(page)
        drawn = page.locator(f'[data-node-id="{node["id"]}"]')
        drawn.locator("img").first.wait_for(timeout=300_000)
        page.evaluate("id => window.app.canvas.centerOnNode(window.app.graph.getNodeById(id))", node["id"])
        page.wait_for_timeout(2000)
        return bytes(drawn.screenshot())


def made(server: Server, name: str, workflow: dict[str, Any]) -> bytes:
    """Make the picture of a workflow, by its kind."""
    if name in LARGE:
        return graph_picture(workflow)
    return (slider if any(node["type"] == SLIDER for node in workflow["nodes"]) else result)(server, workflow)


def main(names: list[str]) -> None:
    """Run the named workflows, or all."""
    host = Path(os.environ.get("COMFYUI_PATH") or OWN_HOST).resolve()
    with tempfile.TemporaryDirectory() as folder, Server(host, Path(folder), arguments=["--cpu"]) as server:
        server.wait()
        for name in names or sorted(path.stem for path in FOLDER.glob("*.json")):
            start = time.monotonic()
            workflow = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
            picture = made(server, name, workflow)
            path = save(picture, FOLDER / f"{name}.jpg", WIDEST, LARGEST)
            size, seconds = path.stat().st_size, time.monotonic() - start
            sys.stdout.write(f"{path.relative_to(ROOT)}: {size} bytes, {seconds:.0f} s\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
