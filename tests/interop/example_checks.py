"""Runs what is in examples/, unchanged."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import urlencode

from heartwire.v1 import connection_service_pb2, message_service_pb2, node_service_pb2, types_pb2

import chromium
import websocket
from backend import Backend
from report import CheckFailed, Report, equal, expect
from server import Server

ROOT = Path(__file__).resolve().parents[2]
LINE_TIMEOUT = 10.0


def run_backend(report: Report, binary: Path, work: Path) -> None:
    """examples/python/backend.py: echo, resume, and a log that is another."""
    state = work / "backend.json"
    with Server(binary, work / "backend.log") as server, websocket.connect(server.ws, "alice") as alice:
        with report.check("backend.py: it tells who is there, answers, and tells who goes"):
            with Program(work, server.grpc, state) as program:
                program.expect_line("+ alice from 127.0.0.1:")
                alice.send("one")
                websocket.expect_message(alice, "echo: one")
                websocket.connect(server.ws, "bob").close()
                program.expect_line("+ bob from 127.0.0.1:")
                program.expect_line("- bob: DISCONNECT_CAUSE_CLIENT_CLOSED")
                _wait_until_handled(server, state)
        with report.check("backend.py: after a restart it answers what it missed, once"):
            alice.send("two")
            with websocket.connect(server.ws, "carol"), Program(work, server.grpc, state) as program:
                program.expect_line("+ carol from 127.0.0.1:")
                websocket.expect_message(alice, "echo: two")
                alice.send("three")
                websocket.expect_message(alice, "echo: three")
                _wait_until_handled(server, state)
    with Server(binary, work / "backend.log") as server, websocket.connect(server.ws, "dave") as dave:
        with report.check("backend.py: with the log of another run it takes a snapshot"):
            with Program(work, server.grpc, state) as program:
                program.expect_line("! OUT_OF_RANGE: ")
                program.expect_line("+ dave from 127.0.0.1:")
                equal(
                    {program.line(), program.line()}, {"- alice: left unseen", "- carol: left unseen"}, "what it says"
                )
                dave.send("four")
                websocket.expect_message(dave, "echo: four")


def run_browser(report: Report, binary: Path, work: Path, program: str) -> None:
    """examples/browser/index.html in a real browser."""
    with (
        Server(binary, work / "browser.log") as server,
        Backend(server.grpc) as backend,
        chromium.Page(program, work / "profile") as page,
    ):
        query = urlencode({"server": f"ws://{server.ws}", "client_id": "alice"})
        state = "document.getElementById('state').textContent"
        shown = "[...document.querySelectorAll('#messages li')].map((item) => item.textContent)"
        alice = types_pb2.Target(client_id="alice")
        with report.check("browser: the page connects"):
            page.open(f"{(ROOT / 'examples/browser/index.html').as_uri()}?{query}")
            page.wait_for(state, lambda value: value == "connected")
        with report.check("browser: a message pushed to it is shown, as text"):
            request = message_service_pb2.SendRequest(
                target=alice, text="<b>hi</b> Grüße", receipt=message_service_pb2.STAGE_WRITTEN
            )
            backend.messages.Send(request)
            page.wait_for(shown, lambda items: items == ["<b>hi</b> Grüße"])
        with report.check("browser: what is typed is received"):
            subscription = backend.subscribe().started()
            page.evaluate(
                "document.getElementById('text').value = 'typed'; document.querySelector('#form button').click()"
            )
            equal(subscription.event("message_received", "alice").message_received.text, "typed", "the text")
        with report.check("browser: it comes back when it may"):
            disconnect = connection_service_pb2.DisconnectRequest(
                target=alice, code=1012, reason="restart; reconnect_after_ms=300"
            )
            backend.connections.Disconnect(disconnect)
            subscription.event("disconnected", "alice")
            subscription.event("connected", "alice")
            page.wait_for(state, lambda value: value == "connected")
        with report.check("browser: it stays away when it should"):
            backend.connections.Disconnect(connection_service_pb2.DisconnectRequest(target=alice))
            page.wait_for(state, lambda value: str(value).startswith("closed: 1000"))
        with report.check("browser: no script failed"):
            equal(page.uncaught, [], "what was thrown")


class Program:
    """The running example. Use it in a `with`: it is ended at the end, as by a crash."""

    def __init__(self, work: Path, address: str, state: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, ROOT / "examples/python/backend.py", "--address", address, "--state", state],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": str(work / "stubs")},
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> "Program":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def line(self) -> str:
        """The next line that it prints."""
        try:
            return self._lines.get(timeout=LINE_TIMEOUT)
        except queue.Empty:
            raise CheckFailed(f"it prints nothing for {LINE_TIMEOUT:.0f} s") from None

    def expect_line(self, beginning: str) -> None:
        line = self.line()
        expect(line.startswith(beginning), f"it prints {line!r}, not {beginning!r}")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))


def _wait_until_handled(server: Server, state: Path) -> None:
    """Waits until the program has saved the newest cursor: what comes again after a crash is no fault."""
    with Backend(server.grpc) as backend:
        head = backend.node.GetNode(node_service_pb2.GetNodeRequest()).head_cursor
    end = time.monotonic() + LINE_TIMEOUT
    while not (state.exists() and json.loads(state.read_text())["cursor"] == head):
        expect(time.monotonic() < end, "it did not save the newest cursor")
        time.sleep(0.05)
