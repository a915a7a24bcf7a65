"""Uses the binary from outside, as the people it is made for will: with grpcurl, from Python, from a browser.

    target/ci/python/bin/python tests/interop/run.py --binary target/debug/heartwire

Prints a line for each check and `N passed, M failed` at the end; the exit code is not 0 if any failed.
"""

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

import grpcurl_checks
import protos
from report import Report
from server import Server

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    arguments = _arguments()
    report = Report()
    with tempfile.TemporaryDirectory(prefix="heartwire-interop-") as directory:
        _checks(report, arguments, Path(directory))
    print(report.summary())
    return 1 if report.failed else 0


def _checks(report: Report, arguments: argparse.Namespace, work: Path) -> None:
    binary = arguments.binary.resolve()
    elements = protos.elements(ROOT / "proto", work)
    with Server(binary, work / "grpcurl.log") as server:
        grpcurl_checks.run(report, server, elements)
    grpcurl_checks.run_unix(report, binary, work)
    with Server(binary, work / "drain.log") as server:
        grpcurl_checks.run_drain(report, server)
    stubs = work / "stubs"
    stubs.mkdir()
    protos.generate(ROOT / "proto", stubs)
    # Only now: the modules that use the stubs can be imported once these exist.
    sys.path.append(str(stubs))
    importlib.import_module("python_checks").run(report, binary, work, elements)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Interoperability checks of heartwire.")
    parser.add_argument("--binary", type=Path, required=True, help="the heartwire binary to check")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
