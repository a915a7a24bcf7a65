"""Runs grpcurl and reads what it prints."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import CheckFailed

# grpcurl exits with 64 plus the gRPC code.
DEADLINE_EXCEEDED = 64 + 4
CALL_TIMEOUT = 20.0


@dataclass(frozen=True)
class Outcome:
    """How one run of grpcurl ended."""

    code: int
    out: str
    err: str


class Grpcurl:
    """grpcurl with the options for one server."""

    def __init__(self, address: str, *options: str) -> None:
        self._program = find()
        self._address = address
        self._options = options or ("-plaintext",)

    def run(self, *arguments: str, request: str | None = None, flags: tuple[str, ...] = ()) -> Outcome:
        """Runs `grpcurl FLAGS ADDRESS ARGUMENTS`."""
        # On stdin, because one argument cannot be longer than 128 KiB on Linux.
        data = () if request is None else ("-d", "@")
        command = [self._program, *self._options, *flags, *data, self._address, *arguments]
        done = subprocess.run(
            command, input=request or "", capture_output=True, text=True, timeout=CALL_TIMEOUT, check=False
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def text(self, *arguments: str) -> str:
        """What `list` or `describe` prints."""
        outcome = self.run(*arguments)
        if outcome.code != 0:
            raise CheckFailed(f"grpcurl {' '.join(arguments)} exits with {outcome.code}: {outcome.err}")
        return outcome.out

    def stream(self, method: str, *requests: dict[str, Any], max_time: float | None = None) -> list[dict[str, Any]]:
        """All answers to a call. With `max_time` the call may also end by that."""
        flags = () if max_time is None else ("-max-time", str(max_time))
        outcome = self.run(method, request="\n".join(json.dumps(request) for request in requests), flags=flags)
        if outcome.code != 0 and not (max_time is not None and outcome.code == DEADLINE_EXCEEDED):
            raise CheckFailed(f"{method} exits with {outcome.code}: {outcome.err}")
        return documents(outcome.out)

    def call(self, method: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
        """The one answer to a call."""
        answers = self.stream(method, request or {})
        if len(answers) != 1:
            raise CheckFailed(f"{method} gives {len(answers)} answers")
        return answers[0]

    def error(self, method: str, request: dict[str, Any] | str) -> dict[str, Any]:
        """The google.rpc.Status, as JSON, that a call fails with."""
        data = request if isinstance(request, str) else json.dumps(request)
        outcome = self.run(method, request=data, flags=("-format-error",))
        if outcome.code == 0:
            raise CheckFailed(f"{method} does not fail: {outcome.out}")
        try:
            status = json.loads(outcome.err)
        except ValueError:
            raise CheckFailed(f"{method} exits with {outcome.code}: {outcome.err}") from None
        return dict(status)


def documents(text: str) -> list[dict[str, Any]]:
    """The JSON documents that follow each other in a text."""
    decoder = json.JSONDecoder()
    found = []
    rest = text.lstrip()
    while rest:
        document, end = decoder.raw_decode(rest)
        found.append(document)
        rest = rest[end:].lstrip()
    return found


def find() -> str:
    """grpcurl from the path, or from where `go install` puts it."""
    program = shutil.which("grpcurl") or shutil.which("grpcurl", path=str(Path.home() / "go" / "bin"))
    if program is None:
        raise FileNotFoundError("grpcurl is neither in the path nor in ~/go/bin")
    return program
