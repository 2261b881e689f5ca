"""A key store around another one that counts its calls, how each ended, and how long it took.

It changes nothing of what the other does. Calls are counted where they end, in their thread, so that one that was given
up by whoever waited for it is counted with the time that it took in the end. Names and values are not looked at.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from kes.keystore import KeyExists, KeyNotFound, KeyStore, Unreachable

BOUNDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds

_ALWAYS: Final = ("ok", "error", "unreachable")
OUTCOMES: Final = {
    "create": ("ok", "exists", "error", "unreachable"),
    "get": ("ok", "not-found", "error", "unreachable"),
    "delete": ("ok", "not-found", "error", "unreachable"),
    "list": _ALWAYS,
    "status": _ALWAYS,
}


@dataclass(slots=True)
class Operation:
    """The calls of one kind. `buckets` counts those that took up to each of `BOUNDS`, and at last the longer ones."""

    outcomes: dict[str, int]
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    seconds: float = 0.0


class Calls:
    """What was counted, of all stores that it was given to. `active`: calls under way."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.active = 0
        self.operations = {name: Operation(dict.fromkeys(outcomes, 0)) for name, outcomes in OUTCOMES.items()}
        self._now = now
        self._lock = threading.Lock()

    @contextmanager
    def counting(self, name: str) -> Iterator[None]:
        """Count what runs inside as a call; in any thread."""
        with self._lock:
            self.active += 1
        outcome, begun = "ok", self._now()
        try:
            yield
        except BaseException as error:
            outcome = _outcome(error)
            raise
        finally:
            seconds = self._now() - begun
            with self._lock:
                self.active -= 1
                operation = self.operations[name]
                outcomes = operation.outcomes
                outcomes[outcome if outcome in outcomes else "error"] += 1
                operation.buckets[bisect_left(BOUNDS, seconds)] += 1
                operation.seconds += seconds


def _outcome(error: BaseException) -> str:
    match error:
        case KeyExists():
            return "exists"
        case KeyNotFound():
            return "not-found"
        case Unreachable():
            return "unreachable"
        case _:
            return "error"


class MeasuredStore(KeyStore):
    """`store`, whose calls go into `calls`."""

    def __init__(self, store: KeyStore, calls: Calls) -> None:
        self.kms = store.kms
        self.warnings = store.warnings
        self._store = store
        self._calls = calls

    def create(self, name: str, value: bytes) -> None:
        with self._calls.counting("create"):
            self._store.create(name, value)

    def get(self, name: str) -> bytes:
        with self._calls.counting("get"):
            return self._store.get(name)

    def delete(self, name: str) -> None:
        with self._calls.counting("delete"):
            self._store.delete(name)

    def list(self, prefix: str, start_at: str, limit: int) -> tuple[list[str], str]:
        with self._calls.counting("list"):
            return self._store.list(prefix, start_at, limit)

    def status(self) -> float:
        with self._calls.counting("status"):
            return self._store.status()

    def start(self) -> None:
        self._store.start()

    def close(self) -> None:
        self._store.close()
