"""A whole server in memory: the real parser, resource tree, policies, key cache and logs, on a clock that tests move.

What stands in for the outside is here: a connection (what TLS over TCP does, less the cryptography), threads that run
when they are told to, and the time.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from kes.api.tree import make_tree
from kes.config import level
from kes.crypto import Algorithm
from kes.errors import APIError, CertificateRequired, InvalidProxyRequest
from kes.identity import Identity
from kes.keycache import KeyCache
from kes.keystore.memory import MemoryStore
from kes.policy import Policy
from kes.routes import ROUTES
from kes.server.http.connection import Connection, Handshake
from kes.server.http.request import Peer
from kes.server.http.site import Site
from kes.server.logs import AuditLog, ErrorLog, Feed
from kes.server.metrics import HandshakeFailure, Metrics
from kes.server.recorder import Recorder
from kes.server.state import RouteSettings, State
from tests.support import Answer

ADMIN = Identity("a" * 64)
APP = Identity("b" * 64)
STRANGER = Identity("c" * 64)
PROXY = Identity("d" * 64)
ADDRESS = "192.0.2.7"

POLICY = Policy("app", allow=("/v1/key/*", "/version"), deny=("/v1/key/generate/secret*", "/v1/key/list/secret*"))

# As Twisted has them: a TCP transport pauses its producer above the first, TLS delivers at most the second at once.
HIGH_WATER = 64 * 1024
LONGEST_READ = 32 * 1024


class Reactor(Clock):
    """Twisted's clock for tests, which also takes calls from threads."""

    def callFromThread(self, function: Callable[..., Any], *args: Any) -> None:
        self.callLater(0, function, *args)

    def turn(self) -> None:
        """Make the calls that are due now."""
        self.advance(0)


class Threads:
    """Runs calls at once, or, after `hold`, when `work` is called."""

    def __init__(self) -> None:
        self.held: deque[tuple[Deferred[Any], Callable[[], Any]]] | None = None
        self.calls = 0

    def __call__(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Deferred[Any]:
        self.calls += 1
        result: Deferred[Any] = Deferred()
        call = (result, lambda: function(*args, **kwargs))
        if self.held is None:
            self._run(*call)
        else:
            self.held.append(call)
        return result

    def hold(self) -> None:
        self.held = deque()

    def work(self) -> None:
        """Do what was held back, as far as nobody has given it up."""
        while self.held:
            self._run(*self.held.popleft())

    def _run(self, result: Deferred[Any], call: Callable[[], Any]) -> None:
        if result.called:
            return
        try:
            outcome = call()
        except Exception:
            outcome = Failure()
        result.callback(outcome)


class Transport:
    """One connection between a client and the server.

    The client's side: `send`, `read`, `close`, `drop`. What the server wrote is the client's once it reads, and until
    then the server's producer is paused, as on TCP. The server's side has what connections use of
    TLSMemoryBIOProtocol, and refuses what that would not take.
    """

    def __init__(self, reactor: Reactor, protocol: Handshake, peer: Peer | None, speaks: bytes | None) -> None:
        self.peer = peer
        self.negotiatedProtocol = speaks
        self.wrappedProtocol: Handshake | Connection = protocol
        self.writes = 0
        self.closed = False  # the server has said that it is done
        self.aborted = False
        self.gone = False
        self.options: set[str] = set()
        self.reading_paused = False
        self._reactor = reactor
        self._sent: deque[bytes] = deque()
        self._written = bytearray()
        self._producer: IPushProducer | None = None
        self._producer_paused = False

    # The client's side

    def send(self, data: bytes) -> None:
        self._sent.extend(data[at : at + LONGEST_READ] for at in range(0, len(data), LONGEST_READ))
        self._deliver()

    def read(self, size: int | None = None) -> bytes:
        """Take what the server has written: all of it, or `size` bytes. What that makes it write comes next time."""
        data = bytes(self._written[:size])
        del self._written[: len(data)]
        if not self._written and self._producer_paused and self._producer is not None:
            self._producer_paused = False
            self._producer.resumeProducing()
        return data

    def read_all(self) -> bytes:
        """Read until nothing more comes."""
        data = b""
        while part := self.read():
            data += part
        return data

    def close(self) -> None:
        """End the connection in order."""
        self._lose(ConnectionDone())

    def drop(self) -> None:
        """Be gone without a word."""
        self._lose(ConnectionLost())

    @property
    def unread(self) -> int:
        """How many bytes wait for the client."""
        return len(self._written)

    @property
    def undelivered(self) -> int:
        """How many bytes the server has not taken."""
        return sum(map(len, self._sent))

    def _deliver(self) -> None:
        while self._sent and not (self.reading_paused or self.gone or self.aborted):
            self.wrappedProtocol.dataReceived(self._sent.popleft())

    def _lose(self, reason: Exception) -> None:
        if not self.gone:
            self.gone = True
            if self._producer is not None:
                self._producer.stopProducing()
            self.wrappedProtocol.connectionLost(Failure(reason))

    # The server's side

    def write(self, data: bytes) -> None:
        assert type(data) is bytes
        if self.gone or self.aborted or (self.closed and self._producer is None):
            return
        self.writes += 1
        self._written += data
        if len(self._written) > HIGH_WATER and self._producer is not None and not self._producer_paused:
            self._producer_paused = True
            self._producer.pauseProducing()

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        assert streaming
        assert self._producer is None
        self._producer = producer

    def unregisterProducer(self) -> None:
        self._producer = None

    def pauseProducing(self) -> None:
        assert not self.gone
        self.reading_paused = True

    def resumeProducing(self) -> None:
        assert not self.gone
        self.reading_paused = False
        self._reactor.callLater(0, self._deliver)

    def loseConnection(self) -> None:
        assert self._producer is None, "TLS would wait for the producer"
        self.closed = True

    def abortConnection(self) -> None:
        if not (self.aborted or self.gone):
            self.aborted = True
            self._reactor.callLater(0, self._lose, ConnectionAborted())

    def setTcpNoDelay(self, enabled: bool) -> None:
        assert enabled
        self.options.add("no delay")

    def setTcpKeepAlive(self, enabled: bool) -> None:
        assert enabled
        self.options.add("keep alive")

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", ADDRESS, 49152)


def parse_answers(data: bytes, methods: Iterable[str] = ()) -> list[Answer]:
    """Every response in `data`, which has to be made of whole ones; `methods` are those of the requests (GET)."""
    answers = []
    ahead = deque(methods)
    while data:
        head, separator, data = data.partition(b"\r\n\r\n")
        assert separator, head
        first, *lines = head.decode("ascii").split("\r\n")
        version, status, reason = first.split(" ", 2)
        assert version == "HTTP/1.1"
        assert reason
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        assert len(headers) == len(lines), lines
        if status == "100":
            assert not headers
        else:
            del headers["date"]
            method = ahead.popleft() if ahead else "GET"
            body = b""
            if method != "HEAD":
                size = int(headers["content-length"])
                body, data = data[:size], data[size:]
                assert len(body) == size
            answers.append(Answer(int(status), headers, body))
    return answers


class Forwarder:
    """A TLS proxy forwards identities here, in place of certificates."""

    def client(self, values: list[bytes]) -> Identity:
        if len(values) != 1:
            raise InvalidProxyRequest
        return Identity(values[0].decode())


class House:
    """A server. `audit` has its audit events, `lines` the lines of its error log."""

    def __init__(self, reactor: Any = None, **timeouts: float) -> None:
        self.reactor = reactor or Reactor()
        self.threads = Threads()
        self.store = MemoryStore()
        self.audit: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self.handshakes_failed: list[Failure] = []
        self.metrics = Metrics(time.monotonic())
        error_feed, self.audit_feed = Feed(self.reactor), Feed(self.reactor)
        self.error_log = ErrorLog(error_feed, lambda line: self.lines.append(line.decode()))
        self.audit_log = AuditLog(self.audit_feed, lambda line: self.audit.append(json.loads(line)))
        self.audit_log.level = level.INFO
        self.site = Site(
            make_tree(self.reactor, self.metrics, error_feed, self.audit_feed),
            self._state(timeouts),
            Recorder(self.metrics, self.audit_log),
            self.reactor,
            lambda transport: transport.peer,
            self._handshake_failed,
        )

    def _handshake_failed(self, _transport: Transport, reason: Failure) -> HandshakeFailure:
        self.handshakes_failed.append(reason)
        return HandshakeFailure.CERTIFICATE

    def _state(self, timeouts: dict[str, float]) -> State:
        self.keys = KeyCache(self.store, self.threads, self.reactor, any=1e9, unused=1e9, offline=0)
        return State(
            admin=ADMIN,
            policies={"app": POLICY},
            assigned={APP: POLICY},
            proxies=frozenset({PROXY}),
            proxy_header=b"x-tls-client-cert",
            forwarder=Forwarder(),
            routes={r.path: RouteSettings(timeouts.get(r.path, float(r.timeout)), False) for r in ROUTES},
            keys=self.keys,
            algorithm=Algorithm.AES256,
            started_at=0,
        )

    def open(self, peer: Peer | None, speaks: bytes | None = None) -> Transport:
        """A connection whose handshake is still to come; in it `speaks` is chosen by ALPN."""
        protocol = self.site.buildProtocol(None)
        transport = Transport(self.reactor, protocol, peer, speaks)
        protocol.makeConnection(transport)
        return transport

    def connect(self, identity: Identity | None = ADMIN, speaks: bytes | None = None) -> Transport:
        """A connection of a client with that identity; None: without a certificate."""
        refusal: APIError | None = None if identity else CertificateRequired()
        transport = self.open(Peer(ADDRESS, identity, refusal), speaks)
        transport.wrappedProtocol.handshakeCompleted()
        return transport

    def ask(self, request: bytes, identity: Identity | None = ADMIN) -> list[Answer]:
        """The answers to what one new connection sends in one piece."""
        connection = self.connect(identity)
        connection.send(request)
        answers = parse_answers(connection.read_all())
        connection.close()
        return answers

    def make_key(self, name: str) -> None:
        """Create a key and have it in the cache."""
        assert [a.status for a in self.ask(put(f"/v1/key/create/{name}") + get(f"/v1/key/describe/{name}"))] == [
            200
        ] * 2
        self.audit.clear()

    @contextmanager
    def logging(self) -> Iterator[None]:
        """Meanwhile, what the program logs goes to this server's error log."""
        globalLogPublisher.addObserver(self.error_log)
        try:
            yield
        finally:
            globalLogPublisher.removeObserver(self.error_log)

    def forget_counts(self) -> None:
        """As if no request had been answered yet."""
        for codes in self.metrics.requests.values():
            codes.clear()
        self.metrics.buckets[:] = [0] * len(self.metrics.buckets)

    @property
    def codes(self) -> list[int]:
        """The status of each audit event so far."""
        return [event["response"]["code"] for event in self.audit]

    def at_rest(self) -> bool:
        """Whether nothing is left of any request or connection: no timer, nothing counted as active."""
        return not self.site.connections and not self.metrics.active and not self.reactor.getDelayedCalls()


def get(target: str, *headers: str, method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    """A request without a body."""
    return "\r\n".join([f"{method} {target} {version}", "Host: kes", *headers, "", ""]).encode()


def put(target: str, body: Any = None, *headers: str, method: str = "PUT") -> bytes:
    """A request with a body; one that is no bytes is sent as JSON."""
    if body is None:
        return get(target, *headers, method=method)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return get(target, f"Content-Length: {len(data)}", *headers, method=method) + data


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked(target: str, *chunks: bytes, method: str = "PUT") -> bytes:
    """A request whose body comes in chunks."""
    return get(target, "Transfer-Encoding: chunked", method=method) + b"".join(map(chunk, chunks)) + b"0\r\n\r\n"
