"""Threads for calls that block: a bounded number of them, and none that keeps the process alive.

A call that is given up before a thread has begun with it is never made. Twisted's own pool is not used: its threads are
shared with name resolution and waited for at exit, so that one stuck call would hold up the end of the process, and a
thread that cannot be started leaves a call behind that is never made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from typing import Any, Final, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

MAX_THREADS: Final = 32  # as many calls of a slow key store may wait at once; further ones queue

_P = ParamSpec("_P")
_T = TypeVar("_T")

log = Logger()


class Reactor(Protocol):
    """What is needed of an IReactorFromThreads."""

    def callFromThread(self, function: Callable[..., Any], /, *args: Any) -> None: ...


class NoThread(RuntimeError):
    """The system allows no further thread, and there is none that could make the call."""


class Threads:
    """Up to `size` threads, started when they are needed. Calls made before `start` wait for it.

    `thread` makes a thread that is still to be started.
    """

    def __init__(self, reactor: Reactor, size: int = MAX_THREADS, thread: Callable[..., Thread] = Thread) -> None:
        self._reactor = reactor
        self._size = size
        self._thread = thread
        self._changed = Condition()  # guards all that follows
        self._calls: deque[Callable[[], None]] = deque()
        self._started = False
        self._stopped = False
        self._count = 0  # threads
        self._idle = 0  # of them, those that wait for a call, or have been told that there is one
        self._exhausted = False  # the last attempt to start a thread failed

    def start(self) -> None:
        with self._changed:
            self._started = True
            for _ in range(len(self._calls)):
                self._provide_thread()

    def stop(self) -> None:
        """Let the threads end once they are done, without waiting. What is called later fails. May be repeated."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def busy(self) -> int:
        """How many threads work."""
        with self._changed:
            return self._count - self._idle

    @property
    def waiting(self) -> int:
        """How many calls wait for a thread, those among them that have been given up."""
        with self._changed:
            return len(self._calls)

    def run(self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Deferred[_T]:
        """Call `function` in a thread and return what it returns or raises.

        Cancelling fires the Deferred with CancelledError at once. If no thread has begun with the call by then, it is
        never made; otherwise it goes on to its end, and its outcome is dropped. After `stop`: CancelledError. Without
        any thread, as the system allows none: NoThread, and the call is not made.
        """
        result: Deferred[_T] = Deferred()  # without a canceller: an outcome that comes after a cancel is ignored

        def call() -> None:
            if result.called:
                return
            outcome: _T | Failure
            try:
                outcome = function(*args, **kwargs)
            except BaseException:
                outcome = Failure()
            self._reactor.callFromThread(result.callback, outcome)

        with self._changed:
            if self._stopped:
                return fail(CancelledError("the threads have been stopped"))
            self._calls.append(call)
            if self._started:
                self._provide_thread()
                if not self._count:
                    self._calls.pop()
                    return fail(NoThread("the system allows no further thread"))
        return result

    def _provide_thread(self) -> None:
        """See that the call queued last is made: by an idle thread, a new one, or else the first that is done."""
        if self._idle >= len(self._calls):
            self._changed.notify()
        elif self._count < self._size:
            try:
                self._thread(target=self._work, name="kes-call", daemon=True).start()
            except (RuntimeError, MemoryError) as error:
                if not self._exhausted:
                    log.error("no further thread can be started, so key store calls have to wait: {error}", error=error)
                self._exhausted = True
            else:
                self._count += 1
                self._exhausted = False

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._calls or self._stopped)
                self._idle -= 1
                if not self._calls:
                    self._count -= 1
                    return
                call = self._calls.popleft()
            call()
            del call  # it holds the caller's arguments
