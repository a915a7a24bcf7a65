"""A backend: the generated stubs, every call noted, and a subscription that can be waited on."""

import queue
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from google.rpc import error_details_pb2
from grpc_status import rpc_status
from heartwire.v1 import (
    connection_service_pb2_grpc,
    event_service_pb2,
    event_service_pb2_grpc,
    message_service_pb2_grpc,
    node_service_pb2_grpc,
)

import grpc
from report import CheckFailed, equal, expect

CALL_TIMEOUT = 10.0
EVENT_TIMEOUT = 5.0


class Backend:
    """Stubs of the four services over one channel. Use it in a `with`."""

    def __init__(self, address: str, *options: tuple[str, str]) -> None:
        self.channel = grpc.insecure_channel(address, options)
        # Full names of the methods called, to tell at the end which one was forgotten.
        self.called: set[str] = set()
        noted = grpc.intercept_channel(self.channel, _Note(self.called))
        self.connections: Any = connection_service_pb2_grpc.ConnectionServiceStub(noted)
        self.events: Any = event_service_pb2_grpc.EventServiceStub(noted)
        self.messages: Any = message_service_pb2_grpc.MessageServiceStub(noted)
        self.node: Any = node_service_pb2_grpc.NodeServiceStub(noted)

    def __enter__(self) -> "Backend":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()

    def subscribe(self, **request: Any) -> "Subscription":
        return Subscription(self.events.Subscribe(event_service_pb2.SubscribeRequest(**request)))


class Subscription:
    """An open Subscribe stream, read by a thread."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def event(self, kind: str, client_id: str) -> Any:
        """The next event of that client; it must be of that kind."""
        while True:
            event = self.any_event()
            if event.client_id == client_id:
                equal(event.WhichOneof("kind"), kind, f"the next event of {client_id}")
                return event

    def any_event(self) -> Any:
        """The next event."""
        try:
            event = self._events.get(timeout=EVENT_TIMEOUT)
        except queue.Empty:
            raise CheckFailed(f"no event within {EVENT_TIMEOUT:.0f} s") from None
        if isinstance(event, grpc.RpcError):
            raise event
        return event

    def started(self) -> "Subscription":
        """Waits until the server has answered: whatever happens from now on is seen."""
        self._call.initial_metadata()
        return self

    def cancel(self) -> None:
        self._call.cancel()

    def _read(self) -> None:
        try:
            for response in self._call:
                for event in response.events:
                    self._events.put(event)
        except grpc.RpcError as error:
            self._events.put(error)


class _Note(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Notes the method of each call, and gives the unary ones a deadline."""

    def __init__(self, called: set[str]) -> None:
        self._called = called

    def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        self._called.add(details.method)
        return continuation(details._replace(timeout=details.timeout or CALL_TIMEOUT), request)

    def intercept_unary_stream(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        self._called.add(details.method)
        return continuation(details, request)

    def intercept_stream_stream(self, continuation: Callable[..., Any], details: Any, requests: Iterator[Any]) -> Any:
        self._called.add(details.method)
        return continuation(details, requests)


def expect_error(call: Callable[[], Any], code: grpc.StatusCode, reason: str) -> None:
    """The call must fail with this code and one ErrorInfo with this reason."""
    try:
        answer = call()
    except grpc.RpcError as error:
        # grpc raises an RpcError that is a Call too.
        call_ended: Any = error
        equal(call_ended.code(), code, f"the code of {call_ended.details()!r}")
        status = rpc_status.from_call(call_ended)
        expect(status is not None, f"no details in {call_ended.details()!r}")
        infos = [detail for detail in status.details if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
        equal(len(infos), 1, "the number of ErrorInfo")
        info = error_details_pb2.ErrorInfo.FromString(infos[0].value)
        equal((info.domain, info.reason), ("heartwire", reason), "domain and reason")
        return
    raise CheckFailed(f"the call does not fail with {reason}, it answers {answer!r:.300}")
