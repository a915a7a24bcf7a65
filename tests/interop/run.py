"""Uses the binary from outside, as the people it is made for will: with grpcurl, from Python, from a browser.

    target/ci/python/bin/python tests/interop/run.py --binary target/debug/heartwire

Prints a line for each check and `N passed, M failed` at the end; the exit code is not 0 if any failed.
"""

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

import chromium
import grpcurl_checks
import node_checks
import protos
import readme
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
    with report.check("README: the examples of a sample are found"):
        readme.self_test()
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
    examples = importlib.import_module("example_checks")
    examples.run_backend(report, binary, work)
    if browser := chromium.find():
        examples.run_browser(report, binary, work, browser)
    else:
        report.skip("browser", "chromium is not installed")
    node_checks.run(report, binary, work, ROOT / "proto")
    text = arguments.readme.read_text() if arguments.readme.exists() else ""
    importlib.import_module("readme_checks").run(report, binary, work, text, arguments.require_readme)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Interoperability checks of heartwire.")
    parser.add_argument("--binary", type=Path, required=True, help="the heartwire binary to check")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="the text whose examples are run")
    parser.add_argument("--require-readme", action="store_true", help="fail if the README has no examples")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
