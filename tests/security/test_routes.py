"""What other programs and other sites may ask of a running server through the pack's routes and messages."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from support.outcomes import record
from support.watched_graph import graph

ROOT = Path(__file__).resolve().parents[2]
NO_ONE = "0" * 32
FIELDS = {
    "id": str, "node": str, "workflow": str, "state": str, "message": str, "step": int, "total": int, "first": int,
    "losses": list, "left": list, "moved": (dict, type(None)),
    "seconds_left": (float, int, type(None)), "passes_per_second": (float, int, type(None)),
    "seconds": float, "previews": list, "device": str, "stored": str, "precision": str,
    "memory_foretold": int, "memory_peak": (int, type(None)),
}  # fmt: skip


@pytest.fixture(scope="module")
def begun(host):
    """The runs that `live` has begun; the last one is interrupted at the end."""
    runs = []
    yield runs
    host.interrupt()
    for run in runs:
        run.work.join(60)


@pytest.fixture
def live(host, begun):
    """A run that is on while the tests try their doors: the one of the test before, until its button ends it."""
    if not begun or begun[-1].ended:
        begun.append(begin(host, seed=len(begun)))
    return begun[-1]


def begin(host, seed):
    """Start a run, and wait until it trains."""
    messages, ended = [], []
    prompt = graph(100_000, seed)
    work = threading.Thread(target=lambda: ended.append(host.try_run(prompt, messages.append)), daemon=True)
    work.start()
    deadline = time.monotonic() + 180
    while not any(m["type"] == "esd.run" and m["data"]["step"] > 1 for m in messages):
        assert time.monotonic() < deadline and not ended
        time.sleep(0.1)
    run = next(m["data"]["id"] for m in messages if m["type"] == "esd.run")
    return SimpleNamespace(id=run, messages=messages, ended=ended, work=work)


def ask(host, request, seconds=30.0):
    """Bytes to the server as they are; the answer's status and all of it, (0, b"") where it only hangs up."""
    received = b""
    with socket.create_connection(("127.0.0.1", host.port), timeout=seconds) as wire:
        try:
            wire.sendall(request)
        except (BrokenPipeError, ConnectionResetError):  # it answers before the body is all there
            pass
        try:
            while piece := wire.recv(2**16):
                received += piece
        except ConnectionResetError:
            pass
    return int(received.split(b" ", 2)[1]) if received.startswith(b"HTTP/") else 0, received


def http(method, path, headers=(), body=b""):
    """A request that says nothing more than it must."""
    path = path if isinstance(path, bytes) else path.encode("utf-8", "surrogatepass")
    lines = [b"Host: 127.0.0.1", b"Connection: close", *(h.encode() for h in headers)]
    if body and not any(h.lower().startswith(("content-length", "transfer-encoding")) for h in headers):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([method.encode() + b" " + path + b" HTTP/1.1", *lines, b"", body])


def unharmed(host, live):
    """The server answers, and the run goes on as it was."""
    (run,) = [r for r in host.get("/esd/runs")["runs"] if r["id"] == live.id]
    return run["state"] == "running" and live.work.is_alive() and not live.ended


def told_paths(host, text):
    """Which of the disk's own paths a text tells."""
    text = text.decode("latin-1") if isinstance(text, bytes) else text
    return [place for place in (str(host.base), str(ROOT), "site-packages", "Traceback") if place in text]


ODD_IDS = (
    *("..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%00", "{id}%00", "{id}%20", "%0d%0aX: y", "\u00fc\u4e2d", "%ff%fe"),
    *("\ud800", "a" * 5000, "a" * 100_000, "%", "%zz", "{ID}", "{id}x", "x{id}", "{id}/", "{id}/..", "*", "{id}%2f.."),
    *(
        "null",
        "-1",
        "0",
        "[]",
        "<script>",
        "' or 1=1--",
        "${{7*7}}",
        "\\..\\..",
        "C:\\",
        ".",
        "{id};a=b",
        "",
        " ",
        "?x",
    ),
    *("#", "//{id}", "con", "%E2%80%AE", "{id},{id}"),
)
METHODS = ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "post", "PROPFIND", "CONNECT")
PATHS = ("/esd/runs", "/api/esd/runs", "/esd/runs/{id}/finish", "/api/esd/runs/{id}/finish", "/esd/runs/{id}", "/esd")


def test_no_odd_id_is_a_run(host, live):
    count = 0
    for prefix in ("", "/api"):
        for form in ODD_IDS:
            id_ = form.replace("{id}", live.id).replace("{ID}", live.id.upper())
            for method in ("POST", "GET"):
                status, answer = ask(host, http(method, f"{prefix}/esd/runs/{id_}/finish"))
                assert 400 <= status < 500 or (status == 0 and " " in id_) or form == "?x", (form, method, answer[:300])
                assert told_paths(host, answer) == []
                count += 1
    assert unharmed(host, live)
    record(
        "odd ids (climbing, encoded, NUL, unicode, 100 kB) at the route of Finish now",
        count,
        "answered 400 to 499, no run ended",
    )


def test_no_odd_method_does_anything(host, live):
    count = 0
    for path in PATHS:
        for method in METHODS:
            if (method, path) != ("GET", "/esd/runs"):
                status, answer = ask(host, http(method, path.replace("{id}", live.id)))
                assert 200 <= status < 500 and told_paths(host, answer) == [], (method, path, answer[:300])
                assert status >= 400 or method in ("GET", "HEAD", "OPTIONS"), (method, path, answer[:300])
                count += 1
    assert unharmed(host, live)
    record("odd methods at the pack's routes and beside them", count, "answered, none 500 or more, no run ended")


def test_bodies_are_not_looked_at(host, live):
    """Of any size and kind, whole and cut; the route reads none of them."""
    path, json_type = f"/esd/runs/{NO_ONE}/finish", "Content-Type: application/json"
    whole = [
        http("POST", path, [f"Content-Type: {kind}"], body)
        for kind in (
            "application/json",
            "text/plain",
            "multipart/form-data; boundary=x",
            "a/b; charset=none",
            "\xff",
            "",
        )
        for body in (b"", b"{", b"null", b"\0" * 99, b"[" * 100_000)
    ]
    whole.append(http("POST", path, [json_type], b"x" * 2**25))
    claims = [
        http("POST", path, [json_type, "Content-Length: 1000000000000000"], b"x"),
        http("POST", path, [json_type, "Transfer-Encoding: chunked"], b"5\r\nabcde\r\n0\r\n\r\n"),
        http("POST", path, ["Content-Encoding: gzip"], b"\x1f\x8b" + b"\0" * 50),
        http("POST", path, ["Content-Encoding: none-such"], b"x" * 50),
    ]
    broken = [
        http("POST", path, ["Content-Length: -1"], b"x"),
        http("POST", path, ["Content-Length: 1", "Content-Length: 2"], b"xx"),
        http("POST", path, ["Content-Length: 3", "Transfer-Encoding: chunked"], b"0\r\n\r\n"),
        http("POST", path, ["Transfer-Encoding: chunked"], b"zz\r\nabc"),
        http("POST", path, ["X: " + "y" * 100_000]),
    ]
    start = time.monotonic()
    for request in (*whole, *claims):
        status, answer = ask(host, request)
        assert status in (404, 400) and told_paths(host, answer) == [], (request[:200], answer[:300])
    for request in broken:
        status, answer = ask(host, request)
        assert status in (0, 400, 404) and told_paths(host, answer) == [], (request[:200], answer[:300])
    assert time.monotonic() - start < 60 and unharmed(host, live)
    record(
        "bodies of every kind, size and claim at the route of Finish now",
        len(whole) + len(claims) + len(broken),
        "answered 400 or 404",
    )


def test_other_sites_get_no_further_than_at_the_host_s_own_routes(host, live):
    hosts = ("127.0.0.1:{port}", "localhost:{port}", "[::1]:{port}", "comfy.example")
    origins = (
        *("http://evil.example", "https://evil.example:{port}", "http://127.0.0.1:1", "http://localhost:{port}"),
        *("http://127.0.0.1:{port}", "http://127.0.0.1:{port}.evil.example", "http://evil.example/127.0.0.1", "null"),
        *("file://", "", "http://127.0.0.1", "http://127.0.0.1:{port}@evil.example", "chrome-extension://abc"),
    )
    refused = count = 0
    for name in hosts:
        for origin in origins:
            lines = [f"Host: {name.format(port=host.port)}", f"Origin: {origin.format(port=host.port)}"]
            found = []
            for path in ("/history", f"/esd/runs/{NO_ONE}/finish", f"/api/esd/runs/{NO_ONE}/finish"):
                request = http("POST", path, ["Content-Type: application/json"], b"{}")
                status, _ = ask(host, request.replace(b"Host: 127.0.0.1", "\r\n".join(lines).encode(), 1))
                found.append(status == 403)
            assert found[1:] == [found[0]] * 2, lines
            refused, count = refused + found[0], count + 1
    status, _ = ask(host, http("POST", f"/esd/runs/{live.id}/finish", ["Origin: http://evil.example"]))
    assert status == 403 and refused > 15 and unharmed(host, live)
    record("POST from other sites, by Host and Origin", count, {
        "refused with 403, as the host's own routes": refused, "let in, as by the host's own routes": count - refused,
    })  # fmt: skip


def test_a_socket_can_only_listen(host, live):
    """The pack takes no message: whatever a client says, no run changes and nobody is thrown out."""
    said = [
        json.dumps({"type": kind, "data": {"id": live.id, "state": "finished", "finish": True, "sid": "x"}})
        for kind in ("esd.run", "esd", "finish", "execution_interrupted", "__proto__")
    ]
    said += ["", "null", "[]", "5", "{", "\0", "[" * 50_000, json.dumps({"type": "esd.run", "data": "x" * 2**21})]

    async def talk():
        import aiohttp

        async with aiohttp.ClientSession() as session, session.ws_connect(f"{host.url}/ws?clientId=esd.run") as wire:
            for text in said:
                await wire.send_str(text)
                await wire.send_bytes(text.encode())
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                message = json.loads((await wire.receive(20)).data)
                if message["type"] == "esd.run":
                    return message["data"]
        return {}

    assert asyncio.run(talk())["id"] == live.id and unharmed(host, live)
    record(
        "odd messages to the server's socket, as text and as bytes",
        2 * len(said),
        "no run changed; the socket goes on telling",
    )


def test_everything_at_once_and_at_last_the_button(host, live):
    """Two hundred calls side by side: readers all get whole lists, and the run ends once, after its step."""
    finish, wrong = (http("POST", f"/esd/runs/{i}/finish") for i in (live.id, NO_ONE))
    with ThreadPoolExecutor(20) as pool:
        lists = list(pool.map(lambda _: ask(host, http("GET", "/esd/runs")), range(60)))
        assert {s for s, _ in pool.map(lambda _: ask(host, wrong), range(60))} == {404} and unharmed(host, live)
        calls = list(pool.map(lambda n: ask(host, http("GET", "/esd/runs") if n % 2 else finish), range(80)))
    assert {status for status, _ in lists} == {200} and {status for status, _ in calls} <= {200, 404}
    for _, answer in lists:
        assert any(run["id"] == live.id for run in json.loads(answer.partition(b"\r\n\r\n")[2])["runs"])
    live.work.join(60)
    assert live.ended and live.ended[0].events[-1]["type"] == "execution_success"
    assert ask(host, finish)[0] == 404
    record(
        "calls of all routes at the same time, twenty side by side",
        200,
        "whole answers; the run ended once, as by the button",
    )


def test_what_the_page_is_told_is_checked_and_names_no_path(host, live):
    """Every message of that run, and of one that fails, has the fields that it may have and no path of the disk."""
    ask(host, http("POST", f"/esd/runs/{live.id}/finish"))  # where it is still on, the next prompt would wait for it
    live.work.join(60)
    failing = graph(30)
    failing["3"]["inputs"].update(method="esd-all", learning_rate=1.0, preview_every=0)
    failed = host.try_run(failing)
    messages = [m for m in (*live.messages, *failed.events) if m["type"] in ("esd.run", "progress_text")]
    listed = host.get("/esd/runs")["runs"]
    for told in [m["data"] for m in messages if m["type"] == "esd.run"] + listed:
        assert set(told) <= set(FIELDS) and all(isinstance(told[name], FIELDS[name]) for name in told)
        assert re.fullmatch("[0-9a-f]{32}", told["id"]) and told["state"] in (
            "running",
            "finished",
            "stopped",
            "failed",
        )
        assert told_paths(host, json.dumps(told, allow_nan=False)) == []
    assert {m["data"]["state"] for m in messages} >= {"running", "finished", "failed"}
    record(
        "messages and lists that a page was told of two runs",
        len(messages) + len(listed),
        "the known fields; no path of the disk",
    )


@pytest.mark.parametrize(
    "id_",
    ["x" * 201, "x" * 10**6, 5, None, ["a"], {"a": 1}, True, "../..", "\ud800", "<b>"],
    ids=lambda v: repr(v)[:12],
)
def test_a_graph_s_own_id_is_told_only_where_it_is_one(comfy, node_classes, id_):
    from esd_pack.nodes.host.files.graph import LONGEST_ID, workflow_id

    found = workflow_id({"workflow": {"id": id_}})
    assert found == (id_ if isinstance(id_, str) and len(id_) <= LONGEST_ID else "")
    assert [workflow_id(extra) for extra in (None, [], {"workflow": None}, {"workflow": [1]}, {"workflow": {}})] == [
        ""
    ] * 5
