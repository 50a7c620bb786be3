"""Short Erase graphs for real servers, without a page: prompts in the API's form, queued, watched and compared."""

from __future__ import annotations

import copy
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from commands.graph import new_node as node

CHECKPOINT = "emoji-world.ckpt"
QUICK = {
    "width": 64,
    "height": 64,
    "num_inference_steps": 4,
    "samples_per_trajectory": 2,
    "trajectory_batch": 2,
    "buffer_size": 4,
    "contexts": "own words",
    "closed_form": False,
}
ERASE, SAVE = "4", "5"
Prompt = dict[str, dict[str, Any]]


def short_prompt(object_info: Any, **erase: Any) -> Prompt:
    """Load, erase "cat" in a few small steps, and save the erasure; `erase` are inputs of the Erase node."""
    given = {
        "steps": 6,
        "preview_every": 0,
        "snapshot_every": 0,
        "start": "start over",
        "stop": "after all steps",
    } | erase
    links = {"model": ["1", 0], "clip": ["1", 1], "concepts": ["2", 0], "settings": ["3", 0]}
    return {
        "1": node(object_info, "ESDLoadModel", ckpt_name=CHECKPOINT),
        "2": node(object_info, "ESDConcept", concept="cat"),
        "3": node(object_info, "ESDEraseSettings", **QUICK),
        ERASE: node(object_info, "ESDErase", **links, **given),
        SAVE: node(object_info, "ESDSaveErasure", weights=[ERASE, 1]),
    }


def with_settings(prompt: Prompt, object_info: Any, **values: Any) -> Prompt:
    """A copy with an Erase Settings node on its one Erase node, which begins with the model's own weights."""
    made = copy.deepcopy(prompt)
    made["settings"] = node(object_info, "ESDEraseSettings", **{"closed_form": False, **values})
    (erase,) = (each for each in made.values() if each["class_type"] == "ESDErase")
    erase["inputs"]["settings"] = ["settings", 0]
    return made


def with_twin(prompt: Prompt, digit: str, **concept: Any) -> Prompt:
    """The prompt with a further concept, Erase and Save node on the same MODEL, their ids behind this digit."""
    both = copy.deepcopy(prompt)
    for number in ("2", ERASE, SAVE):
        both[digit + number] = copy.deepcopy(prompt[number])
    both[f"{digit}2"]["inputs"].update(concept)
    both[digit + ERASE]["inputs"]["concepts"] = [f"{digit}2", 0]
    both[digit + SAVE]["inputs"]["weights"] = [digit + ERASE, 1]
    return both


def other(prompt: Prompt, number: str, **inputs: Any) -> Prompt:
    """A copy with other inputs of one node."""
    made = copy.deepcopy(prompt)
    made[number]["inputs"].update(inputs)
    return made


def queue(host: Any, prompt: Prompt, client: str = "") -> str:
    """Queue a prompt and return its id at once."""
    return str(host.post("/prompt", {"prompt": prompt, "client_id": client})["prompt_id"])


def ended(host: Any, prompt_id: str, seconds: float = 600) -> dict[str, Any]:
    """The history of a prompt, once it has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        host.check_alive()
        found = host.get(f"/history/{prompt_id}").get(prompt_id)
        if found:
            return dict(found)
        time.sleep(0.1)
    raise AssertionError(f"the prompt did not end within {seconds} s")


def saved(host: Any, outputs: Any, number: str = SAVE) -> dict[str, bytes]:
    """The tensors of the file that a node of ours wrote, by their bits."""
    (listed,) = outputs[number]["esd_files"]
    return {name: tensor.tobytes() for name, tensor in load_file(host.path_of(listed)).items()}


def runs_of(host: Any) -> Path:
    """The folder of kept runs of a server."""
    return Path(host.base) / "output" / "esd" / "runs"


class Page:
    """A page's connection to the server, on a bare socket, so that it can vanish in any way."""

    def __init__(self, host: Any, client: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", host.port), timeout=300)
        lines = [
            f"GET /ws?clientId={client} HTTP/1.1",
            f"Host: 127.0.0.1:{host.port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            "Sec-WebSocket-Version: 13",
        ]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def read_until(self, words: bytes) -> None:
        """Read what the server sends until it has said this."""
        heard = b""
        while words not in heard:
            got = self.socket.recv(65536)
            assert got, f"the server closed the connection: {heard[-300:]!r}"
            heard = heard[-len(words) :] + got

    def vanish(self) -> None:
        """Go without a word, as when a cable is pulled out: the server's next message meets a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.socket.close()


@contextmanager
def page(host: Any, client: str) -> Iterator[Page]:
    """A page that is gone at the end at the latest."""
    opened = Page(host, client)
    try:
        yield opened
    finally:
        opened.socket.close()


def progress_of(events: list[dict[str, Any]], number: str) -> list[int]:
    """How far a node was when it told of its progress; newer hosts pass on the first word and a few of the others."""
    return [e["data"]["value"] for e in events if e["type"] == "progress" and e["data"]["node"] == number]


def told_of(events: list[dict[str, Any]], number: str) -> list[dict[str, Any]]:
    """Our own messages about a node's run, which every host passes on."""
    return [e["data"] for e in events if e["type"] == "esd.run" and e["data"]["node"] == number]


def words_of(host: Any, number: str = ERASE) -> str:
    """What a node's panel says of its last run."""
    return next(str(run["message"]) for run in reversed(host.get("/esd/runs")["runs"]) if run["node"] == number)


def line_of(host: Any, start: str) -> str:
    """The last line of a server's log that has these words."""
    lines = [line for line in host.log.read_text("utf-8", errors="replace").splitlines() if start in line]
    return lines[-1] if lines else ""


def shipped(name: str) -> dict[str, Any]:
    """A workflow that ships."""
    path = Path(__file__).resolve().parents[2] / "workflows" / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found
