"""Runs the client in node/, which loads the proto files with @grpc/proto-loader."""

import shutil
import subprocess
from pathlib import Path

import websocket
from report import Report, equal, expect
from server import Server

SOURCE = Path(__file__).resolve().parent / "node"
INSTALL_TIMEOUT = 60.0
RUN_TIMEOUT = 20.0


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


def _command(*command: str, cwd: Path, timeout: float) -> None:
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
    )
    expect(done.returncode == 0, f"{command[0]} exits with {done.returncode}: {done.stderr}")
