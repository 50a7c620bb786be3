"""What the page is told of running Erase nodes, and the one thing that it may ask of them: to finish now."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from aiohttp import web
from server import PromptServer

from ....esd.train import Step

log = logging.getLogger("esd")

EVENT = "esd.run"
REMEMBERED = 16
"""Ended runs whose charts a page can still ask for."""

LONGEST_PROMPT = 500
"""Characters of a prompt that a page is told below its preview."""

EVERY_SECONDS = 0.25
"""The least time between two messages of one run."""


@dataclass
class RunStatus:
    """One run as the page sees it.  `losses` holds every step's; a message carries those that are new."""

    node: str
    workflow: str
    total: int
    id: str = field(default_factory=lambda: uuid4().hex)
    state: str = "running"
    message: str = ""
    losses: list[float] = field(default_factory=list)
    previews: list[dict[str, str]] = field(default_factory=list)
    finish: bool = False
    passes: int = 0
    passes_left: int = 0
    begun: float = field(default_factory=time.monotonic)
    ended: float | None = None
    started: float = field(default_factory=time.monotonic)
    device: str = ""
    stored: str = ""
    precision: str = ""
    memory_foretold: int = 0
    memory_peak: int | None = None
    left: dict[str, int] = field(default_factory=dict)
    """Percent that is left of each concept, by its prompt."""
    moved: dict[str, int] = field(default_factory=dict)
    """Percent by which each keep has drifted, by its prompt."""
    sent: int = 0
    sent_at: float = 0.0

    def begin_counting(self) -> None:
        """Count passes a second from here."""
        self.started = time.monotonic()

    def as_json(self, first: int = 0) -> dict[str, Any]:
        """Everything, with the losses from step `first` on."""
        rate = self.passes / max(time.monotonic() - self.started, 1e-9)
        running = self.state == "running"
        return {
            "id": self.id,
            "node": self.node,
            "workflow": self.workflow,
            "state": self.state,
            "message": self.message,
            "step": len(self.losses),
            "total": self.total,
            "first": first,
            "losses": [float(f"{loss:.5g}") for loss in self.losses[first:]],
            "seconds_left": max(self.passes_left, 0) / rate if running and rate else None,
            "passes_per_second": rate if running else None,
            "device": self.device,
            "stored": self.stored,
            "precision": self.precision,
            "memory_foretold": self.memory_foretold,
            "memory_peak": self.memory_peak,
            "left": [{"prompt": prompt[:LONGEST_PROMPT], "percent": left} for prompt, left in self.left.items()],
            "moved": self._moved_most(),
            "seconds": round((self.ended or time.monotonic()) - self.begun, 1),
        }

    def _moved_most(self) -> dict[str, Any] | None:
        """Return the keep that has drifted most."""
        if not self.moved:
            return None
        prompt, percent = max(self.moved.items(), key=lambda each: each[1])
        return {"prompt": prompt[:LONGEST_PROMPT], "percent": percent}


class RunRegistry:
    """The runs of this server: those that are on, and the last ones that ended."""

    def __init__(self, server: Any) -> None:
        """`server` is the host's PromptServer; where there is none, or none that can send, nobody is told."""
        self.server = server
        self.runs: deque[RunStatus] = deque(maxlen=REMEMBERED)

    def begin(self, live: RunStatus) -> RunStatus:
        """Put up a run; the one that the same node of the same workflow had before goes."""
        same = [r for r in self.runs if (r.node, r.workflow) == (live.node, live.workflow) and r.state != "running"]
        for each in same:
            self.runs.remove(each)
        self.runs.append(live)
        self.tell(live)
        return live

    def tell(self, live: RunStatus, with_previews: bool = False) -> None:
        """Send what is new of a run to every page."""
        message = live.as_json(live.sent)
        live.sent, live.sent_at = len(live.losses), time.monotonic()
        if with_previews:
            message["previews"] = live.previews
        if self.server is not None:
            self.server.send_sync(EVENT, message)

    def step(self, live: RunStatus, step: Step) -> None:
        """Add a step, and send it now or with the next ones."""
        live.losses.append(step.loss)
        if time.monotonic() - live.sent_at >= EVERY_SECONDS:
            self.tell(live)

    def show_text(self, live: RunStatus, message: str) -> None:
        """Show words under the chart."""
        live.message = message
        self.tell(live)

    def end(self, live: RunStatus, state: str, message: str = "") -> None:
        """`state` is finished, stopped or failed."""
        live.state, live.message, live.ended = state, message or live.message, time.monotonic()
        self.tell(live)

    def show(self, live: RunStatus, previews: Sequence[dict[str, str]]) -> None:
        """Replace the previews: label, prompt (its beginning) and JPEG as base64 each."""
        live.previews = [{**each, "prompt": each["prompt"][:LONGEST_PROMPT]} for each in previews]
        self.tell(live, with_previews=True)

    def running(self, id_: str) -> RunStatus | None:
        """Return the run of that id, if it is on."""
        return next((run for run in self.runs if run.id == id_ and run.state == "running"), None)


def registry() -> RunRegistry:
    """Return this server's registry, made with its first use."""
    server: Any = getattr(PromptServer, "instance", None)
    if not hasattr(server, "send_sync"):
        return RunRegistry(None)
    if not hasattr(server, "esd_registry"):
        server.esd_registry = RunRegistry(server)
    found: RunRegistry = server.esd_registry
    return found


def add_routes() -> None:
    """GET /esd/runs for a page that was reloaded, POST /esd/runs/ID/finish for its button, and no more below /esd."""
    server: Any = getattr(PromptServer, "instance", None)
    if not hasattr(server, "routes") or hasattr(server, "esd_routes"):
        return  # a process of nodes alone has no routes
    server.esd_routes = True

    @server.routes.get("/esd/runs")
    async def runs(request: web.Request) -> web.Response:
        return web.json_response(
            {"runs": [{**run.as_json(), "previews": run.previews} for run in list(registry().runs)]}
        )

    @server.routes.post("/esd/runs/{id}/finish")
    async def finish(request: web.Request) -> web.Response:
        run = registry().running(request.match_info["id"])
        if run is None:
            return web.json_response({"error": "This run is not on any more."}, status=404)
        run.finish = True
        log.info("ESD: the page asks to finish now")
        return web.json_response({"state": "finishing"})

    @server.routes.route("*", "/esd/{rest:.*}")  # or the host would look for a file of that name, whatever it is
    async def nothing(request: web.Request) -> web.Response:
        return web.json_response({"error": "There is nothing here."}, status=404)
