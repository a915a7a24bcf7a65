"""Counts checks and prints one line for each."""

from collections.abc import Iterator
from contextlib import contextmanager


class CheckFailed(Exception):
    """A check found something else than it should have."""


def expect(condition: object, why: str) -> None:
    """Fails the check, saying why, unless the condition holds."""
    if not condition:
        raise CheckFailed(why)


def equal(actual: object, expected: object, what: str) -> None:
    """Fails the check unless both are equal."""
    expect(actual == expected, f"{what} is {actual!r}, not {expected!r}")


class Report:
    """What passed and what failed so far."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0

    @contextmanager
    def check(self, name: str) -> Iterator[None]:
        """Runs the body as one check; whatever it raises fails that check and nothing else."""
        before = self.failed
        with self.group(name):
            yield
        if self.failed == before:
            self.passed += 1
            print(f"ok {name}", flush=True)

    @contextmanager
    def group(self, name: str) -> Iterator[None]:
        """Runs the body, with checks in it; what is raised between those is a failure too."""
        try:
            yield
        # Libraries raise what they like; each of it is a failed check and must not hide the others.
        except Exception as error:
            self.fail(name, f"{type(error).__name__}: {error}")

    def fail(self, name: str, why: str) -> None:
        self.failed += 1
        print(f"FAILED {name}: {' '.join(why.split()).removeprefix('CheckFailed: ')[:1000]}", flush=True)

    def skip(self, name: str, why: str) -> None:
        """Says that something was not checked, and why. Counts as nothing."""
        print(f"SKIPPED {name}: {why}", flush=True)

    def summary(self) -> str:
        return f"{self.passed} passed, {self.failed} failed"
