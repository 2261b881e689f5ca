"""One request, whichever protocol brought it, and the way its answer takes back.

A slim stand-in for `twisted.web.server.Request`: it has the part of `IRequest` that this server's resources use, under
the same names, and no more objects than a request needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from kes.api.endpoint import Endpoint
    from kes.errors import APIError
    from kes.identity import Identity
    from kes.server.state import State

# twisted.web.server's token for an answer that comes later; it is named again as that module takes 0.1 s to import.
NOT_DONE_YET = 1

JSON = b"application/json"
NO_HEADERS: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection, found once when its handshake is over.

    `identity` is None when the peer showed no certificate that names it; `refusal` is then the answer for every
    request that needs an identity (contract section 2).
    """

    address: str
    identity: Identity | None
    refusal: APIError | None = None


class Channel(Protocol):
    """What a request needs of the connection that it came by."""

    def sendAnswer(
        self, request: Request, code: int, headers: tuple[tuple[bytes, bytes], ...], content_type: bytes, body: bytes
    ) -> None:
        """Send a whole answer, which ends the request."""

    def startStream(self, request: Request, code: int, content_type: bytes) -> None:
        """Send an answer's head; its body follows in parts."""

    def writeStream(self, request: Request, data: bytes) -> None: ...

    def endStream(self, request: Request) -> None: ...


class Request:
    """A request as its resource sees it.

    `headers` are in order, names in lower case. `path` is the path as matched by policies (decoded once); `argument`
    is what follows the route's own path. `state` is the snapshot that the whole request is served from. `started` is on
    the monotonic clock, `timeout` in seconds, 0 for none.
    """

    __slots__ = (
        "_channel",
        "_finishers",
        "address",
        "argument",
        "body",
        "code",
        "headers",
        "identity",
        "method",
        "path",
        "peer",
        "producer",
        "refusal",
        "resource",
        "started",
        "state",
        "timeout",
        "uri",
    )

    state: State
    resource: Endpoint
    path: str
    argument: str
    started: float
    timeout: float

    def __init__(
        self, channel: Channel, peer: Peer, method: bytes, uri: bytes, headers: tuple[tuple[bytes, bytes], ...]
    ) -> None:
        self._channel = channel
        self.peer = peer
        self.method = method
        self.uri = uri
        self.headers = headers
        self.address = peer.address
        self.identity: Identity | None = None
        self.refusal: APIError | None = None
        self.body = b""
        self.code = 0
        self.producer: IPushProducer | None = None
        self._finishers: list[Deferred[None]] | None = None

    def getAllHeaders(self, name: bytes) -> list[bytes]:
        """Every value of the header `name` (lower case), in order."""
        return [value for key, value in self.headers if key == name]

    def answer(
        self,
        code: int,
        body: bytes = b"",
        content_type: bytes = JSON,
        headers: tuple[tuple[bytes, bytes], ...] = NO_HEADERS,
    ) -> None:
        """Send the whole answer. Only the first answer counts: a later one (a time limit was faster) is dropped."""
        if not self.code:
            self.code = code
            self._channel.sendAnswer(self, code, headers, content_type, body)

    def stream(self, content_type: bytes) -> None:
        """Send the head of an answer with no end in sight, at once; `write` sends its body."""
        if not self.code:
            self.code = 200
            self._channel.startStream(self, 200, content_type)

    def registerProducer(self, producer: IPushProducer) -> None:
        """Have `producer` paused while the peer does not keep up with what is written, and resumed after."""
        self.producer = producer

    def write(self, data: bytes) -> None:
        self._channel.writeStream(self, data)

    def finish(self) -> None:
        """End a streamed answer."""
        self._channel.endStream(self)

    def notifyFinish(self) -> Deferred[None]:
        """A Deferred that fires when the answer is finished, or fails with why the connection was lost before."""
        finished: Deferred[None] = Deferred()
        if self._finishers is None:
            self._finishers = []
        self._finishers.append(finished)
        return finished

    def finished(self, reason: Failure | None = None) -> None:
        """For the channel: the answer is out, or the connection is gone."""
        finishers, self._finishers = self._finishers, None
        for finished in finishers or ():
            if reason is None:
                finished.callback(None)
            else:
                finished.errback(reason)
