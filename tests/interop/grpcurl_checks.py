"""What somebody who has only grpcurl can see and do."""

import shlex
from pathlib import Path
from typing import Any

from websockets.sync.connection import Connection

import shell
import websocket
from grpcurl import DEADLINE_EXCEEDED, Grpcurl, documents
from protos import Element
from report import Report, equal, expect
from server import Server

CONNECTIONS = "heartwire.v1.ConnectionService"
EVENTS = "heartwire.v1.EventService"
MESSAGES = "heartwire.v1.MessageService"
NODE = "heartwire.v1.NodeService"
ALICE = {"client_id": "alice"}
# Calls, with a request each, that this release answers with UNIMPLEMENTED.
NOT_IMPLEMENTED: list[tuple[str, dict[str, Any]]] = [
    (f"{EVENTS}/Subscribe", {"scope": "SCOPE_CLUSTER"}),
]


def run(report: Report, server: Server, elements: list[Element]) -> None:
    """Checks on an instance that keeps running."""
    grpcurl = Grpcurl(server.grpc)
    _listing(report, grpcurl, elements)
    for element in elements:
        with report.check(f"grpcurl describe {element.name}"):
            _described(grpcurl.text("describe", element.name), element)
    with websocket.connect(server.ws, "alice") as alice:
        _connections(report, grpcurl)
        _messages(report, grpcurl, server, alice)
        _events(report, grpcurl, server)
        _errors(report, grpcurl)
        _disconnect(report, grpcurl, alice)


def run_unix(report: Report, binary: Path, work: Path) -> None:
    """The same over a Unix socket."""
    socket = work / "grpc.sock"
    with Server(binary, work / "unix.log", grpc_listen=f"unix:{socket}") as server:
        # With the scheme: grpcurl 1.9.3 dials TCP whenever it is missing, `-unix` or not.
        grpcurl = Grpcurl(f"unix://{socket}", "-plaintext", "-unix", "-authority", "localhost")
        with report.check("grpcurl -unix list"):
            expect(NODE in grpcurl.text("list").split(), f"{NODE} is not listed")
        with report.check("grpcurl -unix GetNode"):
            expect(grpcurl.call(f"{NODE}/GetNode").get("headCursor"), "no head cursor")
        with (
            report.check("grpcurl, the line that the banner gives for a Unix socket"),
            websocket.connect(server.ws, "alice"),
        ):
            _says_written(_shell(server.try_send))


def run_drain(report: Report, server: Server) -> None:
    """Drains the instance; nothing can be asked of it afterwards."""
    grpcurl = Grpcurl(server.grpc)
    with websocket.connect(server.ws, "alice") as alice:
        with report.check("grpcurl Drain"):
            progress = grpcurl.stream(f"{NODE}/Drain", {"connections_per_second": 50, "reconnect_jitter": "1s"})
            # Zero is left out of JSON.
            equal(progress[-1], {"closed": "1"}, "the last progress")
        with report.check("a drained client is told when to come back"):
            code, reason = websocket.expect_close(alice)
            equal(code, 1012, "the close code")
            expect("reconnect_after_ms" in reason, f"no hint in the reason {reason!r}")
    with report.check("grpcurl GetNode after Drain"):
        equal(grpcurl.call(f"{NODE}/GetNode").get("draining"), True, "draining")
    with report.check("grpcurl health of a drained node"):
        equal(grpcurl.call("grpc.health.v1.Health/Check"), {"status": "NOT_SERVING"}, "health")


def _listing(report: Report, grpcurl: Grpcurl, elements: list[Element]) -> None:
    services = [element.name for element in elements if element.kind == "service"]
    with report.check("grpcurl list"):
        listed = grpcurl.text("list").split()
        for name in [*services, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"]:
            expect(name in listed, f"{name} is not listed")
    for service in services:
        with report.check(f"grpcurl list {service}"):
            methods = [e.name for e in elements if e.kind == "method" and e.name.startswith(f"{service}.")]
            equal(sorted(grpcurl.text("list", service).split()), sorted(methods), "the list")


def _described(text: str, element: Element) -> None:
    expect(f"{element.name} is a" in text, f"describe does not name it: {text}")
    shown = {line.strip().removeprefix("//").strip() for line in text.splitlines() if line.strip().startswith("//")}
    for comment in element.comments:
        for line in comment.splitlines():
            expect(not line.strip() or line.strip() in shown, f"the comment {line.strip()!r} is not shown")


def _connections(report: Report, grpcurl: Grpcurl) -> None:
    with report.check("grpcurl GetNode"):
        node = grpcurl.call(f"{NODE}/GetNode")
        equal(node["connections"], "1", "the connections")
        expect(node["nodeId"] and node["incarnation"] and node["version"] and node["startTime"], "it says too little")
    with report.check("grpcurl health"):
        for service in ("", CONNECTIONS, EVENTS, MESSAGES, NODE):
            equal(grpcurl.call("grpc.health.v1.Health/Check", {"service": service}), {"status": "SERVING"}, "health")
    with report.check("grpcurl ListConnections"):
        (listed,) = grpcurl.call(f"{CONNECTIONS}/ListConnections", {"filter": {"client_id_prefix": "al"}})[
            "connections"
        ]
        equal(listed["clientId"], "alice", "the client id")
        equal(listed["state"], "CONNECTION_STATE_ALIVE", "the state")
        equal(listed["heartbeat"], {"interval": "30s", "timeout": "60s"}, "the heartbeat")
    with report.check("grpcurl GetConnection"):
        request = {"connection_id": listed["connectionId"]}
        equal(grpcurl.call(f"{CONNECTIONS}/GetConnection", request)["connection"]["clientId"], "alice", "the client id")
    with report.check("grpcurl GetClient"):
        (found,) = grpcurl.call(f"{CONNECTIONS}/GetClient", ALICE)["connections"]
        equal(found["generation"], listed["generation"], "the generation")
    with report.check("grpcurl GetClient of nobody is OK and empty"):
        equal(grpcurl.call(f"{CONNECTIONS}/GetClient", {"client_id": "nobody"}).keys(), {"cursor"}, "the answer")
    with report.check("grpcurl CountConnections"):
        equal(grpcurl.call(f"{CONNECTIONS}/CountConnections")["count"], "1", "the count")
    with report.check("grpcurl UpdateLabels"):
        answer = grpcurl.call(f"{CONNECTIONS}/UpdateLabels", {"target": ALICE, "set": {"room": "7"}})
        equal(answer["connections"][0]["labels"], {"room": "7"}, "the labels")
    with report.check("grpcurl UpdateHeartbeat"):
        request = {"target": ALICE, "heartbeat": {"interval": "10s", "timeout": "25s"}}
        answer = grpcurl.call(f"{CONNECTIONS}/UpdateHeartbeat", request)
        equal(answer["connections"][0]["heartbeat"], request["heartbeat"], "the heartbeat")
    with report.check("grpcurl Probe"):
        (result,) = grpcurl.call(f"{CONNECTIONS}/Probe", {"target": ALICE, "timeout": "2s"})["results"]
        equal(result.get("answered"), True, "answered")
        expect(result["roundTripTime"].endswith("s"), "no round trip time")


def _messages(report: Report, grpcurl: Grpcurl, server: Server, alice: Connection) -> None:
    with report.check("grpcurl Send, as documented"):
        request = '{"target":{"client_id":"alice"},"text":"hi","receipt":"STAGE_WRITTEN"}'
        _says_written(_shell(f"grpcurl -plaintext -d {shlex.quote(request)} {server.grpc} {MESSAGES}/Send"))
        websocket.expect_message(alice, "hi")
    with report.check("grpcurl Send, the line of the banner"):
        _says_written(_shell(server.try_send))
        websocket.expect_message(alice, "hi")
    with report.check("grpcurl Send of bytes"):
        answer = grpcurl.call(f"{MESSAGES}/Send", {"target": ALICE, "binary": "AAEC"})
        equal(answer["deliveries"][0]["stage"], "STAGE_ACCEPTED", "the stage")
        websocket.expect_message(alice, b"\x00\x01\x02")
    with report.check("grpcurl Send with a message_id, twice"):
        named = {"target": ALICE, "text": "once", "message_id": "m"}
        answers = [grpcurl.call(f"{MESSAGES}/Send", named) for _ in range(2)]
        equal([answer.get("replayed", False) for answer in answers], [False, True], "the repeat")
        websocket.expect_message(alice, "once")
        _reason(grpcurl.error(f"{MESSAGES}/Send", named | {"text": "else"}), "MESSAGE_ID_REUSED")
    with report.check("grpcurl Broadcast"):
        answer = grpcurl.call(f"{MESSAGES}/Broadcast", {"labels": {"room": "7"}, "text": "all"})
        equal((answer["matched"], answer["accepted"]), ("1", "1"), "matched and accepted")
        websocket.expect_message(alice, "all")
    with report.check("grpcurl SendStream"):
        batches = [
            {"sends": [{"tag": 1, "request": {"target": ALICE, "text": "one"}}]},
            {"sends": [{"tag": 2, "request": {"target": {"client_id": "nobody"}, "text": "two"}}]},
        ]
        answers = grpcurl.stream(f"{MESSAGES}/SendStream", *batches)
        outcomes = {outcome["tag"]: outcome for answer in answers for outcome in answer["outcomes"]}
        equal(outcomes["1"]["response"]["deliveries"][0]["stage"], "STAGE_ACCEPTED", "the stage of one")
        equal((outcomes["2"]["code"], outcomes["2"]["reason"]), (5, "CLIENT_NOT_CONNECTED"), "the outcome of two")
        websocket.expect_message(alice, "one")


def _events(report: Report, grpcurl: Grpcurl, server: Server) -> None:
    with report.check("grpcurl Subscribe with a snapshot"):
        answers = grpcurl.stream(f"{EVENTS}/Subscribe", {"snapshot": {}}, max_time=1.5)
        (alice,) = (event for answer in answers for event in answer.get("events", []))
        equal((alice["clientId"], "connected" in alice), ("alice", True), "the snapshot")
        expect(answers[-1].get("cursor"), "the snapshot is not completed by a cursor")
    with report.check("grpcurl Subscribe, the line of the banner"):
        bounded = server.try_subscribe.replace("grpcurl ", "grpcurl -max-time 1.5 ", 1)
        expect("alice" in _shell(bounded, may_time_out=True), "alice is not shown")
    with report.check("grpcurl Subscribe from the beginning tells everything in order"):
        answers = grpcurl.stream(f"{EVENTS}/Subscribe", {"beginning": {}}, max_time=1.5)
        events = [event for answer in answers for event in answer.get("events", [])]
        kinds = [
            kind for event in events for kind in ("connected", "labelsChanged", "heartbeatChanged") if kind in event
        ]
        equal(kinds, ["connected", "labelsChanged", "heartbeatChanged"], "the kinds")
    with report.check("grpcurl Subscribe with a consumer, Acknowledge, ListConsumers and DeleteConsumer"):
        named = {"consumer": "c", "beginning": {}}
        cursor = grpcurl.stream(f"{EVENTS}/Subscribe", named, max_time=1.5)[-1]["cursor"]
        kept = grpcurl.call(f"{EVENTS}/Acknowledge", {"consumer": "c", "cursor": cursor})
        equal(kept, {"cursor": cursor}, "the kept position")
        again = grpcurl.stream(f"{EVENTS}/Subscribe", named, max_time=1.5)
        equal(again[0], {"cursor": cursor}, "where it goes on")
        (listed,) = grpcurl.call(f"{EVENTS}/ListConsumers")["consumers"]
        equal((listed["name"], listed["cursor"]), ("c", cursor), "the consumer listed")
        grpcurl.call(f"{EVENTS}/DeleteConsumer", {"consumer": "c"})
        _reason(grpcurl.error(f"{EVENTS}/DeleteConsumer", {"consumer": "c"}), "CONSUMER_NOT_FOUND")


def _errors(report: Report, grpcurl: Grpcurl) -> None:
    with report.check("grpcurl NOT_FOUND with a reason that can be read"):
        status = grpcurl.error(f"{MESSAGES}/Send", {"target": {"client_id": "nobody"}, "text": "hi"})
        equal(status["code"], 5, "the code")
        _reason(status, "CLIENT_NOT_CONNECTED")
    with report.check("grpcurl INVALID_ARGUMENT names the field"):
        status = grpcurl.error(f"{MESSAGES}/Broadcast", {"text": "to whom?"})
        equal(status["code"], 3, "the code")
        _reason(status, "FIELD_INVALID")
        expect("fieldViolations" in str(status["details"]), f"no field violations in {status['details']}")
    for method, request in NOT_IMPLEMENTED:
        with report.check(f"grpcurl {method.rpartition('.')[2]} {list(request)} is not implemented"):
            status = grpcurl.error(method, request)
            equal(status["code"], 12, "the code")
            _reason(status, "NOT_IMPLEMENTED")


def _disconnect(report: Report, grpcurl: Grpcurl, alice: Connection) -> None:
    with report.check("grpcurl Disconnect"):
        answer = grpcurl.call(f"{CONNECTIONS}/Disconnect", {"target": ALICE, "code": 4000, "reason": "enough"})
        equal(len(answer["connectionIds"]), 1, "the number of connections ended")
        equal(websocket.expect_close(alice), (4000, "enough"), "the Close")


def _reason(status: dict[str, Any], reason: str) -> None:
    """The ErrorInfo must be shown as fields: grpcurl can do so only if reflection knows google.rpc."""
    infos = [detail for detail in status.get("details", []) if detail["@type"].endswith("/google.rpc.ErrorInfo")]
    equal(len(infos), 1, "the number of ErrorInfo")
    equal((infos[0].get("reason"), infos[0].get("domain")), (reason, "heartwire"), f"reason and domain in {infos[0]}")


def _says_written(text: str) -> None:
    (answer,) = documents(text)
    equal(answer["deliveries"][0]["stage"], "STAGE_WRITTEN", "the stage")


def _shell(line: str, may_time_out: bool = False) -> str:
    done = shell.run(line)
    ends_well = done.returncode == 0 or (may_time_out and done.returncode == DEADLINE_EXCEEDED)
    expect(ends_well, f"{line} exits with {done.returncode}: {done.stderr}")
    return done.stdout
