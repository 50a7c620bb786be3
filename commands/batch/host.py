"""A ComfyUI inside this very process, server and all: it ends with the process, however that ends."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from commands.talk import Address, ServerError

from .ledger import held

LOCAL = "127.0.0.1"
SECONDS = 300
MOST_SLOTS = 64


@dataclass(frozen=True)
class Place:
    """Where a host finds ComfyUI and models, and where it may write."""

    comfy: Path
    base: Path | None
    """Of models and custom nodes, where these are not in ComfyUI's own folder."""
    scratch: Path
    models: Path | None = None
    """A further folder of checkpoints."""
    arguments: tuple[str, ...] = ()
    make_base: Callable[[Path], Path] | None = None
    """Makes the base in a worker's own folder, where no node has one yet."""

    def on_this_node(self) -> Place:
        """Return the same with folders of this node: the scratch below its temporary folder, the models below that."""
        scratch = Path(tempfile.gettempdir()) / "esd-batch" / self.scratch
        return replace(self, scratch=scratch, models=scratch / self.models if self.models else None)


def free_slot(scratch: Path) -> tuple[Path, object]:
    """Return the first folder below `scratch` that no process holds, held until this one ends.

    A worker that follows one which was killed so finds that one's snapshots, and goes on from them.
    """
    for number in range(MOST_SLOTS):
        folder = scratch / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+b")
        if held(file):
            return folder, file
        file.close()
    raise ServerError(f"{MOST_SLOTS} workers write to {scratch} already: name another folder with --scratch.")


def command_line(place: Place, slot: Path, port: int) -> list[str]:
    """Return the words that ComfyUI is started with."""
    words = ["main.py", "--listen", LOCAL, "--port", str(port), "--disable-auto-launch", "--disable-api-nodes"]
    words += ["--database-url", "sqlite:///:memory:", "--dont-print-server"]
    for name in ("output", "user"):
        (slot / name).mkdir(exist_ok=True)
        words += [f"--{name}-directory", str(slot / name)]
    words += ["--temp-directory", str(slot)]
    if place.base:
        words += ["--base-directory", str(place.base)]
    configs = [place.base / "extra_model_paths.yaml"] if place.base else []
    if place.models:
        configs.append(slot / "models.yaml")
        text = f"batch:\n    checkpoints: {json.dumps(str(place.models))}\n"
        configs[-1].write_text(text, encoding="utf-8")
    for config in configs:
        words += ["--extra-model-paths-config", str(config)] if config.exists() else []
    return [*words, *place.arguments]


def start(place: Place, slot: Path) -> Address:
    """Start the host and return once it answers; a process can do that once."""
    if place.make_base:
        place = replace(place, base=place.make_base(slot))
    port = _free_port()
    before = sys.argv
    sys.argv = command_line(place, slot, port)
    sys.path.insert(0, str(place.comfy))
    os.chdir(place.comfy)
    try:
        main = importlib.import_module("main")
        loop, _, start_all = main.start_comfyui()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a host may raise anything
        raise ServerError(f"ComfyUI at {place.comfy} does not start ({type(error).__name__}: {error}).") from error
    finally:
        sys.argv = before
    threading.Thread(target=_serve, args=(loop, start_all), daemon=True).start()
    return _answering(Address(f"http://{LOCAL}:{port}"))


def _serve(loop: asyncio.AbstractEventLoop, start_all: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.set_event_loop(loop)
    loop.run_until_complete(start_all())


def _answering(address: Address) -> Address:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            address.get("/system_stats")
            return address
        time.sleep(0.2)
    raise ServerError(f"ComfyUI did not answer within {SECONDS} s.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        return int(probe.getsockname()[1])
