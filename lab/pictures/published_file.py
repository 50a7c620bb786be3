"""Make the published-style file of the workflow open_a_published_file: `python lab/pictures/published_file.py`.

It runs the workflow erase_an_object in a real server, saves the erasure in the official format, and writes it anew as
the files of the authors' demo are: a PyTorch file of absolute values of text attention, nested by module. Values are
fp16 and the file is deflated, as the playground's own is: its many zeros then take no room.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from lab.launch import base  # noqa: E402
from lab.launch.server import Server  # noqa: E402
from lab.launch.workflow import nodes_of, to_prompt, upstream  # noqa: E402
from lab.paths import OWN_HOST  # noqa: E402

WORKFLOW = ROOT / "workflows" / "erase_an_object.json"


def official(server: Server) -> Path:
    """The erasure of the workflow in the official format."""
    prompt = to_prompt(json.loads(WORKFLOW.read_text("utf-8")), server.get("/object_info"))
    erase = nodes_of(prompt, "ESDErase")[0]
    prompt = upstream(prompt, erase)
    links = {"weights": [erase, 1], "model": prompt[erase]["inputs"]["model"]}
    prompt["save"] = {
        "class_type": "ESDSaveErasure",
        "inputs": {**links, "filename_prefix": "esd/published", "format": "official", "rank": 0, "energy": 0.99},
    }
    return server.path_of(server.run(prompt).outputs["save"]["esd_files"][0])


def nested(flat: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors by module and parameter, in half precision."""
    tree: dict[str, dict[str, Any]] = {}
    for name, tensor in flat.items():
        module, _, parameter = name.rpartition(".")
        tree.setdefault(f"unet.{module}", {})[parameter] = tensor.half()
    return tree


def squeeze(path: Path) -> None:
    """Deflate a PyTorch file in place; records keep fixed dates, so that equal weights give equal bytes."""
    squeezed = path.with_suffix(".new")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(squeezed, "w") as target:
        for record in source.infolist():
            plain = zipfile.ZipInfo(record.filename)
            target.writestr(plain, source.read(record), zipfile.ZIP_DEFLATED, 9)
    squeezed.replace(path)


def main() -> None:
    """Train, save, and write the file."""
    host = Path(os.environ.get("COMFYUI_PATH") or OWN_HOST).resolve()
    target = ROOT / "workflows" / "models" / base.PUBLISHED
    with tempfile.TemporaryDirectory() as folder:
        with Server(host, Path(folder), arguments=["--cpu"]) as server:
            weights = load_file(official(server.wait()))
        made = Path(folder) / target.name
        torch.save(nested(weights), made)
        squeeze(made)
        target.write_bytes(made.read_bytes())
    sys.stdout.write(f"{target.relative_to(ROOT)}: {len(weights)} tensors, {target.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
