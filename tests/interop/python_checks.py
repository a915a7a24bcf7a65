"""What a backend in Python can do with generated stubs."""

import time
from pathlib import Path
from typing import Any

from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from heartwire.v1 import (
    connection_service_pb2 as connections_pb2,
)
from heartwire.v1 import (
    event_service_pb2 as events_pb2,
)
from heartwire.v1 import (
    message_service_pb2 as messages_pb2,
)
from heartwire.v1 import (
    node_service_pb2 as node_pb2,
)
from heartwire.v1 import (
    types_pb2,
)

import grpc
import websocket
from backend import CALL_TIMEOUT, EVENT_TIMEOUT, Backend, Subscription, expect_error
from protos import Element
from report import Report, equal, expect
from server import Server

FAST_HEARTBEAT = ("--set", "heartbeat.interval=300ms", "--set", "heartbeat.timeout=800ms")


def run(report: Report, binary: Path, work: Path, elements: list[Element]) -> None:
    with Server(binary, work / "python.log") as server, Backend(server.grpc) as backend:
        _reflection(report, backend, elements)
        _health(report, backend, elements)
        _presence(report, server, backend)
        _commands(report, server, backend)
        _endings(report, server, backend)
        _messages(report, server, backend)
        _labels(report, server, backend)
        _cursors(report, server, backend)
        _errors(report, backend)
        # Last: there is nothing to be done with a node that was drained.
        _drain(report, server, backend)
        with report.check("python: every method was called"):
            methods = {"/{}/{}".format(*e.name.rsplit(".", 1)) for e in elements if e.kind == "method"}
            equal(methods - backend.called, set(), "what was not called")
    _unix(report, binary, work)
    # `text`, so that no Ping is sent: this library would answer it and so prove itself alive.
    options = (*FAST_HEARTBEAT, "--set", "heartbeat.server=text")
    with Server(binary, work / "heartbeat.log", *options) as server, Backend(server.grpc) as backend:
        _heartbeats(report, server, backend)


def _reflection(report: Report, backend: Backend, elements: list[Element]) -> None:
    services = {element.name for element in elements if element.kind == "service"}
    for version in ("v1", "v1alpha"):
        with report.check(f"python: reflection {version}"):
            # The messages of both versions are the same but for the package, so these serve for both.
            call = backend.channel.stream_stream(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
            )
            requests = [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol="heartwire.v1.SendRequest"),
            ]
            listed, file = call(iter(requests), timeout=CALL_TIMEOUT)
            names = {service.name for service in listed.list_services_response.service}
            expect(services <= names, f"only {names} are listed")
            expect(file.file_descriptor_response.file_descriptor_proto, "no file for a message")


def _health(report: Report, backend: Backend, elements: list[Element]) -> None:
    health = health_pb2_grpc.HealthStub(backend.channel)
    with report.check("python: health"):
        for service in ("", *(element.name for element in elements if element.kind == "service")):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=CALL_TIMEOUT)
            equal(answer.status, health_pb2.HealthCheckResponse.SERVING, f"health of {service!r}")
    with report.check("python: health is watched"):
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=CALL_TIMEOUT)
        equal(next(watch).status, health_pb2.HealthCheckResponse.SERVING, "health")
        watch.cancel()


def _presence(report: Report, server: Server, backend: Backend) -> None:
    """A client comes, speaks and is listed."""
    subscription = backend.subscribe(now=events_pb2.NowStart()).started()
    client = websocket.connect(server.ws)
    with report.check("python: a client that names itself by its heartbeat is seen"):
        client.send("heartbeat:bob")
        connected = subscription.event("connected", "bob")
        equal(connected.connected.state, types_pb2.CONNECTION_STATE_ALIVE, "the state")
        expect(connected.generation > 0 and connected.cursor, "no generation or no cursor")
    with report.check("python: its message is seen"):
        client.send("hello Grüße 🌍")
        equal(subscription.event("message_received", "bob").message_received.text, "hello Grüße 🌍", "the text")
        client.send(b"\x00\xff")
        equal(subscription.event("message_received", "bob").message_received.binary, b"\x00\xff", "the bytes")
    with report.check("python: heartbeats are no messages"):
        client.send("heartbeat 1700000000")
        client.send("after")
        equal(subscription.event("message_received", "bob").message_received.text, "after", "the next message")
    with report.check("python: it is listed, and read by page"):
        with websocket.connect(server.ws, "carol"):
            subscription.event("connected", "carol")
            pages = _pages(backend, page_size=1)
            equal([len(page.connections) for page in pages], [1, 1], "the sizes of the pages")
            names = {connection.client_id for page in pages for connection in page.connections}
            equal(names, {"bob", "carol"}, "who is listed")
            equal(len({page.cursor for page in pages}), 1, "the number of cursors of the pages")
        subscription.event("disconnected", "carol")
    with report.check("python: one connection, one client, a count"):
        one = backend.connections.GetConnection(
            connections_pb2.GetConnectionRequest(connection_id=connected.connection_id, min_cursor=connected.cursor)
        ).connection
        equal((one.client_id, one.generation), ("bob", connected.generation), "client id and generation")
        equal(one.stats.messages_in, 3, "messages_in")
        found = backend.connections.GetClient(connections_pb2.GetClientRequest(client_id="bob")).connections
        equal([connection.connection_id for connection in found], [connected.connection_id], "the connections of bob")
        equal(backend.connections.CountConnections(connections_pb2.CountConnectionsRequest()).count, 1, "the count")
    client.close()
    subscription.cancel()


def _commands(report: Report, server: Server, backend: Backend) -> None:
    """A client is probed, retuned and sent away."""
    subscription = backend.subscribe(now=events_pb2.NowStart()).started()
    client = websocket.connect(server.ws, "bob")
    connected = subscription.event("connected", "bob")

    with report.check("python: a probe is answered"):
        (probed,) = backend.connections.Probe(connections_pb2.ProbeRequest(target=_target("bob"))).results
        expect(probed.answered and probed.HasField("round_trip_time"), f"it was not: {probed}")
    with report.check("python: probing a client often does it no harm"):
        probe = connections_pb2.ProbeRequest(target=_target("frank"))
        with websocket.connect(server.ws, "frank"):
            subscription.event("connected", "frank")
            answers = [backend.connections.Probe(probe) for _ in range(300)]
        equal({result.answered for answer in answers for result in answer.results}, {True}, "answered")
    with report.check("python: a faster heartbeat is set, and the client gets it as text"):
        settings = types_pb2.HeartbeatSettings(interval=_seconds(0.2), timeout=_seconds(5))
        request = connections_pb2.UpdateHeartbeatRequest(target=_target("bob"), heartbeat=settings)
        equal(backend.connections.UpdateHeartbeat(request).connections[0].heartbeat, settings, "the settings")
        equal(subscription.event("heartbeat_changed", "bob").heartbeat_changed.heartbeat, settings, "the event")
        # Only clients that speak text heartbeats get them as text.
        client.send("heartbeat")
        equal(client.recv(timeout=EVENT_TIMEOUT), "heartbeat", "what the client gets")
    with report.check("python: a client is disconnected with a code and a reason"):
        request = connections_pb2.DisconnectRequest(
            target=_target("bob"), code=4321, reason="enough", if_generation=connected.generation
        )
        equal(backend.connections.Disconnect(request).connection_ids, [connected.connection_id], "who is gone")
        equal(websocket.expect_close(client), (4321, "enough"), "the Close")
        gone = subscription.event("disconnected", "bob").disconnected
        equal(gone.cause, types_pb2.DISCONNECT_CAUSE_KICKED, "the cause")
        equal((gone.close_code, gone.close_reason), (4321, "enough"), "what it tells")
    subscription.cancel()


def _endings(report: Report, server: Server, backend: Backend) -> None:
    """A client asks to go, and one is replaced."""
    subscription = backend.subscribe(now=events_pb2.NowStart()).started()
    with report.check("python: an empty text asks to be closed"):
        with websocket.connect(server.ws, "dave") as dave:
            subscription.event("connected", "dave")
            dave.send("")
            equal(websocket.expect_close(dave), (1000, "Closed by client"), "the Close")
        gone = subscription.event("disconnected", "dave").disconnected
        equal(gone.cause, types_pb2.DISCONNECT_CAUSE_CLIENT_CLOSED, "the cause")
    with report.check("python: the newer of two connections of an id wins"):
        with websocket.connect(server.ws, "erin") as older:
            first = subscription.event("connected", "erin")
            with websocket.connect(server.ws, "erin"):
                equal(websocket.expect_close(older)[0], 4409, "the close code of the older")
                gone = subscription.event("disconnected", "erin").disconnected
                equal(gone.cause, types_pb2.DISCONNECT_CAUSE_REPLACED, "the cause")
                second = subscription.event("connected", "erin")
                equal(second.connected.replaces_generation, first.generation, "replaces_generation")
                expect(second.generation > first.generation, "the generation does not rise")
        subscription.event("disconnected", "erin")
    subscription.cancel()


def _messages(report: Report, server: Server, backend: Backend) -> None:
    with websocket.connect(server.ws, "bob") as bob:
        with report.check("python: a message is written and received"):
            request = messages_pb2.SendRequest(target=_target("bob"), text="hi", receipt=messages_pb2.STAGE_WRITTEN)
            (delivery,) = backend.messages.Send(request).deliveries
            equal(delivery.stage, messages_pb2.STAGE_WRITTEN, "the stage")
            websocket.expect_message(bob, "hi")
        with report.check("python: a message larger than clients may send is received whole"):
            large = bytes(range(256)) * 2048
            backend.messages.Send(messages_pb2.SendRequest(target=_target("bob"), binary=large))
            websocket.expect_message(bob, large)
        with report.check("python: a stream of sends is received in order, with an outcome each"):
            sends = [_tagged(tag, "bob") for tag in range(500)] + [_tagged(500, "nobody")]
            batches = [messages_pb2.SendStreamRequest(sends=sends[i : i + 100]) for i in range(0, len(sends), 100)]
            stream = backend.messages.SendStream(iter(batches), timeout=CALL_TIMEOUT)
            outcomes = {outcome.tag: outcome for response in stream for outcome in response.outcomes}
            equal(outcomes.keys(), set(range(501)), "the tags")
            equal({outcomes[tag].code for tag in range(500)}, {0}, "the codes of bob's")
            equal(outcomes[500].reason, "CLIENT_NOT_CONNECTED", "the reason of nobody's")
            for tag in range(500):
                websocket.expect_message(bob, str(tag))
        with report.check("python: a broadcast to everyone"):
            answer = backend.messages.Broadcast(messages_pb2.BroadcastRequest(everyone=True, text="all"))
            equal((answer.matched, answer.accepted, answer.refused), (1, 1, 0), "the counts")
            websocket.expect_message(bob, "all")


def _labels(report: Report, server: Server, backend: Backend) -> None:
    watching = events_pb2.EventFilter(labels={"room": "7"})
    subscription = backend.subscribe(now=events_pb2.NowStart(), filter=watching).started()
    with websocket.connect(server.ws, "bob") as bob, websocket.connect(server.ws, "carol") as carol:
        with report.check("python: labels are set, listed by, and seen by a filter"):
            request = connections_pb2.UpdateLabelsRequest(target=_target("bob"), set={"room": "7", "tier": "gold"})
            equal(backend.connections.UpdateLabels(request).connections[0].labels, request.set, "the labels")
            equal(subscription.event("labels_changed", "bob").labels, request.set, "the labels of the event")
            (page,) = _pages(backend, filter=connections_pb2.ConnectionFilter(labels={"room": "7"}))
            equal([connection.client_id for connection in page.connections], ["bob"], "who is listed")
        with report.check("python: a broadcast by label reaches only those"):
            answer = backend.messages.Broadcast(messages_pb2.BroadcastRequest(labels={"room": "7"}, text="to room 7"))
            equal(answer.matched, 1, "matched")
            websocket.expect_message(bob, "to room 7")
            backend.messages.Send(messages_pb2.SendRequest(target=_target("carol"), text="to carol"))
            websocket.expect_message(carol, "to carol")
        with report.check("python: leaving the label is seen, and what comes after is not"):
            request = connections_pb2.UpdateLabelsRequest(target=_target("bob"), remove=["room"])
            backend.connections.UpdateLabels(request)
            left = subscription.event("labels_changed", "bob")
            equal(left.labels_changed.previous_labels, {"room": "7", "tier": "gold"}, "the labels before")
            equal(left.labels, {"tier": "gold"}, "the labels after")
    subscription.cancel()


def _cursors(report: Report, server: Server, backend: Backend) -> None:
    with websocket.connect(server.ws, "bob") as bob:
        with report.check("python: a snapshot, then news"):
            subscription = backend.subscribe(snapshot=events_pb2.SnapshotStart()).started()
            equal(subscription.event("connected", "bob").cursor, "", "the cursor in a snapshot")
            bob.send("one")
            one = subscription.event("message_received", "bob")
            subscription.cancel()
        with report.check("python: a subscriber that was away resumes from its cursor"):
            bob.send("two")
            websocket.connect(server.ws, "carol").close()
            resumed = backend.subscribe(cursor=one.cursor)
            equal(resumed.event("message_received", "bob").message_received.text, "two", "the first message")
            bob.send("three")
            equal(resumed.event("message_received", "bob").message_received.text, "three", "the next message")
            resumed.cancel()
        with report.check("python: from the beginning come the same events in the same order"):
            again = [_first_events(backend.subscribe(beginning=events_pb2.BeginningStart()), 3) for _ in range(2)]
            equal(again[0], again[1], "the second reading")
        with report.check("python: a filter by kind and id"):
            wanted = events_pb2.EventFilter(kinds=[events_pb2.EVENT_KIND_MESSAGE_RECEIVED], client_ids=["bob"])
            filtered = backend.subscribe(cursor=one.cursor, filter=wanted)
            equal(filtered.event("message_received", "bob").message_received.text, "two", "the message")
            filtered.cancel()
        with report.check("python: a damaged cursor"):
            damaged = one.cursor[:-1] + ("A" if one.cursor[-1] != "A" else "B")
            subscribe = events_pb2.SubscribeRequest(cursor=damaged)
            expect_error(
                lambda: next(backend.events.Subscribe(subscribe, timeout=CALL_TIMEOUT)),
                grpc.StatusCode.INVALID_ARGUMENT,
                "CURSOR_INVALID",
            )


def _errors(report: Report, backend: Backend) -> None:
    def fails(name: str, call: Any, request: Any, code: grpc.StatusCode, reason: str) -> None:
        with report.check(f"python: {name}: {reason}"):
            expect_error(lambda: call(request), code, reason)

    nobody = _target("nobody")
    connections, messages, events = backend.connections, backend.messages, backend.events
    not_found, invalid = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT
    fails(
        "Send to nobody",
        messages.Send,
        messages_pb2.SendRequest(target=nobody, text="x"),
        not_found,
        "CLIENT_NOT_CONNECTED",
    )
    fails(
        "Probe of nobody",
        connections.Probe,
        connections_pb2.ProbeRequest(target=nobody),
        not_found,
        "CLIENT_NOT_CONNECTED",
    )
    unknown = connections_pb2.GetConnectionRequest(connection_id="01890a5d-ac96-774b-bcce-b302099a8057")
    fails("GetConnection of none", connections.GetConnection, unknown, not_found, "CONNECTION_NOT_FOUND")
    fails("Send without a payload", messages.Send, messages_pb2.SendRequest(target=nobody), invalid, "FIELD_INVALID")
    fails("Send without a target", messages.Send, messages_pb2.SendRequest(text="x"), invalid, "FIELD_INVALID")
    fails("Broadcast to no one", messages.Broadcast, messages_pb2.BroadcastRequest(text="x"), invalid, "FIELD_INVALID")
    reserved = connections_pb2.DisconnectRequest(target=nobody, code=1006)
    fails("Disconnect with 1006", connections.Disconnect, reserved, invalid, "FIELD_INVALID")
    token = connections_pb2.ListConnectionsRequest(page_token="nonsense")
    fails("ListConnections", connections.ListConnections, token, invalid, "PAGE_TOKEN_INVALID")
    with report.check("python: a request that is too large is RESOURCE_EXHAUSTED"):
        # Not OUT_OF_RANGE: that means to take a snapshot, and a backend that obeys would do so for ever.
        large = events_pb2.SubscribeRequest(filter=events_pb2.EventFilter(client_id_prefix="x" * (5 << 20)))
        equal(events.Subscribe(large, timeout=CALL_TIMEOUT).code(), grpc.StatusCode.RESOURCE_EXHAUSTED, "the code")
    acknowledge = events_pb2.AcknowledgeRequest(consumer="c", cursor="x")
    fails("Acknowledge", events.Acknowledge, acknowledge, invalid, "CURSOR_INVALID")
    listing = events_pb2.ListConsumersRequest(page_token="nonsense")
    fails("ListConsumers", events.ListConsumers, listing, invalid, "PAGE_TOKEN_INVALID")
    delete = events_pb2.DeleteConsumerRequest(consumer="c")
    fails("DeleteConsumer", events.DeleteConsumer, delete, not_found, "CONSUMER_NOT_FOUND")


def _drain(report: Report, server: Server, backend: Backend) -> None:
    with report.check("python: GetNode"):
        expect(backend.node.GetNode(node_pb2.GetNodeRequest()).head_cursor, "no head cursor")
    with report.check("python: a drain closes the clients and tells the subscribers"):
        subscription = backend.subscribe(now=events_pb2.NowStart()).started()
        with websocket.connect(server.ws, "bob") as bob:
            subscription.event("connected", "bob")
            progress = list(backend.node.Drain(node_pb2.DrainRequest(connections_per_second=100), timeout=CALL_TIMEOUT))
            equal(progress[-1].remaining, 0, "the connections remaining")
            equal(websocket.expect_close(bob)[0], 1012, "the close code")
        gone = subscription.event("disconnected", "bob").disconnected
        equal(gone.cause, types_pb2.DISCONNECT_CAUSE_DRAINED, "the cause")


def _unix(report: Report, binary: Path, work: Path) -> None:
    with (
        report.check("python: over a Unix socket"),
        Server(binary, work / "unix.log", grpc_listen=f"unix:{work}/python.sock") as server,
        # Otherwise grpc-python gives the path for the authority, which HTTP/2 servers refuse.
        Backend(f"unix:{server.grpc}", ("grpc.default_authority", "localhost")) as backend,
    ):
        expect(backend.node.GetNode(node_pb2.GetNodeRequest()).head_cursor, "no head cursor")


def _heartbeats(report: Report, server: Server, backend: Backend) -> None:
    subscription = backend.subscribe(now=events_pb2.NowStart()).started()
    with report.check("python: text heartbeats keep a client alive"), websocket.connect(server.ws, "bob") as bob:
        subscription.event("connected", "bob")
        answered = 0
        # Twice the timeout, so that without them it would be gone.
        end = time.monotonic() + 1.6
        while time.monotonic() < end:
            bob.send("heartbeat")
            try:
                answered += bob.recv(timeout=0.1) == "heartbeat"
            except TimeoutError:
                continue
        expect(answered >= 2, f"the server sent {answered} heartbeats in 1.6 s at an interval of 0.3 s")
        bob.close()
        equal(subscription.event("disconnected", "bob").disconnected.close_code, 1000, "the close code")
    with report.check("python: a silent client is suspected, then gone"):
        with websocket.connect(server.ws, "carol") as carol:
            subscription.event("connected", "carol")
            subscription.event("suspected", "carol")
            equal(websocket.expect_close(carol), (4408, "Heartbeat timeout"), "the Close")
            gone = subscription.event("disconnected", "carol").disconnected
            equal(gone.cause, types_pb2.DISCONNECT_CAUSE_HEARTBEAT_TIMEOUT, "the cause")
    subscription.cancel()


def _pages(backend: Backend, **request: Any) -> list[Any]:
    pages = [backend.connections.ListConnections(connections_pb2.ListConnectionsRequest(**request))]
    while token := pages[-1].next_page_token:
        following = connections_pb2.ListConnectionsRequest(page_token=token, **request)
        pages.append(backend.connections.ListConnections(following))
    return pages


def _first_events(subscription: Subscription, count: int) -> list[str]:
    """The client ids and positions of the first events of the log."""
    events = [subscription.any_event() for _ in range(count)]
    subscription.cancel()
    return [f"{event.client_id} {event.cursor}" for event in events]


def _tagged(tag: int, client_id: str) -> Any:
    return messages_pb2.TaggedSend(tag=tag, request=messages_pb2.SendRequest(target=_target(client_id), text=str(tag)))


def _target(client_id: str) -> Any:
    return types_pb2.Target(client_id=client_id)


def _seconds(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration
