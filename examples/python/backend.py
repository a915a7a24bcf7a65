"""A small backend: it prints who comes and goes, and echoes what the clients say.

    pip install grpcio grpcio-tools
    cd examples/python
    python -m grpc_tools.protoc -I ../../proto --python_out=. --grpc_python_out=. ../../proto/heartwire/v1/*.proto
    python backend.py

Stop it, let clients come, go and talk, start it again: it goes on where it stopped.
"""

import argparse
import json
import time
from pathlib import Path

import grpc
from heartwire.v1 import event_service_pb2, event_service_pb2_grpc, types_pb2
from heartwire.v1 import message_service_pb2, message_service_pb2_grpc

# After these the same can be tried again. Others are faults of this program.
PASSING = ("UNAVAILABLE", "ABORTED", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")
# The first finds out that the server is gone when nothing says so, the second that it is back.
CHANNEL_OPTIONS = (("grpc.keepalive_time_ms", 30_000), ("grpc.max_reconnect_backoff_ms", 5_000))


class Backend:
    def __init__(self, channel: grpc.Channel, file: Path) -> None:
        self.events = event_service_pb2_grpc.EventServiceStub(channel)
        self.messages = message_service_pb2_grpc.MessageServiceStub(channel)
        self.file = file

    def follow(self, snapshot: bool) -> None:
        """Handles events, from the saved cursor or from a snapshot, until the stream fails."""
        saved = json.loads(self.file.read_text()) if self.file.exists() else {"cursor": "", "online": {}}
        if snapshot or not saved["cursor"]:
            request = event_service_pb2.SubscribeRequest(snapshot=event_service_pb2.SnapshotStart())
            before, online = saved["online"], {}  # Whoever is connected is told again.
        else:
            request, before, online = event_service_pb2.SubscribeRequest(cursor=saved["cursor"]), {}, saved["online"]
        for response in self.events.Subscribe(request):
            for event in response.events:
                self.handle(event, online, before)
            if not response.cursor:
                continue  # Part of a snapshot: no place to resume from.
            for connection_id in before.keys() - online.keys():
                print(f"- {before[connection_id]}: left unseen", flush=True)
            before = {}  # The snapshot, if it was one, is complete.
            # Both in one file, so that they fit each other. Dying before this line means that the batch comes
            # again: everything is handled at least once.
            new = self.file.with_suffix(".new")
            new.write_text(json.dumps({"cursor": response.cursor, "online": online}))
            new.replace(self.file)

    def handle(self, event: event_service_pb2.Event, online: dict[str, str], before: dict[str, str]) -> None:
        kind = event.WhichOneof("kind")
        # By connection: where the node allows it, a client id has several.
        if kind == "connected":
            online[event.connection_id] = event.client_id
            if event.connection_id not in before:
                print(f"+ {event.client_id} from {event.connected.remote_address}", flush=True)
        elif kind == "disconnected" and online.pop(event.connection_id, None):
            print(f"- {event.client_id}: {types_pb2.DisconnectCause.Name(event.disconnected.cause)}", flush=True)
        elif kind == "message_received" and event.message_received.HasField("text"):
            self.answer(event, f"echo: {event.message_received.text}")

    def answer(self, event: event_service_pb2.Event, text: str) -> None:
        target = types_pb2.Target(connection_id=event.connection_id)  # Not a newer one of that client id.
        try:
            self.messages.Send(message_service_pb2.SendRequest(target=target, text=text), timeout=5)
        except grpc.RpcError as error:
            # The client left, or reads too slowly: its own loss, and no reason to hold up the others.
            if error.code() not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED):
                raise
            print(f"! no answer to {event.client_id}: {error.details()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Echoes what clients say.")
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--state", type=Path, default=Path("backend.json"), help="keeps the cursor and who is online")
    options = parser.parse_args()
    backend = Backend(grpc.insecure_channel(options.address, CHANNEL_OPTIONS), options.state)
    snapshot = False
    while True:
        try:
            backend.follow(snapshot)
        except grpc.RpcError as error:
            print(f"! {error.code().name}: {error.details()}", flush=True)
            # CURSOR_EXPIRED or EPOCH_CHANGED: the log has no more what follows the cursor.
            snapshot = error.code() == grpc.StatusCode.OUT_OF_RANGE
            if error.code().name not in (*PASSING, "OUT_OF_RANGE"):
                raise
            time.sleep(0 if snapshot else 1)


if __name__ == "__main__":
    main()
