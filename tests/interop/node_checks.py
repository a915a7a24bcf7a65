"""Runs the backend in node/, which loads the proto files with @grpc/proto-loader, and the tests of clients/js."""

import os
import shutil
import subprocess
from pathlib import Path

import websocket
from report import Report, equal, expect
from server import Server

SOURCE = Path(__file__).resolve().parent / "node"
INSTALL_TIMEOUT = 60.0
RUN_TIMEOUT = 20.0
CLIENT_TIMEOUT = 60.0


def run(report: Report, binary: Path, work: Path, protos: Path) -> None:
    if shutil.which("npm") is None:
        report.skip("node", "npm is not installed")
        return
    with (
        report.check("node: subscribe, list, send, disconnect"),
        Server(binary, work / "node.log") as server,
        websocket.connect(server.ws, "alice") as alice,
    ):
        project = work / "node"
        shutil.copytree(SOURCE, project)
        _command("npm", "ci", "--silent", "--no-audit", "--no-fund", cwd=project, timeout=INSTALL_TIMEOUT)
        _command("node", "check.js", server.grpc, str(protos), cwd=project, timeout=RUN_TIMEOUT)
        websocket.expect_message(alice, "hi from Node")
        websocket.expect_message(alice, "streamed from Node")
        equal(websocket.expect_close(alice), (4000, "enough"), "the Close")


def run_client(report: Report, binary: Path, work: Path, root: Path) -> None:
    """Runs the tests of clients/js against the binary."""
    if shutil.which("npm") is None:
        report.skip("clients/js", "npm is not installed")
        return
    with report.check("clients/js: its own tests"):
        project = work / "clients-js"
        shutil.copytree(root / "clients/js", project, ignore=shutil.ignore_patterns("node_modules"))
        _command("npm", "ci", "--silent", "--no-audit", "--no-fund", cwd=project, timeout=INSTALL_TIMEOUT)
        environment = {"TEST_BINARY": str(binary), "TEST_ROOT": str(root)}
        _command("npm", "test", "--silent", cwd=project, timeout=CLIENT_TIMEOUT, environment=environment)


def _command(*command: str, cwd: Path, timeout: float, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    # Node's test runner tells on standard output what failed.
    told = done.stderr + "".join(line for line in done.stdout.splitlines(True) if "not ok" in line or "error:" in line)
    expect(done.returncode == 0, f"{command[0]} exits with {done.returncode}: {told}")
