"""A headless Chromium, driven over the DevTools protocol."""

import itertools
import json
import queue
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from websockets.sync.client import connect

from report import CheckFailed

START_TIMEOUT = 20.0
COMMAND_TIMEOUT = 10.0
STOP_TIMEOUT = 10.0


def find() -> str | None:
    """The browser, if it is installed."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page:
    """A browser with one page. Use it in a `with`: the browser is ended at the end."""

    def __init__(self, program: str, profile: Path) -> None:
        # Containers seldom allow its sandbox and often have a small /dev/shm; it opens only our pages.
        options = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run"]
        self._process = subprocess.Popen(
            [program, *options, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._ids = itertools.count(1)
        # Exceptions that no script of the page caught.
        self.uncaught: list[str] = []
        try:
            self._socket = connect(self._address(), max_size=None, ping_interval=None)
            self._session: str | None = None
            target = self._command("Target.createTarget", url="about:blank")["targetId"]
            self._session = self._command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            self._command("Runtime.enable")
            self._command("Page.enable")
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> "Page":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._stop()

    def open(self, url: str) -> None:
        self.uncaught.clear()
        answer = self._command("Page.navigate", url=url)
        if "errorText" in answer:
            raise CheckFailed(f"{url} does not open: {answer['errorText']}")
        self.wait_for("document.readyState", lambda state: state == "complete")

    def evaluate(self, script: str) -> Any:
        """The value of a script, awaited if it is a promise."""
        # `replMode` allows `await` at the top, and a `const` that was there before.
        answer = self._command(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, replMode=True
        )
        if "exceptionDetails" in answer:
            raise CheckFailed(f"the script threw {_exception(answer['exceptionDetails'])}")
        return answer["result"].get("value")

    def wait_for(self, script: str, holds: Callable[[Any], bool], timeout: float = 5.0) -> None:
        """Waits until what the script gives satisfies the condition."""
        end = time.monotonic() + timeout
        while not holds(value := self.evaluate(script)):
            if time.monotonic() > end:
                raise CheckFailed(f"{script} gives {value!r} after {timeout:.0f} s")
            time.sleep(0.05)

    def _command(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        request = {"id": number, "method": method, "params": parameters}
        self._socket.send(json.dumps(request | ({"sessionId": self._session} if self._session else {})))
        while True:
            message = json.loads(self._socket.recv(timeout=COMMAND_TIMEOUT))
            if message.get("method") == "Runtime.exceptionThrown":
                self.uncaught.append(_exception(message["params"]["exceptionDetails"]))
            if message.get("id") == number:
                if "error" in message:
                    raise CheckFailed(f"{method}: {message['error']}")
                return dict(message["result"])

    def _address(self) -> str:
        found: queue.SimpleQueue[str] = queue.SimpleQueue()

        def read() -> None:
            assert self._process.stderr is not None
            for line in self._process.stderr:
                if match := re.match(r"DevTools listening on (\S+)", line):
                    found.put(match[1])

        # Until it ends, so that the pipe never fills up and stalls it.
        threading.Thread(target=read, daemon=True).start()
        try:
            return found.get(timeout=START_TIMEOUT)
        except queue.Empty:
            raise RuntimeError(f"chromium did not start within {START_TIMEOUT:.0f} s") from None

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _exception(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details.get("text"))
