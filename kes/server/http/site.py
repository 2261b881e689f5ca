"""What connections and resources share: the way from a target to its resource, and the one place where answers are
counted and audited. It knows no framing, so each protocol's connections use it alike."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from time import perf_counter
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web.resource import Resource, getChildForRequest

from kes.api.endpoint import Endpoint, Missing
from kes.errors import APIError, BodyTooLarge, MethodNotAllowed, NotFound
from kes.server.http import limits
from kes.server.http.connection import Connection, Handshake
from kes.server.http.h1 import HTTP1Connection
from kes.server.http.h2 import HTTP2Connection
from kes.server.http.request import Peer, Request
from kes.server.metrics import HandshakeFailure

if TYPE_CHECKING:
    from kes.server.recorder import Recorder
    from kes.server.state import State

_TARGETS = 4096  # targets whose resource is remembered
_MEMO_TARGET = 256  # bytes of the longest of them
_WARN_INTERVAL = 60.0  # seconds

log = Logger()


def decode_path(target: bytes) -> str | None:
    """The path of a request target, percent-decoded exactly once (contract section 3), without its query.

    None for a path that another spelling could stand for: one with an empty or a dot segment, or no path at all.
    """
    path, _, _ = target.partition(b"?")
    if not path.startswith(b"/"):
        # RFC 9112, section 3.2.2: a server takes the absolute form too.
        scheme, separator, rest = path.partition(b"://")
        host, _, path = rest.partition(b"/")
        if not separator or not host or scheme.lower() not in (b"https", b"http"):
            return None
        path = b"/" + path
    decoded = unquote_to_bytes(path).decode("utf-8", "replace")
    segments = decoded.split("/")[1:]
    if "" in segments[:-1] or "." in segments or ".." in segments:
        return None
    return decoded


class _Walk:
    """What Twisted's tree walk needs of a request: the segments still to go, and those behind."""

    __slots__ = ("postpath", "prepath")

    def __init__(self, path: str) -> None:
        self.prepath: list[bytes] = []
        self.postpath = [segment.encode() for segment in path.split("/")[1:]]


class Site(Factory):
    """The factory of connections. `state` is swapped by a reload; a request keeps the one it began with."""

    noisy = False

    def __init__(
        self,
        root: Resource,
        state: State,
        recorder: Recorder,
        clock: IReactorTime,
        peer_of: Callable[[TLSMemoryBIOProtocol], Peer | None],
        handshake_failed: Callable[[TLSMemoryBIOProtocol, Failure], HandshakeFailure],
    ) -> None:
        self.state = state
        self.connections: set[Handshake | Connection] = set()
        self._handshake_failed = handshake_failed
        self._root = root
        self._recorder = recorder
        self._clock = clock
        self._peer_of = peer_of
        self._date = (0, b"")
        self._missing = Missing()
        self._warn_at = 0.0
        # The same few targets come again and again; the tree behind them never changes.
        self._find_memo = lru_cache(maxsize=_TARGETS)(self._find)

    def buildProtocol(self, address: IAddress | None) -> Handshake:
        return Handshake(self, self._clock)

    def connection(self, transport: TLSMemoryBIOProtocol) -> Connection | None:
        """The protocol for what comes after a handshake; None if the peer is not to be let in after all."""
        peer = self._peer_of(transport)
        if peer is None:
            return None
        self._recorder.handshake_completed()
        speaks = HTTP2Connection if transport.negotiatedProtocol == b"h2" else HTTP1Connection
        return speaks(self, self._clock, peer)

    def admit(self, connection: Handshake) -> bool:
        """Take note of a new connection; False, and it must go, if there are too many."""
        if len(self.connections) < limits.MAX_CONNECTIONS:
            self.connections.add(connection)
            return True
        self._recorder.connection_refused()
        now = self._clock.seconds()
        if now >= self._warn_at:
            self._warn_at = now + _WARN_INTERVAL
            log.warn("new connections are refused: {count} are open", count=len(self.connections))
        return False

    def handshake_failed(self, transport: TLSMemoryBIOProtocol, reason: Failure, *, timed_out: bool) -> None:
        """A connection is lost that nobody was let in by."""
        why = self._handshake_failed(transport, reason)
        self._recorder.handshake_failed(HandshakeFailure.TIMEOUT if timed_out else why)

    def census(self) -> Counter[str]:
        """How many connections are open by the protocol's name in ALPN; `tls` are those still in the handshake."""
        names = {Handshake: "tls", HTTP1Connection: "http/1.1", HTTP2Connection: "h2"}
        return Counter(names[type(connection)] for connection in self.connections)

    def drain(self) -> None:
        """Have clients move to new connections, as what those that stand were admitted by is not in force any more."""
        for connection in tuple(self.connections):
            connection.drain()

    def locate(self, target: bytes) -> tuple[Endpoint, str, str]:
        """The resource for a target, the path as policies match it, and the argument behind the route's path."""
        return self._find_memo(target) if len(target) <= _MEMO_TARGET else self._find(target)

    def _find(self, target: bytes) -> tuple[Endpoint, str, str]:
        path = decode_path(target)
        if path is not None:
            walk = _Walk(path)
            resource = getChildForRequest(self._root, walk)
            if isinstance(resource, Endpoint):
                argument = b"/".join(walk.postpath).decode()
                located = resource.locate(argument, bool(walk.postpath))
                if located is not None:
                    return resource, located, argument
        else:
            path = target.decode("ascii", "replace")
        return self._missing, path, ""

    def begin(self, request: Request) -> int:
        """Find the request's resource and check all that can be before its body is there.

        Returns how many bytes of the body the resource wants at most; 0: any body is to be read and dropped.
        """
        request.started = perf_counter()
        request.state = self.state
        request.resource, request.path, request.argument = self.locate(request.uri)
        return request.resource.begin(request)

    def render(self, request: Request) -> None:
        """The request is complete: have its resource answer it, now or later."""
        self._recorder.began(request)
        request.resource.render(request)

    def too_large(self, request: Request) -> None:
        """Answer a request whose body is over its limit; an unknown route or method is said first."""
        if not isinstance(request.refusal, NotFound | MethodNotAllowed):
            request.refusal = BodyTooLarge()
        self.render(request)

    def refuse(self, request: Request, error: APIError) -> None:
        """Answer a request whose body went wrong; what `begin` has refused it for is said first."""
        request.refusal = request.refusal or error
        self.render(request)

    def finished(self, request: Request, code: int) -> None:
        """An answer's head goes out: the one place where requests are counted and audited."""
        self._recorder.answered(request, code, perf_counter() - request.started)

    def date(self) -> bytes:
        """The Date header's value for now, made once a second."""
        now = int(time.time())
        if now != self._date[0]:
            self._date = now, formatdate(now, usegmt=True).encode()
        return self._date[1]
