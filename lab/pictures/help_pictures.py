"""Take the pictures of the help pages in the host's own page: `python lab/pictures/help_pictures.py`.

Each graph is put on the canvas of a real server, run where it has something to show, and photographed.
Names on the command line choose pages; without any, all are taken.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from PIL import Image  # noqa: E402
from playwright.sync_api import Page  # noqa: E402

from lab.launch import base  # noqa: E402
from lab.launch.server import Server  # noqa: E402
from lab.paths import OWN_HOST  # noqa: E402
from lab.pictures.evaluation_graphs import EVALUATING  # noqa: E402
from support import browser  # noqa: E402
from support.page_graphs import CAT, ERASE, FILE, LINKS, LOAD, MAKE, PLAIN, SAMPLING, STOCK, TRAIN, Graph  # noqa: E402

FOLDER = ROOT / "web" / "docs" / "pictures"
MARGIN, TITLE = 16, 30
WIDEST, LARGEST = 1000, 120_000
GRAPHS: dict[str, Graph] = {
    "ESDLoadModel": ([LOAD, CAT, ERASE], PLAIN),
    "ESDConcept": (
        [
            ("ESDConcept", (0, 0), {"concept": "cat"}),
            ("ESDConcept", (370, 0), {"concept": "sunglasses", "erase_from": "face wearing sunglasses", "weight": 2}),
            ("ESDErase", (740, 0), {}),
        ],
        [(0, "concepts", 1, "previous"), (1, "concepts", 2, "concepts")],
    ),
    "ESDContexts": (
        [
            (
                "ESDContexts",
                (0, 0),
                {
                    "kind": "style",
                    "templates": "a painting of a [carrier] by [concept]",
                    "carriers": "house\nriver\nface",
                    "size": (340, 260),
                },
            ),
            ("ESDConcept", (400, 0), {"concept": "Van Gogh"}),
            ("ESDErase", (770, 0), {}),
        ],
        [(0, "contexts", 1, "contexts"), (1, "concepts", 2, "concepts")],
    ),
    "ESDKeep": (
        [
            ("ESDConcept", (0, 0), {"concept": "cat"}),
            ("ESDKeep", (0, 220), {"prompts": "dog\nfox\ntiger", "size": (300, 170)}),
            ("ESDErase", (370, 0), {}),
        ],
        [(0, "concepts", 2, "concepts"), (1, "keeps", 2, "keep")],
    ),
    "ESDErase": (
        [*TRAIN[:3], ("ESDErase", (370, 0), {"preview_every": 20, "start": "start over", "size": (420, 780)})],
        [*LINKS, (0, "VAE", 3, "vae")],
    ),
    "ESDEraseSettings": (
        [("ESDEraseSettings", (0, 0), {"preset": "paper-2023"}), ("ESDErase", (370, 0), {})],
        [(0, "settings", 1, "settings")],
    ),
    "ESDApply": (
        [
            STOCK,
            CAT,
            ("ESDErase", (370, 0), {}),
            ("ESDApply", (740, 0), {"strength": 0.7}),
            ("KSampler", (1070, 0), {}),
        ],
        [*PLAIN, (0, "MODEL", 3, "model"), (2, "weights", 3, "weights"), (3, "MODEL", 4, "model")],
    ),
    "ESDLoadErasure": (
        [STOCK, ("ESDLoadErasure", (370, 0), {"file": FILE}), ("ESDApply", (780, 0), {"strength": 0.7})],
        [(0, "MODEL", 1, "model"), (0, "MODEL", 2, "model"), (1, "weights", 2, "weights")],
    ),
    "ESDErasureInfo": (
        [
            STOCK,
            ("ESDLoadErasure", (0, 170), {"file": FILE, "size": (300, 200)}),
            ("ESDErasureInfo", (370, 0), {"size": (340, 420)}),
            ("PreviewImage", (770, 0), {"size": (420, 420)}),
        ],
        [(0, "MODEL", 1, "model"), (1, "weights", 2, "weights"), (2, "picture", 3, "images")],
    ),
    "ESDMergeErasures": (
        [
            STOCK,
            ("ESDLoadErasure", (370, 0), {"file": FILE}),
            ("ESDLoadErasure", (370, 260), {"file": FILE}),
            ("ESDMergeErasures", (770, 60), {}),
            ("ESDApply", (1130, 60), {}),
        ],
        [
            *((0, "MODEL", place, "model") for place in (1, 2, 4)),
            (0, "CLIP", 3, "clip"),
            (1, "weights", 3, "weights"),
            (2, "weights", 3, "weights_2"),
            (3, "weights", 4, "weights"),
        ],
    ),
    "ESDSaveCheckpoint": (
        [LOAD, CAT, ERASE, ("ESDSaveCheckpoint", (740, 0), {})],
        [*PLAIN, (2, "MODEL", 3, "model"), (2, "weights", 3, "weights"), (0, "CLIP", 3, "clip"), (0, "VAE", 3, "vae")],
    ),
    "ESDSaveErasure": (
        [LOAD, CAT, ERASE, ("ESDSaveErasure", (740, 0), {})],
        [*PLAIN, (2, "weights", 3, "weights")],
    ),
    "ESDBeforeAfter": (
        [
            STOCK,
            ("ESDLoadErasure", (0, 170), {"file": FILE, "size": (300, 200)}),
            (
                "ESDBeforeAfter",
                (370, 0),
                {**SAMPLING, "prompts": "cat\nghost\ndog", "strengths": "0.5, 1", "size": (340, 520)},
            ),
            ("PreviewImage", (780, 0), {"size": (420, 520)}),
        ],
        [
            (0, "MODEL", 1, "model"),
            (0, "MODEL", 2, "model_before"),
            (0, "CLIP", 2, "clip"),
            (0, "VAE", 2, "vae"),
            (1, "weights", 2, "weights"),
            (2, "comparison", 3, "images"),
        ],
    ),
    **EVALUATING,
}
SHOWN_AFTER_RUNNING = {
    "ESDErasureInfo": 120,
    "ESDBeforeAfter": 180,
    "ESDMeasure": 120,
    "ESDAttack": 600,
    "ESDEvaluate": 300,
}
"""Pages whose graph is run first, and how many seconds that may take."""

PLACE = """([margin, title]) => {
    const boxes = window.app.graph.nodes.map(
        n => [n.pos[0], n.pos[1] - title, n.pos[0] + n.size[0], n.pos[1] + n.size[1]]);
    const [left, top] = [0, 1].map(i => Math.min(...boxes.map(b => b[i])) - margin);
    const [right, bottom] = [2, 3].map(i => Math.max(...boxes.map(b => b[i])) + margin);
    const view = window.app.canvas.ds;
    view.scale = 1;
    view.offset = [90 - left, 110 - top];
    window.app.canvas.deselectAll();
    window.app.canvas.setDirty(true, true);
    return {x: 90, y: 110, width: right - left, height: bottom - top};
}"""
QUEUE = "() => void window.app.queuePrompt(0, 1)"
BARE = ".comfy-menu-hamburger, .actionbar, .minimap-main-container, .p-toast, .selection-toolbox { display: none }"


def prepare(server: Server) -> None:
    """Train once, so that there is an erasure to load."""
    values = {"width": 64, "height": 64}
    defaults = {
        node: {
            name: spec[1]["default"] if "default" in spec[1] else None
            for name, spec in server.get(f"/object_info/{node}")[node]["input"]["required"].items()
            if len(spec) > 1
        }
        for node in ("ESDErase", "ESDEraseSettings", "ESDConcept")
    }
    prompt: dict[str, Any] = {
        "1": {"class_type": "ESDLoadModel", "inputs": {"ckpt_name": base.CHECKPOINT}},
        "2": {"class_type": "ESDConcept", "inputs": {**defaults["ESDConcept"], "concept": "cat"}},
        "3": {"class_type": "ESDEraseSettings", "inputs": {**defaults["ESDEraseSettings"], **values}},
        "4": {
            "class_type": "ESDErase",
            "inputs": {
                **defaults["ESDErase"],
                **ERASE[2],
                **{"model": ["1", 0], "clip": ["1", 1], "concepts": ["2", 0], "settings": ["3", 0]},
            },
        },
        "5": {"class_type": "ESDSaveErasure", "inputs": {"weights": ["4", 1], "filename_prefix": "loras/erasure"}},
    }
    server.run(prompt)


def photograph(page: Page, name: str) -> Path:
    """Put the graph of a help page on the canvas, run it where it shows something, and save its picture."""
    nodes, links = GRAPHS[name]
    page.evaluate(MAKE, [nodes, links])
    page.wait_for_timeout(500)
    if name == "ESDErase":
        _in_the_middle_of_a_run(page)
    elif name in SHOWN_AFTER_RUNNING:
        page.evaluate(QUEUE)
        browser.wait_image(page, page.evaluate("window.app.graph.nodes.at(-1).id"), SHOWN_AFTER_RUNNING[name])
        page.wait_for_timeout(1000)
    clip = page.evaluate(PLACE, [MARGIN, TITLE])
    page.wait_for_timeout(700)
    return save(page.screenshot(clip=clip), FOLDER / f"{name}.jpg")


def _in_the_middle_of_a_run(page: Page) -> None:
    """After the second preview; without a saver the graph would not run."""
    page.evaluate("""() => {
        const save = LiteGraph.createNode('ESDErasureInfo');
        const erase = window.app.graph.nodes.find(node => node.type === 'ESDErase');
        save.pos = [4000, 0];
        window.app.graph.add(save);
        erase.connect(1, save, 0);
    }""")
    page.evaluate(QUEUE)
    page.wait_for_function(r"/step [4-9]\d \/ 300/.test(document.body.innerText)", timeout=600000)
    page.evaluate("""() => {
        const graph = window.app.graph;
        graph.remove(graph.nodes.find(node => node.type === 'ESDErasureInfo'));
    }""")


def save(png: bytes, path: Path, widest: int = WIDEST, largest: int = LARGEST) -> Path:
    """As JPEG of at most so many pixels across and so many bytes."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    if picture.width > widest:
        picture = picture.resize((widest, round(picture.height * widest / picture.width)), Image.Resampling.LANCZOS)
    path.parent.mkdir(parents=True, exist_ok=True)
    for quality in (88, 80, 70, 60):
        picture.save(path, quality=quality, optimize=True)
        if path.stat().st_size <= largest:
            return path
    raise ValueError(f"{path} is larger than {largest} bytes")


def main(names: list[str]) -> None:
    """Take the pictures of the named pages, or of all."""
    host = Path(os.environ.get("COMFYUI_PATH") or OWN_HOST).resolve()
    with tempfile.TemporaryDirectory() as folder, Server(host, Path(folder), arguments=["--cpu"]) as server:
        prepare(server.wait())
        for name in names or GRAPHS:
            with browser.page_at(server.url, (1700, 1100)) as page:  # anew: a node shows what its number last showed
                page.add_style_tag(content=BARE)
                path = photograph(page, name)
                sys.stdout.write(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes\n")
            server.interrupt()


if __name__ == "__main__":
    main(sys.argv[1:])
