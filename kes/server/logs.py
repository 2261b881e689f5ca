"""The error log and the audit log: one line an event, to the console and to the subscribers of the log API.

The error log takes the events of Twisted's logging system, so every module logs as Twisted programs do. The audit log
has a record type of its own and knows nothing of that system. Levels set what goes to the console; subscribers get
every event. Neither ever holds key material: what is logged is named field by field.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

import msgspec
from twisted.internet.interfaces import IPushProducer
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from kes.config import level as levels
from kes.server import systemd
from kes.server.http.limits import MAX_LOG_BACKLOG
from kes.server.http.request import Request
from kes.timestamp import format_rfc3339

MAX_MESSAGE = 8 * 1024  # characters of one error event
NDJSON = b"application/x-ndjson"

_LEVELS = {LogLevel.debug: levels.DEBUG, LogLevel.info: levels.INFO, LogLevel.warn: levels.WARN}
_FLUSH_AT = 64 * 1024  # bytes of events that wait for the end of a reactor turn at most
_CLOSED = b'{"message":"log stream closed: too many events were not read in time"}\n'


class Reactor(Protocol):
    """What is needed of an IReactorTime and IReactorFromThreads."""

    def callLater(self, delay: float, function: Callable[..., Any], /) -> object: ...
    def callFromThread(self, function: Callable[..., Any], /, *args: Any) -> None: ...


class Feed:
    """The events of one log, for whoever subscribes."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self.subscribers: set[Subscriber] = set()
        self.dropped = 0  # subscribers that did not keep up

    def publish(self, line: bytes) -> None:
        """Give an event to all subscribers; in the reactor's thread."""
        for subscriber in tuple(self.subscribers):
            if not subscriber.push(line):
                self.subscribers.discard(subscriber)
                self.dropped += 1

    def publish_soon(self, line: bytes) -> None:
        """The same from any thread."""
        if self.subscribers:
            self._reactor.callFromThread(self.publish, line)

    def subscribe(self, request: Request) -> None:
        """Stream the events from now on as the answer to `request`, until its client or the server ends it."""
        subscriber = Subscriber(request, self._reactor, self.subscribers.discard)
        self.subscribers.add(subscriber)
        request.registerProducer(subscriber)
        # The client's end is the normal end of a stream: either way there is nothing to report.
        request.notifyFinish().addBoth(lambda _: self.subscribers.discard(subscriber))
        request.stream(NDJSON)


@implementer(IPushProducer)
class Subscriber:
    """One subscriber. What it has not read waits here, up to a bound; then its stream ends with a line that says so."""

    def __init__(self, request: Request, reactor: Reactor, leave: Callable[[Subscriber], None]) -> None:
        self._request = request
        self._reactor = reactor
        self._leave = leave
        self._backlog: list[bytes] = []
        self._size = 0  # bytes of it
        self._paused = False
        self._ended = False
        self._scheduled = False

    def push(self, line: bytes) -> bool:
        """Have an event sent. False: too many wait already, and this subscriber's stream ends."""
        self._size += len(line)
        if self._size > MAX_LOG_BACKLOG:
            self._backlog.append(_CLOSED)
            self._ended = True
            return False
        self._backlog.append(line)
        if self._paused:
            return True
        if self._size >= _FLUSH_AT:
            self._flush()
        elif not self._scheduled:
            self._scheduled = True
            self._reactor.callLater(0, self._end_turn)
        return True

    def _end_turn(self) -> None:
        self._scheduled = False
        self._flush()

    def _flush(self) -> None:
        if self._backlog and not self._paused:
            data = b"".join(self._backlog)
            self._backlog.clear()
            self._size = 0
            self._request.write(data)
        if self._ended and not self._backlog:
            self._request.finish()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._flush()

    def stopProducing(self) -> None:
        """The server stops: the stream ends when its client has taken what is there."""
        self._ended = True
        self._leave(self)
        self._flush()


@implementer(ILogObserver)
class ErrorLog:
    """The observer that makes events of the program's own modules, and warnings of any, into error log lines.

    It may be called in any thread, as the logging system may.
    """

    def __init__(self, feed: Feed, console: Callable[[bytes], None] | None, *, journal: bool = False) -> None:
        """Without a `console` events go to subscribers only; to the `journal` each has its priority in front."""
        self.feed = feed
        self.level = levels.INFO
        self.events = 0
        self._console = console
        self._journal = journal

    def __call__(self, event: LogEvent) -> None:
        level = _LEVELS.get(event.get("log_level", LogLevel.info), levels.ERROR)
        if level < levels.WARN and not str(event.get("log_namespace", "")).startswith("kes."):
            return  # Twisted's own chatter
        message = formatEvent(event)[:MAX_MESSAGE]
        failure = event.get("log_failure")
        if isinstance(failure, Failure):
            message = f"{message}: {failure.getTraceback()}"[:MAX_MESSAGE]
        # A file name need not be valid text; JSON and the console take nothing else.
        message = message.encode("utf-8", "backslashreplace").decode()
        self.events += 1
        if self._console is not None and level >= self.level:
            when = format_rfc3339(int(event.get("log_time", time.time()) * 1000) * 1_000_000)
            mark = systemd.priority(level) if self._journal else ""
            self._console(f"{mark}time={when} level={levels.render(level)} msg={quoted(message)}\n".encode())
        self.feed.publish_soon(msgspec.json.encode({"message": message}) + b"\n")


def quoted(text: str) -> str:
    """`text` in double quotes, on one line, with nothing in it that a terminal would act on."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in escaped) + '"'


class AuditRequest(msgspec.Struct):
    ip: str
    path: str
    method: str
    identity: str


# One event, as contract section 8 has it, and the method: when a request was answered, what it was, the answer's status
# and the nanoseconds that it took.
_EVENT = b'{"time":"%b","request":%b,"response":{"code":%d,"time":%d}}\n'
_MEMO_PATH = 256  # characters of the longest path that is remembered


def _describe(ip: str, path: str, method: bytes, identity: str) -> bytes:
    return msgspec.json.encode(AuditRequest(ip, path, method.decode(), identity))


# The same clients do the same things again and again.
_describe_memo = lru_cache(maxsize=1024)(_describe)


class AuditLog:
    """Who asked for what, and what came of it. Costs nothing while nobody listens."""

    def __init__(self, feed: Feed, console: Callable[[bytes], None]) -> None:
        self.feed = feed
        self.level = levels.OFF
        self.events = 0
        self._console = console

    def record(self, request: Request, code: int, seconds: float) -> None:
        """Write the event of a request whose answer took `seconds`. Events are of level INFO."""
        to_console = self.level <= levels.INFO
        if not to_console and not self.feed.subscribers:
            return
        self.events += 1
        describe = _describe_memo if len(request.path) <= _MEMO_PATH else _describe
        what = describe(request.address, request.path, request.method, request.identity or "")
        line = _EVENT % (format_rfc3339(time.time_ns()).encode(), what, code, int(seconds * 1e9))
        if to_console:
            self._console(line)
        self.feed.publish(line)
