"""Start a real ComfyUI server with this node pack in it, talk to it, and leave nothing of it behind."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from commands.talk import Address, Json, ServerError, accepted, describe_failure, describe_refusal

from .base import DATABASE, prepare_base

Event = Json
FINAL_EVENTS = ("execution_success", "execution_error", "execution_interrupted")
LOCAL = "127.0.0.1"
TIED = Path(__file__).with_name("tied.py")


@dataclass(frozen=True)
class Run:
    """A finished prompt: what its output nodes reported, and everything the server said meanwhile."""

    prompt_id: str
    outputs: dict[str, Json]
    events: list[Event] = field(repr=False)
    status: Json = field(repr=False)


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    """Whether a server could listen on the port."""
    with socket.socket() as probe:
        if sys.platform != "win32":  # as servers do: a port that waits out its last connection is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOCAL, port))
        except OSError:
            return False
    return True


def device_arguments() -> list[str]:
    """`--cpu` where torch finds no accelerator, as the server does not find that out by itself."""
    import torch

    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available()
    accelerated = accelerated or (hasattr(torch, "xpu") and torch.xpu.is_available())
    return [] if accelerated else ["--cpu"]


class Server(Address):
    """A ComfyUI server in a process group of its own, with models, outputs and settings in a base folder.

    The server runs under this process's Python. Use it in a `with` statement, or call `stop`.
    """

    def __init__(
        self,
        host: Path,
        base: Path,
        port: int | None = None,
        arguments: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Start the server of the ComfyUI tree `host`; `arguments` go to its command line as they are."""
        self.base = prepare_base(Path(base), Path(host))
        self.port = port or free_port()
        super().__init__(f"http://{LOCAL}:{self.port}")
        self.log = self.base / f"host-{self.port}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command(arguments),
                cwd=host,
                env={**_environment(), **(variables or {})},
                stdin=subprocess.PIPE,  # closed when this process ends, and the server ends with it
                stdout=log,
                stderr=subprocess.STDOUT,
                **_own_group(),
            )
        atexit.register(self.stop)

    def _command(self, arguments: Sequence[str]) -> list[str]:
        command = [sys.executable, str(TIED), "main.py", "--listen", LOCAL, "--port", str(self.port)]
        command += ["--base-directory", str(self.base), "--database-url", DATABASE]
        models = self.base / "extra_model_paths.yaml"
        if models.exists():
            command += ["--extra-model-paths-config", str(models)]
        return [*command, "--disable-auto-launch", "--disable-api-nodes", *arguments]

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def wait(self, seconds: float = 300, waiting: Callable[[float], None] = lambda elapsed: None) -> Server:
        """Return once the server answers; raises ServerError where it ends first or takes longer than `seconds`."""
        start = time.monotonic()
        while (elapsed := time.monotonic() - start) < seconds:
            self.check_alive()
            try:
                self.get("/system_stats")
                return self
            except OSError:
                waiting(elapsed)
                time.sleep(0.2)
        raise ServerError(f"ComfyUI did not answer within {seconds:.0f} s: read {self.log}.")

    def check_alive(self) -> None:
        """Raise ServerError with the end of the log where the server's process has ended."""
        code = self.process.poll()
        if code is not None:
            raise ServerError(
                f"ComfyUI ended by itself with code {code}; its log {self.log} ends with:\n{self.log_tail()}"
            )

    def log_tail(self, characters: int = 3000) -> str:
        """The end of what the server printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-characters:]

    def stop(self) -> None:
        """End the server and every process that it started; harmless when it has already ended."""
        atexit.unregister(self.stop)
        with _no_interrupt():
            _signal_group(self.process, force=False)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                pass
            _signal_group(self.process, force=True)
            self.process.wait()

    def path_of(self, file: Json) -> Path:
        """Where a file that an output node names lies on this machine."""
        return self.base / file.get("type", "output") / file.get("subfolder", "") / file["filename"]

    def interrupt(self) -> None:
        """Ask the server to stop the prompt that it is running."""
        self.post("/interrupt", {})

    def run(
        self, prompt: Json, on_event: Callable[[Event], None] = lambda event: None, seconds: float | None = None
    ) -> Run:
        """Queue an API prompt and return when it has succeeded; `on_event` gets everything on the way.

        Raises ServerError with the node and its message where the server refuses the prompt or a node fails,
        and TimeoutError after `seconds`.
        """
        run = self.try_run(prompt, on_event, seconds)
        problem = describe_failure(run.events[-1] if run.events else {})
        if problem:
            raise ServerError(problem)
        return run

    def try_run(
        self, prompt: Json, on_event: Callable[[Event], None] = lambda event: None, seconds: float | None = None
    ) -> Run:
        """The same, but a prompt that fails while it runs is returned too: its last event says how it ended."""
        return asyncio.run(self._run(prompt, on_event, seconds))

    async def _run(self, prompt: Json, on_event: Callable[[Event], None], seconds: float | None) -> Run:
        import aiohttp

        client = uuid.uuid4().hex
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(f"{self.url}/ws?clientId={client}", max_msg_size=0) as socket_:
                prompt_id = await self._queue(session, prompt, client)
                async with asyncio.timeout(seconds):
                    events = [event async for event in self._events(socket_, prompt_id, on_event)]
        entry = self._history(prompt_id)
        return Run(prompt_id, entry["outputs"], events, entry["status"])

    async def _queue(self, session: Any, prompt: Json, client: str) -> str:
        async with session.post(f"{self.url}/prompt", json={"prompt": prompt, "client_id": client}) as answer:
            body = await answer.json()
        if answer.status != 200:
            raise ServerError(describe_refusal(body))
        return accepted(self, body)

    async def _events(self, socket_: Any, prompt_id: str, on_event: Callable[[Event], None]) -> Any:
        async for message in socket_:
            if not isinstance(message.data, str):
                continue  # a preview picture
            event = json.loads(message.data)
            if event["data"].get("prompt_id") not in (None, prompt_id):
                continue
            on_event(event)
            yield event
            if event["type"] in FINAL_EVENTS and event["data"].get("prompt_id") == prompt_id:
                return
        await asyncio.sleep(0.5)
        self.check_alive()
        raise ServerError(f"ComfyUI closed the connection in the middle of a prompt: read {self.log}.")

    def _history(self, prompt_id: str) -> Json:
        for _ in range(100):  # it is written just after the last event
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry:
                return dict(entry)
            time.sleep(0.1)
        raise ServerError(f"ComfyUI kept no history of the prompt: read {self.log}.")


def _environment() -> dict[str, str]:
    patient = {"OMP_WAIT_POLICY": "PASSIVE"}  # spinning threads take the cores from each other
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
    return {name: value for name, value in (patient | os.environ | quiet).items() if name != "PYTHONPATH"}


def _own_group() -> dict[str, Any]:
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def _signal_group(process: subprocess.Popen[bytes], force: bool) -> None:
    if sys.platform == "win32":
        if process.poll() is None:
            subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True, check=False)
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL if force else signal.SIGTERM)


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """A second Ctrl-C must not cut the stopping short."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
