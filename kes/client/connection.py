"""One connection to a server: TCP, perhaps through a proxy, TLS, and HTTP/1.1, one request at a time.

TLS runs over memory buffers, so that both kinds of network carry bytes only, and what a peer sent that is no TLS can be
told. HTTP is h11's: httpcore, which would have brought pools and HTTP/2, takes twice as long to import (0.065 s of CPU
against 0.034 s, TLS included, of a command that has 0.35 s for everything), needs anyio for asyncio, and does not tell
whether a byte of a request has left. HTTP/2 would bring little to requests that are small and answered at once.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

import h11
import msgspec

from kes import __version__
from kes.client.endpoint import PORT, Endpoint
from kes.client.errors import InvalidResponse
from kes.client.network import Network, Stream
from kes.client.settings import Timeouts

MAX_HEAD: Final = 64 * 1024  # bytes of a response's head
_READ: Final = 64 * 1024
_USER_AGENT: Final = f"kes-client/{__version__}".encode()

if TYPE_CHECKING:
    from kes.client.proxy import Proxy

T = TypeVar("T")


class ConnectionClosed(ConnectionError):
    """The peer has ended the connection where more was due."""


class Dialer(msgspec.Struct, frozen=True):
    """How connections are made."""

    network: Network
    timeouts: Timeouts
    clock: Callable[[], float]

    async def dial(self, endpoint: Endpoint, proxy: Proxy | None, context: ssl.SSLContext) -> TLSStream:
        """A TLS connection. Raises OSError, or ssl.SSLError with the first bytes received as `received`."""
        if proxy is None:
            raw = await self.network.connect(endpoint.host, endpoint.port, self.timeouts.connect)
        else:
            raw = await self.network.connect(proxy.host, proxy.port, self.timeouts.connect)
        try:
            if proxy is not None:
                await _connect_through(raw, endpoint, proxy, self.timeouts.connect)
            stream = TLSStream(raw, context, endpoint.host.partition("%")[0])
            await stream.handshake(self.clock, self.timeouts.handshake)
        except BaseException:
            raw.close()
            raise
        return stream


async def _connect_through(raw: Stream, endpoint: Endpoint, proxy: Proxy, timeout: float) -> None:
    target = endpoint.authority if endpoint.port != PORT else f"{endpoint.authority}:{PORT}"
    headers = [("Host", target)]
    if proxy.authorization:
        headers.append(("Proxy-Authorization", proxy.authorization))
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    head = http.send(h11.Request(method="CONNECT", target=target, headers=headers))
    await raw.write((head or b"") + (http.send(h11.EndOfMessage()) or b""), timeout)
    while True:
        try:
            event = http.next_event()
        except h11.RemoteProtocolError:
            raise OSError("the proxy's answer is no HTTP") from None
        if isinstance(event, h11.Response):
            if event.status_code // 100 != 2:
                raise OSError(f"the proxy refused with status {event.status_code}")
            return
        if event is h11.NEED_DATA:
            data = await raw.read(timeout)
            if not data:
                raise ConnectionClosed("the proxy closed the connection")
            http.receive_data(data)


class TLSStream:
    """TLS over another stream."""

    def __init__(self, raw: Stream, context: ssl.SSLContext, host: str) -> None:
        self._raw = raw
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self.received = b""  # how what came in begins

    @property
    def peer_certificate(self) -> bytes | None:
        return self._tls.getpeercert(binary_form=True)

    async def handshake(self, clock: Callable[[], float], timeout: float) -> None:
        deadline = clock() + timeout
        await self._pump(self._tls.do_handshake, lambda: max(0.0, deadline - clock()))

    async def write(self, data: bytes, timeout: float | None) -> None:
        await self._pump(lambda: self._tls.write(data), lambda: timeout)

    async def read(self, timeout: float | None) -> bytes:
        return await self._pump(lambda: self._tls.read(_READ), lambda: timeout)

    async def _pump(self, operation: Callable[[], T], remaining: Callable[[], float | None]) -> T:
        """The result of a TLS operation, for which bytes come and go as it wants."""
        while True:
            try:
                result = operation()
            except ssl.SSLWantReadError:
                await self._flush(remaining())
                data = await self._raw.read(remaining())
                if data:
                    self.received = self.received or data[:16]
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            except ssl.SSLEOFError:
                raise ConnectionClosed("the server closed the connection") from None
            except ssl.SSLError as error:
                error.received = self.received  # type: ignore[attr-defined]
                with suppress(OSError):
                    await self._flush(remaining())  # our alert, which tells the server's operator why
                raise
            else:
                await self._flush(remaining())
                return result

    async def _flush(self, timeout: float | None) -> None:
        data = self._outgoing.read()
        if data:
            await self._raw.write(data, timeout)

    def is_readable(self) -> bool:
        return self._tls.pending() > 0 or self._raw.is_readable()

    def close(self) -> None:
        self._raw.close()


class Head(msgspec.Struct, frozen=True):
    """The beginning of a response."""

    status: int
    content_type: str  # without parameters


class Connection:
    """A connection that has no request, or one whose response is being read.

    OSError means that the connection is lost, InvalidResponse that what came is no HTTP; either way it can only be
    closed then.
    """

    def __init__(self, stream: TLSStream, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.sent = False  # whether bytes of the request may have left
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)

    async def request(
        self, method: str, path: str, body: bytes | None, write_timeout: float, timeout: float | None
    ) -> Head:
        """Send a request, and wait for the head of its response; `timeout` is for each time without a byte."""
        headers = [(b"Host", self.endpoint.authority.encode()), (b"User-Agent", _USER_AGENT)]
        if method != "GET":
            headers.append((b"Content-Length", b"%d" % len(body or b"")))
        if body is not None:
            headers.append((b"Content-Type", b"application/json"))
        parts = [self._http.send(h11.Request(method=method, target=self.endpoint.path + path, headers=headers))]
        if body:
            parts.append(self._http.send(h11.Data(data=body)))
        parts.append(self._http.send(h11.EndOfMessage()))
        self.sent = True
        try:
            await self._stream.write(b"".join(part for part in parts if part), write_timeout)
        except ssl.SSLError:
            raise
        except OSError:
            # The server may have said why, in an answer or a TLS alert, before it closed.
            timeout = write_timeout
        return await self._head(timeout)

    async def _head(self, timeout: float | None) -> Head:
        while True:
            event = await self._next(timeout)
            if isinstance(event, h11.Response):
                content_type = next((value for name, value in event.headers if name == b"content-type"), b"")
                return Head(event.status_code, content_type.decode("latin-1").partition(";")[0].strip().lower())

    async def chunk(self, timeout: float | None) -> bytes | None:
        """Some bytes of the response's body; None at its end."""
        while True:
            event = await self._next(timeout)
            if isinstance(event, h11.Data):
                return bytes(event.data)
            if isinstance(event, h11.EndOfMessage):
                return None

    async def body(self, limit: int, timeout: float | None) -> bytes:
        """The response's body; more than `limit` bytes are an InvalidResponse."""
        parts: list[bytes] = []
        size = 0
        while (part := await self.chunk(timeout)) is not None:
            parts.append(part)
            size += len(part)
            if size > limit:
                raise InvalidResponse(f"the answer of {self.endpoint} is larger than {limit} bytes")
        return b"".join(parts)

    async def _next(self, timeout: float | None) -> h11.Event:
        ended = False
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError:
                if ended:
                    raise ConnectionClosed("the server closed the connection") from None
                # Its own words may quote what was received, and so a plaintext.
                raise InvalidResponse(f"the answer of {self.endpoint} is no HTTP") from None
            if isinstance(event, h11.ConnectionClosed):
                raise ConnectionClosed("the server closed the connection")
            if isinstance(event, h11.Event):
                return event
            data = await self._stream.read(timeout)
            ended = not data
            self._http.receive_data(data)

    def recycle(self) -> bool:
        """Make ready for another request; whether that is possible."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        self.sent = False
        return True

    def is_stale(self) -> bool:
        """Whether an idle connection can no longer be used: nothing may come but the end."""
        return self._stream.is_readable()

    def close(self) -> None:
        self._stream.close()
