"""Runs a command line as it is written in the documentation."""

import os
import subprocess
from pathlib import Path

import grpcurl

TIMEOUT = 20.0


def run(line: str) -> subprocess.CompletedProcess[str]:
    """Runs it in bash; grpcurl is in the path."""
    environment = os.environ | {"PATH": f"{Path(grpcurl.find()).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        env=environment,
    )
