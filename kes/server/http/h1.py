"""HTTP/1.1 (RFC 9112) for the server side: framing, keep-alive, pipelining, and every limit a peer can run into.

Parsing is strict: what two parsers could read in two ways (both length headers, two lengths, bare line feeds, folded
lines, odd chunk sizes) is refused with 400 and the connection closed, so nothing can be smuggled past a proxy in front.
All answers that one read brought are written in one write. Bytes become requests here; what they ask for is the
site's business.
"""

from __future__ import annotations

import re
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from kes.errors import BadRequest, TimedOut
from kes.server.http import limits
from kes.server.http.connection import Connection
from kes.server.http.request import JSON, NO_HEADERS, Peer, Request
from kes.server.http.syntax import CONTROL, LENGTH, TARGET, TOKEN, ProtocolError

if TYPE_CHECKING:
    from kes.server.http.site import Site

_VERSION = re.compile(rb"HTTP/[0-9]\.[0-9]")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_SHORTEST_TIMEOUT = 0.001  # seconds; 0 would be none at all
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_REASONS = {
    200: b"OK", 400: b"Bad Request", 403: b"Forbidden", 404: b"Not Found", 405: b"Method Not Allowed",
    406: b"Not Acceptable", 408: b"Request Timeout", 409: b"Conflict", 413: b"Content Too Large",
    414: b"URI Too Long", 417: b"Expectation Failed", 431: b"Request Header Fields Too Large",
    500: b"Internal Server Error", 501: b"Not Implemented", 502: b"Bad Gateway", 504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}  # fmt: skip


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
    if len(parts) != 3 or not TOKEN.fullmatch(parts[0]) or not TARGET.fullmatch(parts[1]):
        raise ProtocolError(400, "malformed request line")
    method, target, version = parts
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise ProtocolError(505 if _VERSION.fullmatch(version) else 400, "expected HTTP/1.1")
    if len(target) > limits.MAX_TARGET:
        raise ProtocolError(414, "request target is too long")
    return method, target, version


def _parse_field(line: bytes) -> tuple[bytes, bytes]:
    """Name, in lower case, and value of one field line."""
    name, colon, value = line.partition(b":")
    # A folded line begins with white space, and a space before the colon is no token either.
    if not colon or not TOKEN.fullmatch(name):
        raise ProtocolError(400, "malformed header field")
    value = value.strip(b" \t")
    if CONTROL.search(value):
        raise ProtocolError(400, "malformed header field")
    return name.lower(), value


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
        name, value = field = _parse_field(line)
        headers.append(field)
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
        if len(lengths) > 1 or not LENGTH.fullmatch(lengths[0]):
            raise ProtocolError(400, "invalid Content-Length")
        length = int(lengths[0])
    return Fields(tuple(headers), length, expects_continue, frozenset(connection), hosts)


# A client sends the same header block with nearly every request; a long one (a forwarded certificate) is not kept.
_MEMO_BLOCK = 1024
_parse_fields_memo = lru_cache(maxsize=512)(parse_fields)


class _Sized:
    """A body of known length on its way. Its `content` stays empty if it is not wanted."""

    __slots__ = ("_left", "_wanted", "content", "size")

    def __init__(self, size: int, wanted: bool) -> None:
        self.content = bytearray()
        self.size = size
        self._left = size
        self._wanted = wanted

    def feed(self, data: bytes) -> tuple[bool, int]:
        """Take what can be taken of `data`: whether the body has ended, and how many bytes are used up."""
        part = data[: self._left]
        self._left -= len(part)
        if self._wanted:
            self.content += part
        return not self._left, len(part)


class _Chunked:
    """A chunked body (RFC 9112, section 7.1) on its way. Past the size `limit` it takes no more."""

    __slots__ = ("_left", "_limit", "_trailers", "_wanted", "content", "size")

    def __init__(self, limit: int, wanted: bool) -> None:
        self.content = bytearray()
        self.size = 0
        self._limit = limit
        self._wanted = wanted
        self._left = -1  # bytes to come of this chunk, its CR LF among them; -1: a size line is next
        self._trailers = -1  # bytes of trailers seen; -1: not there yet

    def feed(self, data: bytes) -> tuple[bool, int]:
        """Take what can be taken of `data`: whether the body has ended, and how many bytes are used up."""
        at = 0
        while True:
            if self._left > 2:
                part = data[at : at + self._left - 2]
                if self._wanted:
                    self.content += part
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
            longest = at + limits.MAX_CHUNK_LINE + 2
            end = data.find(b"\r\n", at, longest)
            if b"\n" in data[at : longest if end < 0 else end] or (end < 0 and len(data) >= longest):
                raise ProtocolError(400, "malformed chunk")
            if end < 0:
                return False, at
            line = data[at:end]
            at = end + 2
            if self._trailers >= 0:
                if not line:
                    return True, at
                self._trailers += len(line) + 2
                if self._trailers > limits.MAX_TRAILERS:
                    raise ProtocolError(400, "trailers are too long")
                _parse_field(line)
                continue
            match = _CHUNK_SIZE.fullmatch(line)
            if match is None:
                raise ProtocolError(400, "malformed chunk")
            size = int(match[1], 16)
            self.size += size
            if self.size > self._limit:
                return False, at
            if size == 0:
                self._trailers = 0
            else:
                self._left = size + 2


class HTTP1Connection(Connection):
    """At most one request is under way; those sent ahead of it wait in the buffer."""

    def __init__(self, site: Site, clock: IReactorTime, peer: Peer) -> None:
        super().__init__(site, clock, peer)
        self._request: Request | None = None  # whose body is awaited, or whose answer is under way
        self._body: _Sized | _Chunked | None = None  # that is awaited
        self._limit = 0  # bytes of the body
        self._close_after = False  # the running answer is the last
        self._head_only = False  # the running answer is to a HEAD
        self._http10 = False
        self._fresh = True  # there was no request yet
        self._stopping = False
        self._draining = False
        self._unread = False  # the peer may still be sending what is not going to be read
        self._lingering = False  # the last answer is out; what the peer still sends is dropped
        self._in_head = False  # a request's header has begun, and not ended
        self._searched = 0  # bytes of the buffer in which the header's end was looked for in vain

    def _lost(self, reason: Failure) -> None:
        request, self._request = self._request, None
        body, self._body = self._body, None
        if request is not None:
            if body is not None:
                # Nobody is there to read the answer, but the audit log has every request.
                self._site.refuse(request, BadRequest("request body broke off"))
            request.finished(reason)

    def stop(self) -> None:
        self._stopping = True
        if self._request is None:
            if not (self._fresh or self._buffer):
                self._close()
        elif self._request.producer is not None:
            self._request.producer.stopProducing()

    def drain(self) -> None:
        # The next answer says that it is the last: to close now could meet a request that is on its way.
        self._draining = True

    # Time limits

    def _time_limit(self) -> float:
        if self._paused:
            return limits.IDLE_TIMEOUT
        if self._closed:
            return limits.CLOSE_TIMEOUT
        if self._lingering:
            return limits.LINGER_TIMEOUT
        if self._request is not None:
            # Once a request is complete, its resource keeps the time.
            return inf if self._body is None else self._request.timeout or limits.IDLE_TIMEOUT
        return limits.HEAD_TIMEOUT if self._in_head else limits.IDLE_TIMEOUT

    def _time_is_up(self, now: float) -> None:
        self._deadline = inf
        if self._closed or self._paused:
            self.abort()
        elif self._lingering:
            self._close()
        elif self._body is not None:
            assert self._request is not None
            self._body = None
            self._close_after = self._unread = True
            self._site.refuse(self._request, TimedOut())
        elif self._in_head:
            self._refuse(ProtocolError(408, "request header timed out"))
        else:
            self._close()

    # Flow control

    def _pause_producers(self) -> None:
        if self._request is not None and self._request.producer is not None:
            self._request.producer.pauseProducing()

    def _resume_producers(self) -> None:
        if self._request is not None and self._request.producer is not None:
            self._request.producer.resumeProducing()

    # From bytes to requests

    def dataReceived(self, data: bytes) -> None:
        if self._lingering or self._closed:
            return
        self._buffer = self._buffer + data if self._buffer else data
        self._advance()

    def _advance(self) -> None:
        """Take every whole request there is in the buffer, then write all answers at once."""
        if self._corked:
            return  # an answer given in the loop below; the loop goes on by itself
        self._corked = True
        try:
            while not self._paused:
                if self._body is not None:
                    if not self._read_body():
                        break
                elif self._request is not None or not self._buffer or not self._read_head():
                    break
        except ProtocolError as error:
            self._refuse(error)
        finally:
            self._corked = False
            self._flush()
        self._pause_reading(len(self._buffer) > limits.MAX_PIPELINED)

    def _read_head(self) -> bool:
        """Take one request's head off the buffer. False: it is not all there yet."""
        buffer = self._buffer
        # RFC 9112, section 2.2: some clients send an empty line too many.
        start = 2 if buffer.startswith(b"\r\n") else 0
        behind = max(start, self._searched - 3)
        end = buffer.find(b"\r\n\r\n", behind, limits.MAX_HEAD)
        if buffer.find(b"\n\n", behind, limits.MAX_HEAD if end < 0 else end) >= 0:
            # Said before the head is complete: it never will be when all its lines end so.
            raise ProtocolError(400, "lines must end in CR LF")
        if end < 0:
            if len(buffer) >= limits.MAX_HEAD:
                raise ProtocolError(431, "request header is too long")
            if not self._in_head and buffer not in (b"\r", b"\r\n"):
                self._in_head = True
                self._expect()
            self._searched = len(buffer)
            return False
        self._in_head = self._fresh = False
        self._searched = 0
        line_end = buffer.find(b"\r\n", start)
        method, target, version = parse_request_line(buffer[start:line_end])
        block = buffer[line_end + 2 : end]
        fields = _parse_fields_memo(block) if len(block) <= _MEMO_BLOCK else parse_fields(block)
        self._http10 = version == b"HTTP/1.0"
        if fields.hosts > 1 or not (fields.hosts or self._http10):
            raise ProtocolError(400, "expected one Host header")
        if self._http10 and fields.length < 0:
            raise ProtocolError(400, "chunked body in HTTP/1.0")
        self._close_after = (
            self._draining or b"close" in fields.connection or (self._http10 and b"keep-alive" not in fields.connection)
        )
        self._buffer = buffer = buffer[end + 4 :]
        self._head_only = method == b"HEAD"
        self._request = request = Request(self, self._peer, method, target, fields.headers)
        wanted = self._site.begin(request)
        self._deadline = inf
        length = fields.length
        if length == 0:
            self._site.render(request)
        elif 0 < length <= len(buffer) and length <= wanted:
            self._buffer = buffer[length:]
            request.body = buffer[:length]
            self._site.render(request)
        else:
            self._await_body(request, length, wanted, fields.expects_continue and not self._http10)
        return True

    def _await_body(self, request: Request, length: int, wanted: int, expects_continue: bool) -> None:
        self._limit = wanted or limits.MAX_BODY
        if length > self._limit:
            self._too_large(request)
            return
        if expects_continue and not self._buffer:
            if request.refusal is not None:
                # The client waits for a word before it sends the body: it gets the answer instead.
                self._close_after = self._unread = True
                self._site.render(request)
                return
            self._write(_CONTINUE)
        self._body = _Chunked(self._limit, bool(wanted)) if length < 0 else _Sized(length, bool(wanted))
        self._expect()

    def _read_body(self) -> bool:
        """Take what there is of the running request's body. False: it is not all there yet."""
        request, body = self._request, self._body
        assert request is not None
        assert body is not None
        ended, used = body.feed(self._buffer)
        self._buffer = self._buffer[used:]
        if body.size > self._limit:
            self._body = None
            self._too_large(request)
            return True
        if not ended:
            return False
        self._body = None
        request.body = bytes(body.content)
        if request.timeout:
            # The route's limit is for all of it: the resource gets what the body has left over.
            request.timeout = max(self._deadline - self._clock.seconds(), _SHORTEST_TIMEOUT)
        self._deadline = inf
        self._site.render(request)
        return True

    def _too_large(self, request: Request) -> None:
        self._close_after = self._unread = True
        self._site.too_large(request)

    def _refuse(self, error: ProtocolError) -> None:
        """Answer what cannot be framed as a request, and close."""
        self._close_after = self._unread = True
        if self._request is not None:
            # Its body broke off in the middle: it is answered, and recorded, as a request.
            self._body = None
            self._site.refuse(self._request, BadRequest(error.message))
            return
        body = error.body()
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
            self._expect()
            self._advance()
        elif self._unread or self._buffer:
            # To close now would reset the connection under bytes that are still on their way, and the answer with it.
            self._lingering = True
            self._leave_unread()
            self._expect()
        else:
            self._close()
