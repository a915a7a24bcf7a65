"""Starts the binary as a user would and reads from its banner where it listens."""

import queue
import re
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import IO

BANNER = {
    "ws": re.compile(r"^  clients +ws://(\S+)$"),
    "grpc": re.compile(r"^  backends +gRPC on (?:unix:)?([^,]+),"),
    "admin": re.compile(r"^  admin +http://([^/]+)/"),
    "subscribe": re.compile(r"^  (grpcurl .*EventService/Subscribe)$"),
    "send": re.compile(r"^  (grpcurl .*MessageService/Send)$"),
}
START_TIMEOUT = 15.0
STOP_TIMEOUT = 30.0


class Server:
    """One running instance on free ports. Use it in a `with`: it is stopped at the end."""

    def __init__(self, binary: Path, log: Path, *options: str, grpc_listen: str = "127.0.0.1:0") -> None:
        listeners = ["--ws-listen", "127.0.0.1:0", "--grpc-listen", grpc_listen, "--admin-listen", "127.0.0.1:0"]
        self._log = log.open("ab")
        self._process = subprocess.Popen(
            [binary, *listeners, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        try:
            banner = self._read_banner()
        except BaseException:
            self.stop()
            raise
        self.ws = banner["ws"]
        self.grpc = banner["grpc"]
        self.admin = banner["admin"]
        # The lines that the banner tells people to try.
        self.try_subscribe = banner["subscribe"]
        self.try_send = banner["send"]

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> int:
        """Stops it with SIGTERM and gives its exit code. Harmless when it is stopped already."""
        self._process.terminate()
        try:
            code = self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._log.close()
        return code

    def _read_banner(self) -> dict[str, str]:
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        assert self._process.stdout is not None
        # The thread reads until the process ends, so that the pipe never fills up and stalls it.
        threading.Thread(target=_pump, args=(self._process.stdout, lines), daemon=True).start()
        found: dict[str, str] = {}
        while found.keys() != BANNER.keys():
            try:
                line = lines.get(timeout=START_TIMEOUT)
            except queue.Empty:
                raise RuntimeError(f"no banner within {START_TIMEOUT:.0f} s") from None
            if line is None:
                raise RuntimeError(f"the binary ended with {self._process.wait()}; its log is {self._log.name}")
            for name, pattern in BANNER.items():
                if match := pattern.match(line.rstrip("\n")):
                    found[name] = match[1]
        return found


def _pump(stream: IO[str], lines: "queue.SimpleQueue[str | None]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)
