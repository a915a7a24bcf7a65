"""A WebSocket client as a device or a browser would be one."""

from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as connect_to
from websockets.sync.connection import Connection

from report import CheckFailed

WAIT = 5.0


def connect(address: str, client_id: str | None = None, **options: Any) -> Connection:
    """Connects, by query parameter if there is a client id. It sends no Pings of its own."""
    query = "" if client_id is None else f"?client_id={client_id}"
    options = {"open_timeout": WAIT, "close_timeout": 1, "ping_interval": None, **options}
    return connect_to(f"ws://{address}/{query}", **options)


def expect_message(client: Connection, message: str | bytes) -> None:
    """The next message that is no heartbeat must be this one."""
    while (got := client.recv(timeout=WAIT)) == "heartbeat":
        pass
    if got != message:
        raise CheckFailed(f"the client got {got!r:.200}, not {message!r:.200}")


def expect_close(client: Connection, timeout: float = WAIT) -> tuple[int, str]:
    """Reads until the server closes; the code and the reason of its Close frame."""
    try:
        while True:
            client.recv(timeout=timeout)
    except ConnectionClosed as closed:
        if closed.rcvd is None:
            raise CheckFailed("the connection ended without a Close frame") from closed
        return closed.rcvd.code, closed.rcvd.reason
