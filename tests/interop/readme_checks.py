"""Does what the README tells people to do."""

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from websockets.exceptions import ConnectionClosed

import chromium
import readme
import shell
import websocket
from grpcurl import DEADLINE_EXCEEDED, Grpcurl
from report import CheckFailed, Report, expect
from server import Server

ROOT = Path(__file__).resolve().parents[2]
SCRIPT_TIMEOUT = 20.0
# A script that reads a stream without an end gets less: it has shown what it does by then.
STREAM_SCRIPT_TIMEOUT = 6.0
CLIENT_PERIOD = 0.3


def run(report: Report, binary: Path, work: Path, text: str, required: bool) -> None:
    """Runs every example of the text on an instance of its own."""
    blocks = list(readme.blocks(text))
    commands = [(block, line) for block in blocks for line in readme.grpcurl_lines(block)]
    scripts = [block for block in blocks if block.language == "python"]
    pages = [block for block in blocks if block.language == "js"]
    if required:
        with report.check("README: it has examples for grpcurl and for Python"):
            expect(commands, "no line that begins with grpcurl in a sh or console block")
            expect(scripts, "no python block")
    with Server(binary, work / "readme.log") as server:
        for block in scripts:
            with report.check(f"README line {block.line}: python"), _clients(server):
                _run_script(_fitted(block.text, server), work)
        # What drains ends the instance for all that would come after it.
        for block, line in sorted(commands, key=lambda command: "/Drain" in command[1]):
            # In the list of checks whole requests would hide everything else.
            with report.check(f"README line {block.line}: {line if len(line) < 100 else line[:97] + '...'}"):
                with _clients(server):
                    _run_command(_fitted(line, server))
    program = chromium.find()
    for block in pages:
        if program is None:
            report.skip(f"README line {block.line}: js", "chromium is not installed")
            continue
        with report.check(f"README line {block.line}: js"):
            _run_in_browser(binary, work, program, block)


def _fitted(text: str, server: Server) -> str:
    return readme.with_addresses(text, server.ws, server.grpc, server.admin)


def _run_command(line: str) -> None:
    subscribes = "/Subscribe" in line
    done = shell.run(line.replace("grpcurl ", "grpcurl -max-time 2 ", 1) if subscribes else line)
    if not (done.returncode == 0 or (subscribes and done.returncode == DEADLINE_EXCEEDED)):
        raise CheckFailed(f"it exits with {done.returncode}: {done.stderr}")
    expect(done.stdout, "it prints nothing")


def _run_script(text: str, work: Path) -> None:
    """Runs a script from the root of the repository. One that does not end must have said something."""
    script = work / "readme_example.py"
    script.write_text(text)
    # Only for those that name stubs: others make their own from the proto files, or could not work without.
    stubs = {"PYTHONPATH": str(work / "stubs")} if "_pb2" in text else {}
    streams = re.search(r"\.(Subscribe|Watch)\(", text) is not None
    timeout = STREAM_SCRIPT_TIMEOUT if streams else SCRIPT_TIMEOUT
    try:
        done = subprocess.run(
            [sys.executable, "-u", script],
            cwd=ROOT,
            env=os.environ | stubs,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        expect(streams, f"it did not end within {timeout:.0f} s")
        errors = (expired.stderr or b"").decode()
        expect(expired.stdout, f"it did not end within {timeout:.0f} s and printed nothing; stderr: {errors}")
        expect("Traceback" not in errors, f"it raised: {errors}")
    else:
        expect(done.returncode == 0, f"it exits with {done.returncode}: {done.stderr[-500:]}")


def _run_in_browser(binary: Path, work: Path, program: str, block: readme.Block) -> None:
    with Server(binary, work / "readme.log") as server, chromium.Page(program, work / "readme-profile") as page:
        page.evaluate(_fitted(block.text, server))
        if "new WebSocket(" in block.text:
            grpcurl = Grpcurl(server.grpc)
            end = time.monotonic() + 5
            while grpcurl.call("heartwire.v1.ConnectionService/CountConnections").get("count") != "1":
                expect(time.monotonic() < end, "it did not connect")
        page.evaluate("new Promise((done) => setTimeout(done, 500))")
        expect(not page.uncaught, f"it threw {page.uncaught}")


@contextlib.contextmanager
def _clients(server: Server) -> Iterator[None]:
    """While it lasts, `alice` is connected and talks, and `bob` comes and goes: examples have what to show."""
    stop = threading.Event()

    def live() -> None:
        # An example may disconnect alice; she comes back.
        while not stop.is_set():
            with contextlib.suppress(ConnectionClosed, OSError), websocket.connect(server.ws, "alice") as alice:
                connected.set()
                while not stop.wait(CLIENT_PERIOD):
                    alice.send("hello from alice")
                    # Long enough for a backend to greet him.
                    with websocket.connect(server.ws, "bob"):
                        stop.wait(CLIENT_PERIOD)

    connected = threading.Event()
    thread = threading.Thread(target=live)
    thread.start()
    try:
        expect(connected.wait(websocket.WAIT), "alice could not connect")
        yield
    finally:
        stop.set()
        thread.join()
