"""From a request to its answer: connections that are kept, repeats on one endpoint (cli.md 3.5), and fail-over to
others (cli.md 3.4). What an answer means is not decided here."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from threading import Lock
from typing import TYPE_CHECKING, Final

import msgspec

from kes.client import tls
from kes.client.balancer import Balancer
from kes.client.connection import Connection, Dialer, Head
from kes.client.endpoint import Endpoint, Nearness, nearness, parse_endpoints
from kes.client.errors import ConnectionFailed, InvalidResponse, KESError, OutcomeUnknown, TLSError, TLSProblem
from kes.client.network import Network, World
from kes.client.settings import Settings

if TYPE_CHECKING:
    from kes.client.proxy import Proxy

ATTEMPTS: Final = 3  # on one endpoint
PAUSE: Final = 0.2  # seconds before another attempt, and
JITTER: Final = 0.8  # up to so many more
IDLE: Final = 60.0  # seconds that an unused connection is kept; servers close it after 90
MAX_BODY: Final = 4 * 1024 * 1024  # bytes of an answer that is no listing; requests are limited to 1 MiB
MAX_ERROR: Final = 1024 * 1024  # bytes of an answer other than 200
_ABOUT_THE_CERTIFICATE: Final = frozenset(
    {
        TLSProblem.UNKNOWN_ISSUER,
        TLSProblem.NAME_MISMATCH,
        TLSProblem.EXPIRED,
        TLSProblem.NOT_YET_VALID,
        TLSProblem.CERTIFICATE,
    }
)


class Request(msgspec.Struct, frozen=True):
    """A request. `repeatable`: doing it twice is the same as once. `limit`: bytes of a body with status 200."""

    method: str
    path: str
    body: bytes | None = None
    repeatable: bool = True
    limit: int = MAX_BODY


class Answer(msgspec.Struct, frozen=True):
    """A complete answer. `doubtful`: an earlier attempt may have done already what was asked.

    `seconds`: how long it took, the connection included when it was a new one.
    """

    endpoint: Endpoint
    status: int
    content_type: str
    body: bytes
    seconds: float
    doubtful: bool = False


class Live(msgspec.Struct, frozen=True):
    """An answer with status 200 whose body goes on."""

    endpoint: Endpoint
    connection: Connection
    status: int = 200
    doubtful: bool = False


class Transport:
    """Sends requests. May be used by several threads, or tasks of one event loop, at the same time."""

    def __init__(self, settings: Settings, network: Network, world: World) -> None:
        """Raises ConfigurationError."""
        self.endpoints = parse_endpoints(settings.server)
        self._timeouts = settings.timeouts
        self._proxy_of = _proxies(settings.environ)
        self._me = tls.identification(settings, time.time())
        self._context = tls.make_context(settings, self._me)
        self._network = network
        self._world = world
        self._dialer = Dialer(network, settings.timeouts, world.clock)
        self._lock = Lock()
        self._balancer: Balancer | None = None
        self._idle: dict[Endpoint, list[tuple[Connection, float]]] = {}
        self._closed = False

    @property
    def identity(self) -> str:
        return self._me.identity

    def close(self) -> None:
        """Close the idle connections; the others are closed when they are done. May be called twice."""
        with self._lock:
            self._closed = True
            idle = [connection for connections in self._idle.values() for connection, _ in connections]
            self._idle.clear()
        for connection in idle:
            connection.close()

    async def send(self, request: Request) -> Answer:
        """The answer to a request: the first final one, else the last.

        Raises ConnectionFailed, TLSError, InvalidResponse, or OutcomeUnknown when an answer to a request that is not
        repeatable was lost.
        """
        answer = await self._ask(request, stream=False)
        assert isinstance(answer, Answer)
        return answer

    async def open(self, request: Request) -> Live | Answer:
        """The answer to a request whose body does not end, Live with status 200. Its connection has to be closed."""
        return await self._ask(request, stream=True)

    async def _ask(self, request: Request, *, stream: bool) -> Live | Answer:
        balancer = await self._balance()
        doubtful = False
        outcome: Live | Answer | KESError | None = None
        for endpoint in balancer.walk():
            outcome = await self._ask_one(endpoint, request, stream=stream, doubtful=doubtful)
            if not isinstance(outcome, KESError) and (outcome.status < 500 or outcome.status == 501):
                balancer.succeeded(endpoint)
                return outcome
            balancer.failed(endpoint)
            doubtful = doubtful or _leaves_doubt(outcome)
        assert outcome is not None
        if not isinstance(outcome, KESError):
            return outcome
        if doubtful and not request.repeatable:
            raise OutcomeUnknown(f"{outcome}; whether the request was carried out is not known") from outcome
        raise outcome

    async def _ask_one(
        self, endpoint: Endpoint, request: Request, *, stream: bool, doubtful: bool
    ) -> Live | Answer | KESError:
        """What became of a request to one endpoint, in up to ATTEMPTS."""
        attempt = 1
        while True:
            outcome: Live | Answer | KESError
            try:
                outcome = await self._attempt(endpoint, request, stream=stream, doubtful=doubtful)
            except (ConnectionFailed, TLSError, InvalidResponse) as error:
                outcome = error
            if attempt == ATTEMPTS or not _is_worth_repeating(outcome, request):
                return outcome
            attempt += 1
            await self._network.sleep(PAUSE + JITTER * self._world.random())

    async def _attempt(self, endpoint: Endpoint, request: Request, *, stream: bool, doubtful: bool) -> Live | Answer:
        if stream:
            async with self._connection(endpoint) as connection:
                head = await self._head(connection, request, None)
                if head.status != 200:
                    body = await connection.body(MAX_ERROR, self._timeouts.response)
                    connection.close()
                    return Answer(endpoint, head.status, head.content_type, body, 0.0)
                return Live(endpoint, connection)
        async with self._network.slot():
            started = self._world.clock()
            async with self._connection(endpoint) as connection:
                head = await self._head(connection, request, self._timeouts.response)
                limit = request.limit if head.status == 200 else MAX_ERROR
                body = await connection.body(limit, self._timeouts.response)
            self._keep(connection)
            seconds = self._world.clock() - started
            return Answer(endpoint, head.status, head.content_type, body, seconds, doubtful)

    async def _head(self, connection: Connection, request: Request, timeout: float | None) -> Head:
        return await connection.request(request.method, request.path, request.body, self._timeouts.response, timeout)

    @asynccontextmanager
    async def _connection(self, endpoint: Endpoint) -> AsyncIterator[Connection]:
        """A connection, which is closed if the block fails; what fails is one of the client's own errors."""
        connection = self._take(endpoint)
        try:
            if connection is None:
                stream = await self._dialer.dial(endpoint, self._proxy_of(endpoint), self._context)
                connection = Connection(stream, endpoint)
            yield connection
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, ssl.SSLError):
                raise await self._tls_error(error, endpoint) from None
            if isinstance(error, OSError):
                sent = connection is not None and connection.sent
                raise ConnectionFailed(f"{endpoint}: {_cause(error)}", str(endpoint), sent=sent) from None
            raise

    async def _tls_error(self, error: ssl.SSLError, endpoint: Endpoint) -> TLSError:
        found = tls.tls_error(error, str(endpoint), self._me, getattr(error, "received", b""))
        if found.kind in _ABOUT_THE_CERTIFICATE:
            # OpenSSL does not hand out a certificate that it has refused, so another connection looks at it.
            try:
                stream = await self._dialer.dial(endpoint, self._proxy_of(endpoint), tls.probing_context())
            except OSError:
                return found
            found.certificate = stream.peer_certificate
            stream.close()
        return found

    def _take(self, endpoint: Endpoint) -> Connection | None:
        """An idle connection that can still be used, the one used last."""
        oldest = self._world.clock() - IDLE
        while True:
            with self._lock:
                if self._closed:
                    raise RuntimeError("the client is closed")
                idle = self._idle.get(endpoint)
                if not idle:
                    return None
                connection, since = idle.pop()
            if since > oldest and not connection.is_stale():
                return connection
            connection.close()

    def _keep(self, connection: Connection) -> None:
        if connection.recycle():
            with self._lock:
                if not self._closed:
                    self._idle.setdefault(connection.endpoint, []).append((connection, self._world.clock()))
                    return
        connection.close()

    async def _balance(self) -> Balancer:
        with self._lock:
            balancer = self._balancer
        if balancer is None:
            near = {self.endpoints[0]: Nearness.OTHER}
            if len(self.endpoints) > 1:
                world = self._world
                near = await self._network.block(lambda: nearness(self.endpoints, world.resolve, world.interfaces))
            with self._lock:
                balancer = self._balancer = self._balancer or Balancer(near, self._world.clock, self._world.random)
        return balancer


def _proxies(environ: Mapping[str, str]) -> Callable[[Endpoint], Proxy | None]:
    """What tells the proxy of an endpoint. Raises ConfigurationError."""
    if not environ.get("HTTPS_PROXY") and not environ.get("https_proxy"):
        return lambda _: None
    from kes.client.proxy import Proxies

    return Proxies.from_environment(environ).proxy_of


def _cause(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)  # asyncio puts other words and the address in its place
    return error.strerror or str(error) or type(error).__name__


def _is_worth_repeating(outcome: Live | Answer | KESError, request: Request) -> bool:
    if isinstance(outcome, ConnectionFailed):
        return request.repeatable or not outcome.sent
    return not isinstance(outcome, KESError) and outcome.status == 503


def _leaves_doubt(outcome: Live | Answer | KESError) -> bool:
    """Whether a request may have been carried out all the same. With 503 the server says that it has not."""
    if isinstance(outcome, ConnectionFailed):
        return outcome.sent
    if isinstance(outcome, TLSError):
        return False
    return isinstance(outcome, KESError) or outcome.status != 503
