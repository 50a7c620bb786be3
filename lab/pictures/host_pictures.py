"""Draw drawn-by-the-host.png with the stock nodes in a real server: `python lab/pictures/host_pictures.py`."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from lab.launch import base  # noqa: E402
from lab.launch.server import Server  # noqa: E402
from lab.paths import OWN_HOST  # noqa: E402

TARGET = ROOT / "lab" / "playground" / "drawn-by-the-host.png"
ROWS = (
    "cat",
    "cat in ink style",
    "dog in noto style on a blue background",
    "face wearing a cowboy hat in fluent style",
    "rocket in sepia style",
    "ghost",
)
EACH, SIDE, LARGER = 8, 64, 2
SAMPLING = {"steps": 20, "cfg": 3.0, "sampler_name": "ddim", "scheduler": "ddim_uniform", "denoise": 1.0}


def prompt_for(words: str) -> dict[str, Any]:
    """A prompt of stock nodes alone, for one row."""
    nodes = {
        "load": ("CheckpointLoaderSimple", {"ckpt_name": base.CHECKPOINT}),
        "asked": ("CLIPTextEncode", {"clip": ["load", 1], "text": words}),
        "empty": ("CLIPTextEncode", {"clip": ["load", 1], "text": ""}),
        "latents": ("EmptyLatentImage", {"width": SIDE, "height": SIDE, "batch_size": EACH}),
        "drawn": (
            "KSampler",
            {"model": ["load", 0], "positive": ["asked", 0], "negative": ["empty", 0], "latent_image": ["latents", 0]}
            | {"seed": 1, **SAMPLING},
        ),
        "pictures": ("VAEDecode", {"samples": ["drawn", 0], "vae": ["load", 2]}),
        "save": ("SaveImage", {"images": ["pictures", 0], "filename_prefix": "row"}),
    }
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def main() -> None:
    """Draw the rows and write the sheet."""
    host = Path(os.environ.get("COMFYUI_PATH") or OWN_HOST).resolve()
    sheet = Image.new("RGB", (EACH * SIDE, len(ROWS) * SIDE))
    with tempfile.TemporaryDirectory() as folder, Server(host, Path(folder), arguments=["--cpu"]) as server:
        server.wait()
        for row, words in enumerate(ROWS):
            files = server.run(prompt_for(words)).outputs["save"]["images"]
            for column, file in enumerate(files):
                sheet.paste(Image.open(io.BytesIO(server.view(file))), (column * SIDE, row * SIDE))
    sheet.resize((sheet.width * LARGER, sheet.height * LARGER), Image.Resampling.NEAREST).save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
