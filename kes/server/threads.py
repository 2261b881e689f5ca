"""Threads for what blocks: a bounded number of them, and none that keeps the process alive.

A call that is given up before a thread has begun with it is never made. Twisted's own pool is not used: its threads
are shared with name resolution, and waited for at exit, so that one stuck call would hold up the end of the process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

MAX_THREADS = 32  # as many calls of a slow key store may wait at once; further ones queue

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Reactor(Protocol):
    """What is needed of an IReactorFromThreads."""

    def callFromThread(self, function: Callable[..., Any], /, *args: Any) -> None: ...


class _DaemonThreadPool(ThreadPool):
    threadFactory = staticmethod(partial(Thread, daemon=True))  # type: ignore[assignment]


class Threads:
    """Up to `size` threads, made when they are needed. Calls made before `start` wait for it."""

    def __init__(self, reactor: Reactor, size: int = MAX_THREADS) -> None:
        self._reactor = reactor
        self._pool = _DaemonThreadPool(0, size, "kes")
        self._stopped = False

    def start(self) -> None:
        self._pool.start()

    def stop(self) -> None:
        """Let the threads end once they are done, without waiting. What is called later fails. May be repeated."""
        if self._stopped:
            return
        self._stopped = True
        # It joins its threads, a stuck one too.
        Thread(target=self._pool.stop, daemon=True).start()

    @property
    def busy(self) -> int:
        """How many threads work."""
        return len(self._pool.working)

    @property
    def waiting(self) -> int:
        """How many calls wait for a thread, those among them that have been given up."""
        return self._pool.q.qsize()

    def run(self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Deferred[_T]:
        """Call `function` in a thread and return what it returns or raises.

        Cancelling fires the Deferred with CancelledError at once. If no thread has begun with the call by then, it is
        never made; otherwise it goes on to its end, and its outcome is dropped. After `stop`: CancelledError.
        """
        if self._stopped:
            return fail(CancelledError("the threads have been stopped"))
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

        self._pool.callInThread(call)
        return result
