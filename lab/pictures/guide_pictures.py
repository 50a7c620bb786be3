"""Take the pictures of docs/zero-to-erased-sd15.md in the host's own page, with the playground.

`python lab/pictures/guide_pictures.py` takes all; names on the command line choose graphs.  Each is put on the canvas
of a real server and run there; "graph" gives three pictures: before, in the middle of, and after its run.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from help_pictures import BARE, MARGIN, PLACE, QUEUE, TITLE, save  # noqa: E402
from playwright.sync_api import Page  # noqa: E402

from lab.launch import base  # noqa: E402
from lab.launch.server import Server  # noqa: E402
from lab.paths import OWN_HOST  # noqa: E402
from support import browser  # noqa: E402
from support.page_graphs import MAKE, SAMPLING, Graph, Node  # noqa: E402

FOLDER = ROOT / "docs" / "pictures"
LONGEST = 900
"""Seconds that a run may take."""

LOAD: Node = ("ESDLoadModel", (0, 0), {"ckpt_name": base.CHECKPOINT})
CONCEPT: Node = ("ESDConcept", (0, 210), {"concept": "cat"})
SMALL: Node = ("ESDEraseSettings", (0, 430), {"width": 64, "height": 64, "size": (300, 470)})
ERASE: Node = ("ESDErase", (370, 0), {"preview_every": 20, "size": (400, 820)})
TRAINING = [(0, "MODEL", 3, "model"), (0, "CLIP", 3, "clip"), (1, "concepts", 3, "concepts")]
TRAINING += [(2, "settings", 3, "settings"), (0, "VAE", 3, "vae")]
PROMPTS = "cat\ncat\ncat in ink style\ndog\nfox\nghost"
SHOWN: Node = ("ESDBeforeAfter", (840, 0), {**SAMPLING, "prompts": PROMPTS, "size": (340, 420)})
PICTURE: Node = ("SaveImage", (1250, 0), {"filename_prefix": "esd/before_after", "size": (640, 420)})
COMPARING = [
    (0, "MODEL", 4, "model_before"),
    (0, "CLIP", 4, "clip"),
    (0, "VAE", 4, "vae"),
    (4, "comparison", 5, "images"),
]

WHOLE: Graph = (
    [LOAD, CONCEPT, SMALL, ERASE, SHOWN, PICTURE, ("ESDSaveErasure", (840, 490), {"size": (340, 180)})],
    [*TRAINING, *COMPARING, (3, "MODEL", 4, "model_after"), (3, "weights", 6, "weights")],
)
GRAPHS: dict[str, Graph] = {
    "draw": (
        [
            ("CheckpointLoaderSimple", (0, 0), {"ckpt_name": base.CHECKPOINT}),
            ("CLIPTextEncode", (370, 0), {"text": "cat", "size": (300, 110)}),
            ("CLIPTextEncode", (370, 160), {"text": "", "size": (300, 110)}),
            ("EmptyLatentImage", (0, 170), {"width": 64, "height": 64, "batch_size": 4}),
            ("KSampler", (740, 0), {k: v for k, v in SAMPLING.items() if k not in ("width", "height")}),
            ("VAEDecode", (1110, 0), {"size": (200, 60)}),
            ("SaveImage", (1110, 110), {"size": (320, 330)}),
        ],
        [
            (0, "MODEL", 4, "model"),
            (0, "CLIP", 1, "clip"),
            (0, "CLIP", 2, "clip"),
            (1, "CONDITIONING", 4, "positive"),
            (2, "CONDITIONING", 4, "negative"),
            (3, "LATENT", 4, "latent_image"),
            (4, "LATENT", 5, "samples"),
            (0, "VAE", 5, "vae"),
            (5, "IMAGE", 6, "images"),
        ],
    ),
    "graph": WHOLE,
    "tune": (
        [
            *(LOAD, CONCEPT, SMALL, ERASE),
            ("ESDBeforeAfter", (840, 170), {**SHOWN[2], "size": (340, 420)}),
            PICTURE,
            ("ESDApply", (840, 0), {"strength": 0.6}),
        ],
        [
            *TRAINING,
            *COMPARING,
            (0, "MODEL", 6, "model"),
            (3, "weights", 6, "weights"),
            (6, "MODEL", 4, "model_after"),
        ],
    ),
    "keep": (
        [LOAD, CONCEPT, SMALL, ERASE, ("ESDSaveErasure", (840, 0), {}), ("ESDSaveCheckpoint", (840, 270), {})],
        [
            *TRAINING,
            (3, "weights", 4, "weights"),
            (3, "MODEL", 5, "model"),
            (3, "weights", 5, "weights"),
            (0, "CLIP", 5, "clip"),
            (0, "VAE", 5, "vae"),
        ],
    ),
}
AFTER = ("run", "look")
"""The whole graph again, in the middle of its run and after it."""


def photograph(page: Page, name: str) -> Path:
    """Save what the page shows of the graph that is open."""
    clip = page.evaluate(PLACE, [MARGIN, TITLE])
    page.wait_for_timeout(1500)
    return save(page.screenshot(clip=clip), FOLDER / f"{name}.jpg")


def take(page: Page, name: str) -> Path:
    """Bring the page to a step of the guide, and photograph it."""
    if name not in AFTER:
        page.evaluate(MAKE, list(GRAPHS[name]))
        page.wait_for_timeout(1000)
    if name == "run":
        page.evaluate(QUEUE)
        page.wait_for_function(r"/step [4-9]\d \/ 300/.test(document.body.innerText)", timeout=1000 * LONGEST)
    elif name != "graph":
        finished(page, queue=name != "look")
    return photograph(page, name)


def finished(page: Page, queue: bool) -> None:
    """Queue the graph where it is not running already, and wait until nothing is."""
    if queue:
        page.evaluate(QUEUE)
        page.wait_for_timeout(1500)
    left = "async () => (await (await fetch('/prompt')).json()).exec_info.queue_remaining"
    until = time.monotonic() + LONGEST
    while page.evaluate(left):
        assert time.monotonic() < until, f"the graph ran for {LONGEST} seconds"
        page.wait_for_timeout(1000)
    page.wait_for_timeout(1500)
    kinds: Any = page.evaluate("window.app.graph.nodes.filter(n => n.type === 'SaveImage').map(n => n.id)")
    for node in kinds:
        browser.wait_image(page, node)


def main(names: list[str]) -> None:
    """Take the pictures of the named steps, or of all."""
    host = Path(os.environ.get("COMFYUI_PATH") or OWN_HOST).resolve()
    with tempfile.TemporaryDirectory() as folder, Server(host, Path(folder), arguments=["--cpu"]) as server:
        server.wait()
        for first in [name for name in names or GRAPHS if name not in AFTER]:
            with browser.page_at(server.url, (2200, 1250)) as page:  # anew: a node shows what its number last showed
                page.add_style_tag(content=BARE)
                for name in (first, *(AFTER if first == "graph" else ())):
                    path = take(page, name)
                    sys.stdout.write(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes\n")
                    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
