"""Calls of a key store, counted. That it is a store like the one below shows the suite of all stores."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from kes.keystore import KeyExists, KeyNotFound, KeyStoreError, Unreachable
from kes.keystore.measured import BOUNDS, OUTCOMES, Calls, MeasuredStore
from kes.keystore.memory import MemoryStore
from tests.support import TIMEOUT

OPERATIONS: dict[str, Callable[[MeasuredStore], object]] = {
    "create": lambda store: store.create("k", b"x"),
    "get": lambda store: store.get("k"),
    "delete": lambda store: store.delete("k"),
    "list": lambda store: store.list("", "", 0),
    "status": lambda store: store.status(),
}


class Store(MemoryStore):
    """Fails with `fault`, after a while; `meanwhile` is called then."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: BaseException | None = None
        self.meanwhile: Callable[[], object] = lambda: None

    def _call(self) -> None:
        self.meanwhile()
        if self.fault is not None:
            raise self.fault

    def create(self, name: str, value: bytes) -> None:
        self._call()

    def get(self, name: str) -> bytes:
        self._call()
        return b"x"

    def delete(self, name: str) -> None:
        self._call()

    def list(self, prefix: str, start_at: str, limit: int) -> tuple[list[str], str]:
        self._call()
        return [], ""

    def status(self) -> float:
        self._call()
        return 0.0


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (None, "ok"),
        (Unreachable("no route"), "unreachable"),
        (KeyStoreError("denied"), "error"),
        (ZeroDivisionError(), "error"),
        (KeyNotFound("k"), "not-found"),
        (KeyExists("k"), "exists"),
    ],
    ids=repr,
)
def test_outcomes(name: str, fault: Exception | None, outcome: str) -> None:
    """Every call is counted once, by operation and outcome; an outcome that the operation cannot have is an error."""
    calls, below = Calls(), Store()
    below.fault = fault
    store = MeasuredStore(below, calls)
    if fault is None:
        OPERATIONS[name](store)
    else:
        with pytest.raises(type(fault)):
            OPERATIONS[name](store)
    counted = {
        (operation, o): count
        for operation, values in calls.operations.items()
        for o, count in values.outcomes.items()
        if count
    }
    assert counted == {(name, outcome if outcome in OUTCOMES[name] else "error"): 1}
    assert sum(calls.operations[name].buckets) == 1
    assert calls.active == 0


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(0.0, 0), (0.001, 0), (0.0011, 1), (10.0, len(BOUNDS) - 1), (11.0, len(BOUNDS))]
)
def test_times(seconds: float, bucket: int) -> None:
    """A call's time falls into its bucket, whose bound belongs to it, and adds to the sum."""
    now = [0.0]
    calls, below = Calls(lambda: now[0]), Store()

    def wait() -> None:
        now[0] = seconds

    below.meanwhile = wait
    MeasuredStore(below, calls).get("k")
    operation = calls.operations["get"]
    assert [at for at, count in enumerate(operation.buckets) if count] == [bucket]
    assert operation.seconds == seconds


def test_active() -> None:
    """A call is active while it runs, whatever thread it runs in; calls of several threads are all counted."""
    calls, below = Calls(), Store()
    store = MeasuredStore(below, calls)
    count = 8
    together = threading.Barrier(count + 1)

    def wait() -> None:
        together.wait(TIMEOUT)
        together.wait(TIMEOUT)

    below.meanwhile = wait
    threads = [threading.Thread(target=store.status) for _ in range(count)]
    for thread in threads:
        thread.start()
    together.wait(TIMEOUT)
    assert calls.active == count
    together.wait(TIMEOUT)
    for thread in threads:
        thread.join()
    assert calls.active == 0
    assert calls.operations["status"].outcomes["ok"] == count
