"""Holds real frames of the reliable subprotocol, in both directions, against its JSON Schema."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from websockets.sync.connection import Connection
from websockets.typing import Subprotocol

import websocket
from report import CheckFailed, Report, equal, expect
from server import Server

SUBPROTOCOL = Subprotocol("heartwire.v1.json")

# What a client may send after its hello, each on a connection of its own, and the type of what the server answers.
GOOD = [
    ({"type": "heartbeat"}, "heartbeat"),
    ({"type": "heartbeat", "received": 0, "later": {"x": []}}, "heartbeat"),
    ({"type": "message", "seq": 1, "text": ""}, "ack"),
    ({"type": "message", "seq": 1, "text": "\u2028\U0001f600"}, "ack"),
    ({"type": "message", "seq": 1, "data": "AAE="}, "ack"),
    ({"type": "bye"}, None),
    ({"type": "bye", "code": 4999, "reason": "enough"}, None),
]
# What it may not, and the code of the error.
BAD = [
    ({}, "BAD_ENVELOPE"),
    ({"type": 1}, "BAD_ENVELOPE"),
    ({"type": "shout"}, "UNKNOWN_TYPE"),
    ({"type": "ack"}, "BAD_ENVELOPE"),
    ({"type": "ack", "received": -1}, "BAD_ENVELOPE"),
    ({"type": "ack", "received": 2**53}, "BAD_ENVELOPE"),
    ({"type": "heartbeat", "received": "0"}, "BAD_ENVELOPE"),
    ({"type": "message", "seq": 0, "text": "x"}, "BAD_ENVELOPE"),
    ({"type": "message", "seq": 1.5, "text": "x"}, "BAD_ENVELOPE"),
    ({"type": "message", "seq": 1}, "BAD_ENVELOPE"),
    ({"type": "message", "seq": 1, "text": "x", "data": "AAE="}, "BAD_ENVELOPE"),
    ({"type": "message", "seq": 1, "data": "AAE"}, "BAD_ENVELOPE"),
    ({"type": "bye", "code": 1001}, "BAD_ENVELOPE"),
    ({"type": "resume", "session": 1, "received": 0}, "BAD_ENVELOPE"),
    ({"type": "resume", "session": "x", "received": 0, "attempt": 0}, "BAD_ENVELOPE"),
]


class Recorded:
    """A client whose every frame, either way, is held against the schema."""

    def __init__(self, socket: Connection, schemas: dict[str, Draft202012Validator]) -> None:
        self._socket = socket
        self._schemas = schemas
        self.heard: set[str] = set()

    def say(self, envelope: Any, valid: bool = True) -> None:
        equal(self._schemas["from_client"].is_valid(envelope), valid, f"whether the schema allows {envelope}")
        self._socket.send(json.dumps(envelope))

    def hear(self, kind: str) -> Any:
        while True:
            envelope = json.loads(self._socket.recv(timeout=websocket.WAIT))
            problems = [error.message for error in self._schemas["from_server"].iter_errors(envelope)]
            expect(not problems, f"the schema does not allow {envelope}: {problems}")
            self.heard.add(envelope["type"])
            if envelope["type"] == kind:
                return envelope
            if envelope["type"] in ("error", "bye"):
                raise CheckFailed(f"the server says {envelope}")

    def closed(self) -> int:
        return websocket.expect_close(self._socket)[0]


def run(report: Report, binary: Path, work: Path, schema: Path) -> None:
    document = json.loads(schema.read_text())
    with report.check("schema: it is one"):
        Draft202012Validator.check_schema(document)
    schemas = {
        side: Draft202012Validator({**document, "anyOf": [{"$ref": f"#/$defs/{side}"}]})
        for side in ("from_client", "from_server")
    }
    with Server(binary, work / "schema.log") as server:
        with report.check("schema: what a client may send, and what the server answers"):
            for number, (envelope, answer) in enumerate(GOOD):
                with _connected(server, schemas, f"good{number}") as client:
                    client.say(envelope)
                    if answer is None:
                        equal(client.closed(), envelope.get("code", 1000), "the close code")
                    else:
                        client.hear(answer)
        with report.check("schema: what a client may not send"):
            for number, (envelope, code) in enumerate(BAD):
                with _connected(server, schemas, f"bad{number}") as client:
                    client.say(envelope, valid=False)
                    equal(client.hear("error")["code"], code, f"the answer to {envelope}")
        with report.check("schema: a session with messages, a resume and a bye"):
            _session(binary, server, schemas)


def _session(binary: Path, server: Server, schemas: dict[str, Draft202012Validator]) -> None:
    with _connected(server, schemas, "alice") as client:
        hello = client.hello
        for text in ("one", "two"):
            command = [binary, "send", "alice", text, "--server", f"http://{server.grpc}"]
            subprocess.run(command, check=True, capture_output=True, timeout=websocket.WAIT)
            client.hear("message")
    with _socket(server) as socket:
        client = Recorded(socket, schemas)
        client.say({"type": "resume", "session": hello["session"], "received": 1, "attempt": 1})
        equal(client.hear("hello")["resumed"], True, "resumed")
        equal(client.hear("message")["text"], "two", "what comes again")
        client.say({"type": "ack", "received": 2})
        command = [binary, "disconnect", "alice", "--server", f"http://{server.grpc}"]
        subprocess.run(command, check=True, capture_output=True, timeout=websocket.WAIT)
        client.hear("bye")
        equal(client.closed(), 1000, "the close code")


@contextmanager
def _socket(server: Server) -> Iterator[Connection]:
    socket = websocket.connect(server.ws, subprotocols=[SUBPROTOCOL])
    try:
        equal(socket.subprotocol, SUBPROTOCOL, "the subprotocol")
        yield socket
    finally:
        # With no Close, so that a session may go on.
        socket.socket.close()


class _Greeted(Recorded):
    hello: Any


@contextmanager
def _connected(server: Server, schemas: dict[str, Draft202012Validator], client_id: str) -> Iterator[_Greeted]:
    with _socket(server) as socket:
        client = _Greeted(socket, schemas)
        client.say({"type": "hello", "client_id": client_id})
        client.hello = client.hear("hello")
        yield client
