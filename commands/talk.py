"""Speak with a running ComfyUI over HTTP: queue a prompt, follow it, fetch what it made (standard library only)."""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

Json = dict[str, Any]

EVERY_SECONDS = 0.5
"""How often a prompt on its way is asked after."""

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
"""Opens addresses directly: no proxy reaches a server of this machine."""


class ServerError(RuntimeError):
    """The server did not start or answer, ended by itself, or refused or failed a prompt: the message says why."""

    traceback: tuple[str, ...] = ()


class Address:
    """A ComfyUI that answers at an address."""

    def __init__(self, url: str) -> None:
        """Nothing is asked yet."""
        self.url = url.rstrip("/")

    def get(self, path: str, raw: bool = False) -> Any:
        """GET a path: the decoded JSON, or the bytes where `raw`."""
        with _open(self.url + path, timeout=60) as answer:
            body = answer.read()
        return body if raw else json.loads(body)

    def post(self, path: str, body: Json) -> Any:
        """POST JSON to a path: the decoded answer, or None where it is empty."""
        data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data=data, headers=headers)  # noqa: S310 - the user's own
        with _open(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def upload(self, name: str, data: bytes) -> str:
        """Put a file into the server's input folder, over one of that name; returns the name that it got."""
        mark = uuid.uuid4().hex
        head = f'--{mark}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
        tail = f'\r\n--{mark}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n--{mark}--\r\n'
        body, headers = head.encode() + data + tail.encode(), {"Content-Type": f"multipart/form-data; boundary={mark}"}
        request = urllib.request.Request(self.url + "/upload/image", data=body, headers=headers)  # noqa: S310 - as above
        with _open(request, timeout=60) as answer:
            return str(json.loads(answer.read())["name"])

    def download(self, file: Json, target: Path) -> None:
        """Copy such a file to `target`, however large it is."""
        with _open(f"{self.url}/view?{urllib.parse.urlencode(file)}", timeout=60) as answer, target.open("wb") as to:
            shutil.copyfileobj(answer, to)

    def view(self, file: Json) -> bytes:
        """Return the bytes of a file as an output node names it: filename, subfolder and type."""
        return bytes(self.get("/view?" + urllib.parse.urlencode(file), raw=True))


def queue(server: Address, prompt: Json, workflow_id: str) -> str:
    """Queue an API prompt and return its id; raises ServerError where the server refuses it or a part."""
    extra = {"extra_pnginfo": {"workflow": {"id": workflow_id}}}
    try:
        answer = server.post("/prompt", {"prompt": prompt, "client_id": workflow_id, "extra_data": extra})
    except urllib.error.HTTPError as error:
        raise ServerError(describe_refusal(_decoded(error))) from error
    return accepted(server, answer)


def accepted(server: Address, answer: Json) -> str:
    """Return the id of a queued prompt; where the server would run it without a faulty part, withdraw it and raise."""
    prompt_id = str(answer["prompt_id"])
    if answer.get("node_errors"):
        withdraw(server, prompt_id)
        raise ServerError(describe_refusal(answer))
    return prompt_id


def _decoded(error: urllib.error.HTTPError) -> Json:
    text = error.read().decode("utf-8", "replace")
    try:
        return dict(json.loads(text))
    except ValueError:
        return {"error": {"message": f"{error.code} {text:.200}"}}


def follow(server: Address, prompt_id: str, tick: Callable[[], None]) -> Json:
    """Wait for a prompt and return what its output nodes reported; Ctrl-C takes it from the queue.

    Raises ServerError with the node and its message where one fails.
    """
    try:
        entry = _finished(server, prompt_id, tick)
    except KeyboardInterrupt:
        withdraw(server, prompt_id)
        raise
    events = [{"type": kind, "data": data} for kind, data in entry["status"].get("messages", [])]
    failed = [event for event in events if describe_failure(event)]
    if failed:
        problem = ServerError(describe_failure(failed[-1]))
        problem.traceback = tuple(map(str, failed[-1]["data"].get("traceback", ())))
        raise problem
    return dict(entry["outputs"])


def _finished(server: Address, prompt_id: str, tick: Callable[[], None]) -> Json:
    missed = 0
    while missed < 3:  # between the queue and the history there is a moment
        entry = server.get(f"/history/{prompt_id}").get(prompt_id)
        if entry:
            return dict(entry)
        known = [item[1] for items in server.get("/queue").values() for item in items]
        missed = 0 if prompt_id in known else missed + 1
        tick()
        time.sleep(EVERY_SECONDS)
    raise ServerError("The prompt was taken from ComfyUI's queue: run the command again.")


def withdraw(server: Address, prompt_id: str) -> None:
    """Take a prompt from the queue, or interrupt it where it runs."""
    running = [item[1] for item in server.get("/queue")["queue_running"]]
    if prompt_id in running:
        server.post("/interrupt", {"prompt_id": prompt_id})
    server.post("/queue", {"delete": [prompt_id]})


def describe_refusal(answer: Json) -> str:
    """Why the server refused a prompt, in one line: each faulty node with what is wrong with it."""
    faults = [
        f"{node['class_type']} (node {node_id}): "
        + "; ".join(
            f"{error['message']} ({error['details']})" if error.get("details") else error["message"]
            for error in node["errors"]
        )
        for node_id, node in answer.get("node_errors", {}).items()
    ]
    return "ComfyUI refused the graph: " + (" | ".join(faults) or answer.get("error", {}).get("message", str(answer)))


def describe_failure(event: Json) -> str:
    """Return what a last event says went wrong, in one line; empty where nothing did."""
    data = event.get("data", {})
    if event.get("type") == "execution_error":
        return f"{data['node_type']} (node {data['node_id']}): {data['exception_message'].strip()}"
    if event.get("type") == "execution_interrupted":
        return "The run was cancelled in ComfyUI."
    return ""
