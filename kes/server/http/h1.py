"""HTTP/1.1 (RFC 9112) for the server side: framing, keep-alive, pipelining, and every limit a peer can run into.

Parsing is strict: what two parsers could read in two ways (both length headers, two lengths, bare line feeds, folded
lines, odd chunk sizes) is refused with 400 and the connection closed, so nothing can be smuggled past a proxy in front.
All answers that one read brought are written in one write. Bytes become requests here; what they ask for is the
site's business.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from twisted.internet.interfaces import (
    IDelayedCall,
    IHandshakeListener,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from kes.errors import BadRequest
from kes.server.http import limits
from kes.server.http.request import JSON, NO_HEADERS, Peer, Request

if TYPE_CHECKING:
    from kes.server.http.site import Site

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(rb"[\x21-\x22\x24-\x7e]+")  # visible ASCII less the fragment's '#'
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_LENGTH = re.compile(rb"[0-9]{1,19}")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_REASONS = {
    200: b"OK", 400: b"Bad Request", 403: b"Forbidden", 404: b"Not Found", 405: b"Method Not Allowed",
    406: b"Not Acceptable", 408: b"Request Timeout", 409: b"Conflict", 413: b"Content Too Large",
    414: b"URI Too Long", 417: b"Expectation Failed", 431: b"Request Header Fields Too Large",
    500: b"Internal Server Error", 501: b"Not Implemented", 502: b"Bad Gateway", 504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}  # fmt: skip


class ProtocolError(Exception):
    """The peer's bytes are no request that this server takes; answered with `status`, then the connection closes."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Fields(NamedTuple):
    """A request's header fields (names in lower case) and what they say of its framing."""

    headers: tuple[tuple[bytes, bytes], ...]
    length: int  # of the body; -1: chunked
    expects_continue: bool
    connection: frozenset[bytes]
    hosts: int  # how many Host fields


def parse_request_line(line: bytes) -> tuple[bytes, bytes, bytes]:
    """Method, target and version (`HTTP/1.1` or `HTTP/1.0`) of a request line (RFC 9112, section 3)."""
    parts = line.split(b" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not _TARGET.fullmatch(parts[1]):
        raise ProtocolError(400, "malformed request line")
    method, target, version = parts
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise ProtocolError(505 if version.startswith(b"HTTP/") else 400, "expected HTTP/1.1")
    if len(target) > limits.MAX_TARGET:
        raise ProtocolError(414, "request target is too long")
    return method, target, version


def parse_fields(block: bytes) -> Fields:
    """The header fields of `block` (lines parted by CR LF, without the empty one; RFC 9112, sections 5 and 6)."""
    headers: list[tuple[bytes, bytes]] = []
    lengths: list[bytes] = []
    codings: list[bytes] = []
    connection: set[bytes] = set()
    expects_continue = False
    hosts = 0
    lines = block.split(b"\r\n") if block else []
    if len(lines) > limits.MAX_HEADERS:
        raise ProtocolError(431, "too many header fields")
    for line in lines:
        name, colon, value = line.partition(b":")
        # A folded line begins with white space, and a space before the colon is no token either.
        if not colon or not _TOKEN.fullmatch(name):
            raise ProtocolError(400, "malformed header field")
        value = value.strip(b" \t")
        if _CONTROL.search(value):
            raise ProtocolError(400, "malformed header field")
        name = name.lower()
        headers.append((name, value))
        if name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            codings.append(value)
        elif name == b"connection":
            connection.update(option.strip().lower() for option in value.split(b","))
        elif name == b"host":
            hosts += 1
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise ProtocolError(417, "unknown expectation")
            expects_continue = True
    length = 0
    if codings:
        if lengths:
            raise ProtocolError(400, "both Content-Length and Transfer-Encoding")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise ProtocolError(501, "unknown transfer coding")
        length = -1
    elif lengths:
        if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
            raise ProtocolError(400, "invalid Content-Length")
        length = int(lengths[0])
    return Fields(tuple(headers), length, expects_continue, frozenset(connection), hosts)


# A client sends the same header block with nearly every request; a long one (a forwarded certificate) is not kept.
_MEMO_BLOCK = 1024
_parse_fields_memo = lru_cache(maxsize=512)(parse_fields)


class _Chunks:
    """The state of a chunked body (RFC 9112, section 7.1). `keep` is how many bytes of it are wanted."""

    __slots__ = ("_left", "_trailers", "body", "size")

    def __init__(self) -> None:
        self.body = bytearray()
        self.size = 0
        self._left = -1  # bytes to come of this chunk, its CR LF among them; -1: a size line is next
        self._trailers = -1  # bytes of trailers seen; -1: not there yet

    def feed(self, data: bytes, keep: bool) -> tuple[bool, int]:
        """Take what can be taken of `data`: whether the body has ended, and how many bytes are used up."""
        at = 0
        while True:
            if self._left > 2:
                part = data[at : at + self._left - 2]
                if keep:
                    self.body += part
                at += len(part)
                self._left -= len(part)
                if self._left > 2:
                    return False, at
            if self._left > 0:
                if len(data) - at < 2:
                    return False, at
                if data[at : at + 2] != b"\r\n":
                    raise ProtocolError(400, "malformed chunk")
                at += 2
                self._left = -1
            end = data.find(b"\r\n", at, at + limits.MAX_CHUNK_LINE + 2)
            if end < 0:
                if len(data) - at > limits.MAX_CHUNK_LINE or b"\n" in data[at:]:
                    raise ProtocolError(400, "malformed chunk")
                return False, at
            line = data[at:end]
            at = end + 2
            if self._trailers >= 0:
                self._trailers += len(line) + 2
                if self._trailers > limits.MAX_TRAILERS:
                    raise ProtocolError(431, "trailers are too long")
                if not line:
                    return True, at
                if b"\n" in line or b"\r" in line:
                    raise ProtocolError(400, "malformed trailer")
                continue
            match = _CHUNK_SIZE.fullmatch(line)
            if match is None:
                raise ProtocolError(400, "malformed chunk size")
            size = int(match[1], 16)
            self.size += size
            if self.size > limits.MAX_BODY:
                return False, at  # the connection looks at `size`
            if size == 0:
                self._trailers = 0
            else:
                self._left = size + 2


@implementer(IHandshakeListener, IPushProducer)
class HTTP1Connection(Protocol):
    """One client's connection. At most one request is under way; those sent ahead of it wait in the buffer."""

    transport: TLSMemoryBIOProtocol

    def __init__(self, site: Site, clock: IReactorTime, peer_of: Callable[[TLSMemoryBIOProtocol], Peer | None]) -> None:
        self._site = site
        self._clock = clock
        self._peer_of = peer_of
        self._peer: Peer | None = None
        self._buffer = b""
        self._request: Request | None = None  # whose body is awaited, or whose answer is under way
        self._wanted = 0  # bytes of the body still to come
        self._chunks: _Chunks | None = None
        self._body: list[bytes] | None = None  # None: no body is awaited
        self._keep = 0  # bytes of the body that the resource wants; 0: it is read and dropped
        self._close_after = False  # the running answer is the last
        self._head_only = False  # the running answer is to a HEAD
        self._http10 = False
        self._stopping = False
        self._unread = False  # the peer may still be sending what is not going to be read
        self._lingering = False
        self._closed = False
        self._paused = False  # the peer does not read what was written
        self._reading_paused = False
        self._in_head = False  # a request's header has begun, and not ended
        self._out: list[bytes] = []
        self._corked = False
        self._deadline = inf
        self._timer: IDelayedCall | None = None

    # The connection's life

    def connectionMade(self) -> None:
        self._site.connections.add(self)
        self.transport.setTcpNoDelay(True)
        self.transport.setTcpKeepAlive(True)
        self._expect(limits.HANDSHAKE_TIMEOUT)

    def handshakeCompleted(self) -> None:
        self._peer = self._peer_of(self.transport)
        if self._peer is None:
            self.abort()
            return
        self.transport.registerProducer(self, True)
        self._expect(limits.IDLE_TIMEOUT)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._site.connections.discard(self)
        self._closed = True
        self._paused = False
        self._buffer = b""
        self._body = self._chunks = None
        self._out.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._peer is None:
            self._site.handshake_failed(self.transport, reason)
        request, self._request = self._request, None
        if request is not None:
            request.finished(reason)

    def stop(self) -> None:
        """Close as soon as no request is under way; a streamed answer ends now."""
        self._stopping = True
        if self._request is None:
            self._close()
        elif self._request.producer is not None:
            self._request.producer.stopProducing()

    @property
    def idle(self) -> bool:
        return self._request is None

    def abort(self) -> None:
        self.transport.abortConnection()

    # Time limits: one timer a connection, moved only when it would ring too late

    def _expect(self, seconds: float) -> None:
        self._deadline = self._clock.seconds() + seconds
        if self._timer is None:
            self._timer = self._clock.callLater(seconds, self._ring)
        elif self._timer.getTime() > self._deadline:
            self._timer.reset(seconds)

    def _ring(self) -> None:
        self._timer = None
        left = self._deadline - self._clock.seconds()
        if left > 0:
            # With no deadline of its own a running request still needs no timer: its resource keeps the time.
            if self._deadline != inf:
                self._timer = self._clock.callLater(left, self._ring)
        elif self._peer is None or self._closed or self._paused:
            self.abort()
        elif self._lingering:
            self._close()
        elif self._body is not None or self._chunks is not None:
            assert self._request is not None
            self._body = self._chunks = None
            self._close_after = self._unread = True
            self._site.timed_out(self._request)
        elif self._in_head:
            self._refuse(ProtocolError(408, "request header timed out"))
        else:
            self._close()

    # Flow control

    def pauseProducing(self) -> None:
        """The peer reads slower than we write: take no more requests, and give it so long to catch up."""
        self._paused = True
        self._expect(limits.IDLE_TIMEOUT)
        if self._request is not None and self._request.producer is not None:
            self._request.producer.pauseProducing()

    def resumeProducing(self) -> None:
        self._paused = False
        if self._closed:
            return
        if self._request is not None:
            self._deadline = inf
            if self._request.producer is not None:
                self._request.producer.resumeProducing()
        else:
            self._expect(limits.IDLE_TIMEOUT)
            self._advance()

    def stopProducing(self) -> None:
        """The transport is gone; connectionLost says so too."""

    # From bytes to requests

    def dataReceived(self, data: bytes) -> None:
        if self._lingering or self._closed or self._peer is None:
            return
        self._buffer = self._buffer + data if self._buffer else data
        self._advance()

    def _advance(self) -> None:
        """Take every whole request there is in the buffer, then write all answers at once."""
        if self._corked:
            return  # an answer given in the loop below; the loop goes on by itself
        self._corked = True
        try:
            while not (self._lingering or self._closed or self._paused):
                if self._body is not None or self._chunks is not None:
                    if not self._read_body():
                        break
                elif self._request is not None or not self._buffer or not self._read_head():
                    break
        except ProtocolError as error:
            self._refuse(error)
        finally:
            self._corked = False
            self._flush()
        behind = (self._request is not None and self._body is None and self._chunks is None) or self._paused
        self._pause_reading(behind and len(self._buffer) > limits.MAX_PIPELINED)

    def _pause_reading(self, pause: bool) -> None:
        if pause != self._reading_paused and not self._closed:
            self._reading_paused = pause
            if pause:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    def _read_head(self) -> bool:
        """Take one request's head off the buffer. False: it is not all there yet."""
        assert self._peer is not None
        buffer = self._buffer
        while buffer[:2] == b"\r\n":  # RFC 9112, section 2.2: some clients send one too many
            buffer = buffer[2:]
        end = buffer.find(b"\r\n\r\n")
        if end < 0 or end > limits.MAX_HEAD:
            if len(buffer) > limits.MAX_HEAD:
                raise ProtocolError(431, "request header is too long")
            if buffer.count(b"\n") != buffer.count(b"\r\n"):
                raise ProtocolError(400, "malformed request")
            if buffer and not self._in_head:
                self._in_head = True
                self._expect(limits.HEAD_TIMEOUT)
            self._buffer = buffer
            return False
        self._in_head = False
        line_end = buffer.find(b"\r\n")
        method, target, version = parse_request_line(buffer[:line_end])
        block = buffer[line_end + 2 : end]
        fields = _parse_fields_memo(block) if len(block) <= _MEMO_BLOCK else parse_fields(block)
        self._http10 = version == b"HTTP/1.0"
        if self._http10:
            if fields.length < 0:
                raise ProtocolError(400, "chunked body in HTTP/1.0")
            self._close_after = b"keep-alive" not in fields.connection
        else:
            if fields.hosts != 1:
                raise ProtocolError(400, "expected one Host header")
            self._close_after = b"close" in fields.connection
        self._buffer = buffer = buffer[end + 4 :]
        self._head_only = method == b"HEAD"
        self._request = request = Request(self, self._peer, method, target, fields.headers)
        self._keep = self._site.begin(request)
        self._deadline = inf
        length = fields.length
        if length == 0:
            self._site.render(request)
        elif 0 < length <= len(buffer) and length <= self._keep:
            self._buffer = buffer[length:]
            request.body = buffer[:length]
            self._site.render(request)
        else:
            self._await_body(request, length, fields.expects_continue and not self._http10)
        return True

    def _await_body(self, request: Request, length: int, expects_continue: bool) -> None:
        if length > (self._keep or limits.MAX_BODY):
            self._too_large(request)
            return
        if expects_continue and not self._buffer:
            if request.refusal is not None:
                # The client waits for a word before it sends the body: it gets the answer instead.
                self._close_after = self._unread = True
                self._site.render(request)
                return
            self._write(_CONTINUE)
            self._flush()
        if length < 0:
            self._chunks = _Chunks()
        else:
            self._body = []
            self._wanted = length
        self._expect(request.timeout or limits.IDLE_TIMEOUT)

    def _read_body(self) -> bool:
        """Take what there is of the running request's body. False: it is not all there yet."""
        request = self._request
        assert request is not None
        if self._chunks is not None:
            ended, used = self._chunks.feed(self._buffer, bool(self._keep))
            self._buffer = self._buffer[used:]
            if self._chunks.size > (self._keep or limits.MAX_BODY):
                self._chunks = None
                self._too_large(request)
                return True
            if not ended:
                return False
            request.body = bytes(self._chunks.body)
            self._chunks = None
        else:
            assert self._body is not None
            part = self._buffer[: self._wanted]
            self._buffer = self._buffer[len(part) :]
            self._wanted -= len(part)
            if self._keep:
                self._body.append(part)
            if self._wanted:
                return False
            request.body = b"".join(self._body)
            self._body = None
        self._deadline = inf
        self._site.render(request)
        return True

    def _too_large(self, request: Request) -> None:
        self._close_after = self._unread = True
        self._site.too_large(request)

    def _refuse(self, error: ProtocolError) -> None:
        """Answer what cannot be framed as a request, and close."""
        self._close_after = self._unread = True
        self._in_head = False
        self._body = self._chunks = None
        if self._request is not None:
            # Its body broke off in the middle: it is answered, and recorded, as a request.
            self._request.refusal = self._request.refusal or BadRequest(error.message)
            self._site.render(self._request)
            return
        body = msgspec.json.encode({"message": error.message}) + b"\n"
        self._write(self._head(error.status, NO_HEADERS, JSON, b"Content-Length: %d\r\n" % len(body)) + body)
        self._ended()

    # From answers to bytes

    def sendAnswer(
        self, request: Request, code: int, headers: tuple[tuple[bytes, bytes], ...], content_type: bytes, body: bytes
    ) -> None:
        self._site.finished(request, code)
        if request is not self._request:
            return  # the connection is gone
        head = self._head(code, headers, content_type if body else b"", b"Content-Length: %d\r\n" % len(body))
        self._write(head if self._head_only else head + body)
        self._request = None
        request.finished()
        self._ended()

    def startStream(self, request: Request, code: int, content_type: bytes) -> None:
        self._site.finished(request, code)
        if request is not self._request:
            return
        if self._http10:
            self._close_after = True
        framing = b"" if self._http10 else b"Transfer-Encoding: chunked\r\n"
        self._write(self._head(code, NO_HEADERS, content_type, framing))
        if self._head_only:
            self.endStream(request)
        else:
            self._flush()

    def writeStream(self, request: Request, data: bytes) -> None:
        if request is self._request and data:
            self._write(data if self._http10 else b"%x\r\n%b\r\n" % (len(data), data))
            self._flush()

    def endStream(self, request: Request) -> None:
        if request is not self._request:
            return
        if not (self._http10 or self._head_only):
            self._write(b"0\r\n\r\n")
        self._request = None
        request.finished()
        self._ended()

    def _head(self, code: int, headers: tuple[tuple[bytes, bytes], ...], content_type: bytes, framing: bytes) -> bytes:
        head = b"HTTP/1.1 %d %b\r\nDate: %b\r\n%b" % (code, _REASONS[code], self._site.date(), framing)
        if content_type:
            head += b"Content-Type: %b\r\n" % content_type
        for name, value in headers:
            head += b"%b: %b\r\n" % (name, value)
        if self._close_after or self._stopping:
            head += b"Connection: close\r\n"
        elif self._http10:
            head += b"Connection: keep-alive\r\n"
        return head + b"\r\n"

    def _ended(self) -> None:
        """An answer is complete: on to the next request, or to the connection's end."""
        if not (self._close_after or self._stopping):
            self._deadline = self._clock.seconds() + limits.IDLE_TIMEOUT
            if self._timer is None:
                self._expect(limits.IDLE_TIMEOUT)
            self._advance()
            self._flush()
        elif self._unread or self._buffer:
            # To close now would reset the connection under bytes that are still on their way, and the answer with it.
            self._lingering = True
            self._flush_now()
            self._expect(limits.LINGER_TIMEOUT)
        else:
            self._close()

    def _write(self, data: bytes) -> None:
        self._out.append(data)

    def _flush(self) -> None:
        if not self._corked:
            self._flush_now()

    def _flush_now(self) -> None:
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            if not self._closed:
                self.transport.write(data)

    def _close(self) -> None:
        """Say goodbye; a peer that does not answer is cut off."""
        if self._closed:
            return
        self._flush_now()
        self._closed = True
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        self._expect(limits.CLOSE_TIMEOUT)
