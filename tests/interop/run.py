"""Uses the binary from outside, as the people it is made for will: with grpcurl, from Python, Node and a browser.

    target/ci/python/bin/python tests/interop/run.py --binary target/debug/heartwire

Prints a line for each check and `N passed, M failed` at the end; the exit code is not 0 if any failed.
"""

import argparse
import importlib
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

import chromium
import grpcurl_checks
import node_checks
import protos
import readme
import schema_checks
from report import Report
from server import Server

ROOT = Path(__file__).resolve().parents[2]
TIME_LIMIT = 175
LOG_LINES = 20


class OutOfTime(BaseException):
    """The whole run takes too long. Not an Exception, so that no single check takes it for its own failure."""


def main() -> int:
    arguments = _arguments()
    report = Report()
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.alarm(TIME_LIMIT)
    with tempfile.TemporaryDirectory(prefix="heartwire-interop-") as directory:
        work = Path(directory)
        try:
            _checks(report, arguments, work)
        except OutOfTime:
            report.fail("run", f"it is not done after {TIME_LIMIT} s")
        if report.failed:
            _print_logs(work)
    print(report.summary())
    return 1 if report.failed else 0


def _checks(report: Report, arguments: argparse.Namespace, work: Path) -> None:
    binary = arguments.binary.resolve()
    with report.check("README: the examples of a sample are found"):
        readme.self_test()
    with report.group("grpcurl"):
        _grpcurl(report, binary, work)
    with report.group("python"):
        stubs = work / "stubs"
        stubs.mkdir()
        protos.generate(ROOT / "proto", stubs)
        # The modules that use the stubs can be imported only once these exist.
        sys.path.append(str(stubs))
        importlib.import_module("python_checks").run(report, binary, work, protos.elements(ROOT / "proto", work))
    with report.group("backend.py"):
        importlib.import_module("example_checks").run_backend(report, binary, work)
    with report.group("browser"):
        if browser := chromium.find():
            importlib.import_module("example_checks").run_browser(report, binary, work, browser)
        else:
            report.skip("browser", "chromium is not installed")
    with report.group("node"):
        node_checks.run(report, binary, work, ROOT / "proto")
    with report.group("clients/js"):
        node_checks.run_client(report, binary, work, ROOT)
    with report.group("schema"):
        schema_checks.run(report, binary, work, ROOT / "docs/heartwire.v1.schema.json")
    with report.group("README"):
        text = arguments.readme.read_text() if arguments.readme.exists() else ""
        importlib.import_module("readme_checks").run(report, binary, work, text, arguments.require_readme)


def _grpcurl(report: Report, binary: Path, work: Path) -> None:
    with Server(binary, work / "grpcurl.log") as server:
        grpcurl_checks.run(report, server, protos.elements(ROOT / "proto", work))
    grpcurl_checks.run_unix(report, binary, work)
    with Server(binary, work / "drain.log") as server:
        grpcurl_checks.run_drain(report, server)


def _print_logs(work: Path) -> None:
    for log in sorted(work.glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        print(f"--- the end of {log.name}", *lines, sep="\n", file=sys.stderr)


def _out_of_time(_signal: int, _frame: FrameType | None) -> None:
    raise OutOfTime


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Interoperability checks of heartwire.")
    parser.add_argument("--binary", type=Path, required=True, help="the heartwire binary to check")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="the text whose examples are run")
    parser.add_argument("--require-readme", action="store_true", help="fail if the README has no examples")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
