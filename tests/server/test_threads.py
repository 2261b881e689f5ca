"""Threads for what blocks."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogLevel, capturedLogs

from kes.server.threads import NoThread, Threads

WAIT = 10.0  # seconds after which a test has failed; none waits so long otherwise


class Reactor:
    """Calls from threads wait here until the test takes them into its own thread."""

    def __init__(self) -> None:
        self._calls: queue.Queue[Callable[[], object]] = queue.Queue()

    def callFromThread(self, function: Callable[..., Any], /, *args: Any) -> None:
        self._calls.put(lambda: function(*args))

    def turn(self) -> None:
        """Wait for one call, and make it."""
        self._calls.get(timeout=WAIT)()


@pytest.fixture
def reactor() -> Reactor:
    return Reactor()


@pytest.fixture
def threads(reactor: Reactor) -> Iterator[Threads]:
    """One thread, so that a second call waits for the first."""
    threads = Threads(reactor, size=1)
    threads.start()
    yield threads
    threads.stop()


def outcome(deferred: Deferred[Any]) -> Any:
    """The result of a Deferred that has fired, or its exception."""
    found: list[Any] = []
    deferred.addCallbacks(found.append, lambda failure: found.append(failure.value))
    assert found, "the Deferred has not fired"
    return found[0]


def test_result_and_error(reactor: Reactor, threads: Threads) -> None:
    """A call is made in another thread with its arguments; its result or error comes back in the reactor's."""
    seen: list[threading.Thread] = []

    def divide(a: int, *, by: int) -> float:
        seen.append(threading.current_thread())
        return a / by

    half = threads.run(divide, 1, by=2)
    half.addCallback(lambda result: (result, threading.current_thread()))
    reactor.turn()
    assert outcome(half) == (0.5, threading.current_thread())
    assert seen[0] is not threading.current_thread()
    failed = threads.run(divide, 1, by=0)
    reactor.turn()
    assert isinstance(outcome(failed), ZeroDivisionError)


def test_exit_in_a_thread(reactor: Reactor, threads: Threads) -> None:
    """A call that tries to end the process ends only itself, and those who wait for it are told."""
    ended = threads.run(sys.exit, 1)
    reactor.turn()
    assert isinstance(outcome(ended), SystemExit)


def test_given_up_before_it_begins(reactor: Reactor, threads: Threads) -> None:
    """A call that was cancelled while it waited for a thread is never made."""
    made: list[str] = []
    free = threading.Event()
    first = threads.run(free.wait, WAIT)
    second = threads.run(made.append, "second")
    third = threads.run(made.append, "third")
    second.cancel()
    assert isinstance(outcome(second), CancelledError)
    free.set()
    reactor.turn()
    reactor.turn()
    assert outcome(first) is True
    assert outcome(third) is None
    assert made == ["third"]


def test_given_up_after_it_began(reactor: Reactor, threads: Threads) -> None:
    """A call that was cancelled while it ran goes on to its end, and what it returns is dropped."""
    begun, free, ended = threading.Event(), threading.Event(), threading.Event()

    def call() -> str:
        begun.set()
        free.wait(WAIT)
        ended.set()
        return "dropped"

    result = threads.run(call)
    assert begun.wait(WAIT)
    result.cancel()
    assert isinstance(outcome(result), CancelledError)
    free.set()
    reactor.turn()
    assert ended.is_set()


def test_bound(reactor: Reactor) -> None:
    """No more than `size` calls run at once; the others wait for their turn."""
    threads = Threads(reactor, size=2)
    threads.start()
    begun: queue.Queue[int] = queue.Queue()
    free = threading.Event()

    def call(number: int) -> int:
        begun.put(number)
        free.wait(WAIT)
        return number

    results = [threads.run(call, number) for number in range(5)]
    assert {begun.get(timeout=WAIT), begun.get(timeout=WAIT)} == {0, 1}
    with pytest.raises(queue.Empty):
        begun.get(timeout=0.05)
    assert (threads.busy, threads.waiting) == (2, 3)
    free.set()
    for _ in results:
        reactor.turn()
    assert [outcome(result) for result in results] == [0, 1, 2, 3, 4]
    threads.stop()


def test_call_before_start(reactor: Reactor) -> None:
    """A call made before the start is made then."""
    threads = Threads(reactor)
    result = threads.run(str, 1)
    threads.start()
    reactor.turn()
    assert outcome(result) == "1"
    threads.stop()


def test_call_after_stop(reactor: Reactor, threads: Threads) -> None:
    """After the stop a call fails at once: no one would ever make it."""
    threads.stop()
    assert isinstance(outcome(threads.run(str, 1)), CancelledError)


class Refusing:
    """Makes threads that cannot be started, like the system at its limit, as long as `refuse` is set."""

    def __init__(self) -> None:
        self.refuse = True

    def __call__(self, **arguments: Any) -> threading.Thread:
        thread = threading.Thread(**arguments)
        if self.refuse:
            thread.start = self._fail
        return thread

    def _fail(self) -> None:
        raise RuntimeError("can't start new thread")


def test_no_thread_at_all(reactor: Reactor) -> None:
    """Without any thread a call fails at once and is never made; the next one works as soon as a thread can start."""
    factory, made = Refusing(), list[str]()
    threads = Threads(reactor, thread=factory)
    threads.start()
    assert isinstance(outcome(threads.run(made.append, "first")), NoThread)
    assert (threads.busy, threads.waiting) == (0, 0)
    factory.refuse = False
    second = threads.run(made.append, "second")
    reactor.turn()
    assert outcome(second) is None
    assert made == ["second"]
    threads.stop()


def test_no_second_thread(reactor: Reactor) -> None:
    """Where no further thread can be started, a call waits for one that there is."""
    factory, free = Refusing(), threading.Event()
    factory.refuse = False
    threads = Threads(reactor, thread=factory)
    threads.start()
    first = threads.run(free.wait, WAIT)
    factory.refuse = True
    with capturedLogs() as events:
        results = [threads.run(str, number) for number in range(3)]
    assert [event["log_level"] for event in events] == [LogLevel.error]
    free.set()
    for _ in range(4):
        reactor.turn()
    assert [outcome(result) for result in (first, *results)] == [True, "0", "1", "2"]
    threads.stop()


def test_stuck_thread_does_not_hold_up_the_exit() -> None:
    """Neither stopping nor the end of the process waits for a call that never ends."""
    script = """
import threading
from kes.server.threads import Threads

class Reactor:
    def callFromThread(self, function, /, *args): ...

begun = threading.Event()
threads = Threads(Reactor())
threads.start()
threads.run(lambda: (begun.set(), threading.Event().wait()))
begun.wait()
threads.stop()
print("end")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=WAIT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
