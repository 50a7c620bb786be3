"""The base folder of a server: its models, outputs and settings, apart from the ComfyUI tree itself."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path

from lab.paths import OWN_HOST, ROOT

PACK = "esd-concept-erasure"
CHECKPOINT, TRANSFORMER = "emoji-world.ckpt", "emoji-world-sd35.ckpt"
PUBLISHED = "emoji-world-cat-esd-x.pt"
PLAYGROUND = {
    CHECKPOINT: "checkpoints",
    TRANSFORMER: "checkpoints",
    PUBLISHED: "esd",
}  # file -> where in models/ it belongs
DATABASE = "sqlite:///:memory:"
SETTINGS = {"Comfy.TutorialCompleted": True}  # or the page opens a dialog over the canvas on a first visit


def prepare_base(base: Path, host: Path) -> Path:
    """Make the base folder complete: this pack, the playground's files, and the models that `host` already has."""
    for name in ("custom_nodes", "input", "output", "temp", "models/checkpoints", "models/esd", "user/default"):
        (base / name).mkdir(parents=True, exist_ok=True)
    settings = base / "user" / "default" / "comfy.settings.json"
    if not settings.exists():
        settings.write_text(json.dumps(SETTINGS), encoding="utf-8")
    link_folder(ROOT, base / "custom_nodes" / PACK)
    for name, folder in PLAYGROUND.items():
        place_file(ROOT / "workflows" / "models" / name, base / "models" / folder / name)
    _share_models(base, host)
    return base


def place_file(source: Path, target: Path) -> None:
    """Copy a file unless the same one is there already, under a temporary name first."""
    if target.exists() and _size_and_time(target) == _size_and_time(source):
        return
    unfinished = target.with_name(f"{target.name}.{os.getpid()}")
    shutil.copy2(source, unfinished)
    unfinished.replace(target)


def _size_and_time(path: Path) -> tuple[int, float]:
    return path.stat().st_size, path.stat().st_mtime


def link_folder(source: Path, link: Path) -> None:
    """Make `link` show the folder `source`: a symbolic link, on Windows a junction where links are forbidden."""
    if os.path.realpath(link) == os.path.realpath(source):
        return
    if link.is_symlink():
        link.unlink()
    elif os.path.lexists(link):
        with contextlib.suppress(OSError):
            link.rmdir()  # a junction to another place; a folder with something in it stays
        if os.path.lexists(link):
            return
    try:
        link.symlink_to(source, target_is_directory=True)
    except OSError:
        if sys.platform != "win32":
            raise
        import _winapi

        _winapi.CreateJunction(str(source), str(link))


def _share_models(base: Path, host: Path) -> None:
    """Let the server see the models of the user's own ComfyUI, where they are."""
    config = base / "extra_model_paths.yaml"
    folders = [] if host == OWN_HOST else sorted(path for path in (host / "models").glob("*") if path.is_dir())
    if not folders:
        config.unlink(missing_ok=True)
        return
    lines = ["comfyui:", *(f"    {folder.name}: {json.dumps(str(folder))}" for folder in folders)]
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
