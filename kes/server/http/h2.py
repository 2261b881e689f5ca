"""HTTP/2 (RFC 9113) for the server side: streams, flow control both ways, and every limit a peer can run into.

Requests reach the site as those of HTTP/1.1 do. All answers that one read brought are written in one write, and an
answer's last frame carries END_STREAM: a client that stops reading there, as the official SDK does, resets nothing.
What comes is always taken, so that no request waits for the window of another; what is held for a client is counted
instead, and requests that are too much of it are refused in the way that has clients send them again.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final

from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from kes.errors import BadRequest, TimedOut
from kes.server.http import frames, limits
from kes.server.http.allowance import Allowance
from kes.server.http.connection import Connection
from kes.server.http.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADER_SIZE,
    HEADERS,
    MAX_PAYLOAD,
    MAX_STREAM,
    MAX_WINDOW,
    PADDED,
    PRIORITISED,
    Code,
    ConnectionFault,
    StreamFault,
    header,
    read_header,
)
from kes.server.http.headers import (
    NO_TABLE,
    TABLE_SIZE,
    HeadDecoder,
    check_trailers,
    encode_fields,
    encode_head,
)
from kes.server.http.request import JSON, NO_HEADERS, Peer, Request
from kes.server.http.syntax import ProtocolError

if TYPE_CHECKING:
    from kes.server.http.headers import Head
    from kes.server.http.site import Site

_SHORTEST_TIMEOUT = 0.001  # seconds; 0 would be none at all
_CONTINUE = encode_fields((b":status", b"100"))

# The server's part of the connection preface. A body of the longest size that is allowed, and what shows that it is
# longer, fit into a stream's window, so that no body waits for a WINDOW_UPDATE of its stream.
_STREAM_WINDOW: Final = limits.MAX_BODY + MAX_PAYLOAD
_GREETING: Final = frames.settings(
    {
        frames.MAX_CONCURRENT_STREAMS: limits.MAX_STREAMS,
        frames.INITIAL_WINDOW_SIZE: _STREAM_WINDOW,
        frames.MAX_HEADER_LIST_SIZE: limits.MAX_HEAD,
    }
) + frames.window_update(0, limits.CONNECTION_WINDOW - frames.DEFAULT_WINDOW)


class Stream(Request):
    """A request and the stream that carries it: `id` is the stream's, `window` in bytes what may be sent on it."""

    __slots__ = (
        "closed",
        "content",
        "deadline",
        "ended",
        "ending",
        "held",
        "id",
        "left",
        "limit",
        "orphaned",
        "size",
        "unsent",
        "wanted",
        "window",
    )

    def __init__(self, connection: HTTP2Connection, peer: Peer, head: Head, stream_id: int, window: int) -> None:
        super().__init__(connection, peer, head.method, head.target, head.headers)
        self.id = stream_id
        self.window = window
        self.ended = False  # the peer has sent all of it
        self.closed = False  # nothing goes out on it any more
        self.orphaned = False  # closed, while its resource is still at work
        self.deadline = inf  # by which the peer has to send the body, or to take the answer
        self.held = head.size  # bytes that it is accounted for
        # The request's body on its way. Its `content` stays empty if it is not wanted.
        self.content: bytearray | None = None
        self.wanted = False
        self.limit = 0
        self.left = -1  # bytes to come; -1: not told
        self.size = 0
        # The answer's body, where the windows do not take it at once.
        self.unsent: bytearray | None = None
        self.ending = False  # the answer ends with what is unsent


class _Block:
    """A header block on its way, frame by frame."""

    __slots__ = ("ended", "frames", "parts", "size", "stream_id")

    def __init__(self, stream_id: int, ended: bool) -> None:
        self.stream_id = stream_id
        self.ended = ended
        self.parts: list[bytes] = []
        self.size = 0
        self.frames = 0

    def add(self, payload: bytes) -> None:
        self.parts.append(payload)
        self.size += len(payload)
        self.frames += 1
        if self.size > limits.MAX_HEAD or self.frames > limits.MAX_HEAD_FRAMES:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "header block is too long")


class HTTP2Connection(Connection):
    """Up to `limits.MAX_STREAMS` requests are under way at once."""

    def __init__(self, site: Site, clock: IReactorTime, peer: Peer) -> None:
        super().__init__(site, clock, peer)
        now = clock.seconds()
        self._now = now  # when what was read was last looked at
        self._greeted = False  # the preface is here, and SETTINGS have gone out
        self._settled = False  # the peer's first SETTINGS are here
        self._heads = HeadDecoder()
        self._block: _Block | None = None  # whose end is to come; until then nothing else may
        self._frame_deadline = inf  # for a frame or a header block that has begun
        self._streams: dict[int, Stream] = {}  # those that are open
        self._blocked: dict[int, Stream] = {}  # those whose answers wait for a window
        self._ignored: dict[int, None] = {}  # those that were closed here before the peer had sent all of them
        self._lingering: dict[int, float] = {}  # those of them that are still to be reset, and when
        self._orphans = 0  # requests without a stream, which are still being handled
        self._last_stream = 0
        self._window = frames.DEFAULT_WINDOW  # bytes that may be sent
        self._stream_window = frames.DEFAULT_WINDOW  # that of new streams
        self._unreturned = 0  # bytes of the connection's window that the peer has used up
        self._held = 0  # bytes
        self._block_prefix = b""  # what the next header block has to begin with
        self._answered = 0  # requests
        self._resets = Allowance(limits.RESETS, limits.RESET_RATE, limits.RESETS_PER_REQUEST, now)
        self._extras = Allowance(limits.EXTRA_FRAMES, limits.EXTRA_FRAME_RATE, limits.EXTRA_FRAMES_PER_REQUEST, now)
        self._draining = False
        self._drain_deadline = inf
        self._final_stream = MAX_STREAM  # what a GOAWAY has said to be the last one that is served
        self._leaving = False  # to be closed when the last stream is
        self._stopping = False  # to be stopped when the first streams are here

    # The connection's life

    def stop(self) -> None:
        if self._closed:
            return
        if not self._last_stream:
            self._stopping = True
            return
        self._leaving = True
        self._refuse_streams()
        for stream in tuple(self._streams.values()):
            if stream.producer is not None:
                stream.producer.stopProducing()
        self._flush()
        if not self._streams:
            self._close()

    def drain(self) -> None:
        if self._draining or self._closed:
            return
        self._draining = True
        self._drain_deadline = self._clock.seconds() + limits.DRAIN_TIMEOUT
        self._ring_by(self._drain_deadline)
        if self._greeted:
            self._say_draining()
            self._flush()
            self._expect()

    def _say_draining(self) -> None:
        # RFC 9113, section 6.8: unless the server stops it names no last stream yet, for one may be on its way.
        self._write(frames.goaway(self._final_stream, Code.NO_ERROR))

    def _refuse_streams(self) -> None:
        """Say which stream is the last that is served; the peer may safely send again what comes after it."""
        self._final_stream = min(self._last_stream, self._final_stream)
        if self._greeted:
            self._write(frames.goaway(self._final_stream, Code.NO_ERROR))

    def _lost(self, reason: Failure) -> None:
        for stream in tuple(self._streams.values()):
            self._forget(stream, reason)

    def _fail(self, fault: ConnectionFault) -> None:
        """The peer has broken the protocol: say so, and close."""
        if self._greeted:
            self._write(frames.goaway(min(self._last_stream, self._final_stream), fault.code, fault.message))
        self._lost(Failure(ConnectionLost(fault.message)))
        self._close()

    # Time limits

    def _time_limit(self) -> float:
        if self._paused:
            return limits.IDLE_TIMEOUT
        if self._closed:
            return limits.CLOSE_TIMEOUT
        if not self._greeted:
            return limits.HANDSHAKE_TIMEOUT
        return limits.LINGER_TIMEOUT if self._draining else limits.IDLE_TIMEOUT

    def _next_deadline(self) -> float:
        if self._paused or self._closed:
            return self._deadline
        deadline = min(self._frame_deadline, self._drain_deadline, next(iter(self._lingering.values()), inf))
        if not self._streams:
            return min(deadline, self._deadline)
        return min(deadline, *(stream.deadline for stream in self._streams.values()))

    def _time_is_up(self, now: float) -> None:
        if self._closed or self._paused:
            self.abort()
        elif self._frame_deadline <= now:
            self._fail(ConnectionFault(Code.ENHANCE_YOUR_CALM, "a frame or a header block has not come in time"))
        elif not self._streams and self._deadline <= now:
            self._refuse_streams()
            self._close()
        else:
            if self._drain_deadline <= now:
                self._drain_deadline = inf
                self._leaving = True
                self._refuse_streams()
            for stream_id in [stream_id for stream_id, due in self._lingering.items() if due <= now]:
                self._end_lingering(stream_id)
            for stream in [s for s in self._streams.values() if s.deadline <= now]:
                if stream.unsent is None:
                    self._end_body(stream)
                    self._site.refuse(stream, TimedOut())
                else:
                    self._reset(stream.id, Code.CANCEL)
                    self._forget(stream, Failure(ConnectionLost("the answer was not taken in time")))
            self._flush()
            if not self._streams:
                self._rest()

    # Flow control by the transport

    def _pause_producers(self) -> None:
        for stream in self._streams.values():
            if stream.producer is not None:
                stream.producer.pauseProducing()

    def _resume_producers(self) -> None:
        self._send_blocked()
        for stream in tuple(self._streams.values()):
            if stream.producer is not None and not stream.unsent:
                stream.producer.resumeProducing()
        self._ring_by(self._next_deadline())

    # From bytes to frames

    def dataReceived(self, data: bytes) -> None:
        if self._closed:
            return
        self._buffer = self._buffer + data if self._buffer else data
        self._advance()

    def _advance(self) -> None:
        if self._corked:
            return
        self._corked = True
        self._now = self._clock.seconds()
        try:
            if self._greeted or self._greet():
                self._take_frames()
        except ConnectionFault as fault:
            self._fail(fault)
        finally:
            self._corked = False
            self._flush()
        if self._closed:
            return
        self._pause_reading(self._paused and len(self._buffer) > limits.MAX_PIPELINED)
        if self._buffer or self._block is not None:
            if self._frame_deadline == inf:
                self._frame_deadline = self._now + limits.HEAD_TIMEOUT
                self._ring_by(self._frame_deadline)
        else:
            self._frame_deadline = inf
        if self._stopping:
            self.stop()
        if not self._streams:
            self._rest()

    def _greet(self) -> bool:
        """Exchange prefaces (section 3.4). False: the peer's is not all there yet."""
        if not frames.PREFACE.startswith(self._buffer[: len(frames.PREFACE)]):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "expected the connection preface")
        if len(self._buffer) < len(frames.PREFACE):
            return False
        self._greeted = True
        self._buffer = self._buffer[len(frames.PREFACE) :]
        self._write(_GREETING)
        if self._draining:
            self._say_draining()
        return True

    def _take_frames(self) -> None:
        """Take every whole frame there is in the buffer."""
        buffer, take = self._buffer, self._takers
        at, size = 0, len(buffer)
        while size - at >= HEADER_SIZE and not self._paused:
            word, flags, stream_id = read_header(buffer, at)
            length, kind = word >> 8, word & 0xFF
            if length > MAX_PAYLOAD:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "frame is too long")
            end = at + HEADER_SIZE + length
            if end > size:
                break
            if self._block is not None and kind != frames.CONTINUATION:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "expected CONTINUATION")
            payload = buffer[at + HEADER_SIZE : end]
            at = end
            try:
                take[kind](self, flags, stream_id & MAX_STREAM, payload)
            except StreamFault as fault:
                self._fault(stream_id & MAX_STREAM, fault.code)
            if self._closed:
                return
        self._buffer = buffer[at:]
        if at and self._block is None:
            self._frame_deadline = inf
        if self._unreturned >= limits.CONNECTION_WINDOW // 2:
            self._write(frames.window_update(0, self._unreturned))
            self._unreturned = 0

    def _rest(self) -> None:
        """No stream is open."""
        if self._leaving:
            self._close()
        elif not self._paused:
            self._expect()

    # Requests

    def _headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id & 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a request needs a stream with an odd number")
        if flags & (PADDED | PRIORITISED):
            if flags & PADDED:
                payload = frames.without_padding(payload)
            if flags & PRIORITISED:
                if len(payload) < 5:
                    raise ConnectionFault(Code.FRAME_SIZE_ERROR, "HEADERS without the priority that it tells of")
                if frames.read_dependency(payload) == stream_id:
                    # Not as an error of the stream: its header block would be missing from the table.
                    raise ConnectionFault(Code.PROTOCOL_ERROR, "a stream depends on itself")
                payload = payload[5:]
        if flags & END_HEADERS:
            self._take_block(stream_id, payload, bool(flags & END_STREAM))
        else:
            self._block = _Block(stream_id, bool(flags & END_STREAM))
            self._block.add(payload)

    def _continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        block = self._block
        if block is None or block.stream_id != stream_id:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "unexpected CONTINUATION")
        block.add(payload)
        if flags & END_HEADERS:
            self._block = None
            self._frame_deadline = inf
            self._take_block(stream_id, b"".join(block.parts), block.ended)

    def _take_block(self, stream_id: int, block: bytes, ended: bool) -> None:
        if not self._settled:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "expected SETTINGS first")
        if stream_id <= self._last_stream:
            self._take_trailers(stream_id, block, ended)
            return
        self._last_stream = stream_id
        try:
            self._begin(stream_id, self._heads.request(block), ended)
        except ProtocolError as error:
            self._refuse(stream_id, error, ended)
        except StreamFault:
            self._ignore(stream_id, ended)
            raise

    def _begin(self, stream_id: int, head: Head, ended: bool) -> None:
        if stream_id > self._final_stream:
            self._ignore(stream_id, ended)
            return
        if len(self._streams) + self._orphans >= limits.MAX_STREAMS or self._held > limits.MAX_HELD:
            raise StreamFault(Code.REFUSED_STREAM)
        if ended and head.length > 0:
            raise StreamFault(Code.PROTOCOL_ERROR)  # section 8.1.1
        stream = Stream(self, self._peer, head, stream_id, self._stream_window)
        self._streams[stream_id] = stream
        self._held += stream.held
        wanted = self._site.begin(stream)
        if ended:
            stream.ended = True
            self._site.render(stream)
        else:
            self._await_body(stream, head, wanted)

    def _await_body(self, stream: Stream, head: Head, wanted: int) -> None:
        stream.wanted = bool(wanted)
        stream.limit = wanted or limits.MAX_BODY
        stream.left = head.length
        if head.length > stream.limit:
            self._site.too_large(stream)
            return
        if head.expects_continue:
            if stream.refusal is not None:
                # The client waits for a word before it sends the body: it gets the answer instead.
                self._site.render(stream)
                return
            self._write_head(stream.id, self._prefixed(_CONTINUE))
        stream.content = bytearray()
        stream.deadline = self._now + (stream.timeout or limits.IDLE_TIMEOUT)
        self._ring_by(stream.deadline)

    def _data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        self._unreturned += size
        if self._unreturned > limits.CONNECTION_WINDOW:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "DATA beyond the connection's window")
        if flags & PADDED:
            payload = frames.without_padding(payload)
        if not (payload or flags & END_STREAM):
            self._extra()
        stream = self._streams.get(stream_id)
        if stream is None or stream.content is None:
            self._stray_data(flags, stream_id, stream)
            return
        if len(payload) < size and not flags & END_STREAM:
            # What the stream's window is for is content.
            self._write(frames.window_update(stream_id, size - len(payload)))
        size = len(payload)
        stream.size += size
        if stream.left >= 0:
            stream.left -= size
            if stream.left < 0 or (flags & END_STREAM and stream.left):
                raise StreamFault(Code.PROTOCOL_ERROR)  # section 8.1.1
        elif stream.size > stream.limit:
            self._end_body(stream)
            stream.ended = bool(flags & END_STREAM)
            self._site.too_large(stream)
            return
        if stream.wanted:
            stream.held += size
            self._held += size
            if self._held > limits.MAX_HELD:
                raise StreamFault(Code.REFUSED_STREAM)  # nothing has been done, so the client may send it again
        if flags & END_STREAM:
            if stream.content:
                stream.content += payload
                payload = bytes(stream.content)
            self._take_body(stream, payload)
        elif stream.wanted:
            stream.content += payload

    def _take_body(self, stream: Stream, body: bytes) -> None:
        """A request is complete."""
        stream.ended = True
        if stream.wanted:
            stream.body = body
        if stream.timeout:
            # The route's limit is for all of it: the resource gets what the body has left over.
            stream.timeout = max(stream.deadline - self._now, _SHORTEST_TIMEOUT)
        self._end_body(stream)
        self._site.render(stream)

    def _end_body(self, stream: Stream) -> None:
        """No more of a request's body is waited for."""
        stream.content = None
        stream.deadline = inf

    def _stray_data(self, flags: int, stream_id: int, stream: Stream | None) -> None:
        """DATA on a stream that awaits none."""
        if self._is_idle(stream_id):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "DATA on a stream that is not open")
        if stream is None and stream_id in self._ignored:
            if flags & END_STREAM:
                self._heed(stream_id)
            return
        if stream is None or stream.ended:
            raise StreamFault(Code.STREAM_CLOSED)
        stream.ended = bool(flags & END_STREAM)  # its answer is under way already

    def _take_trailers(self, stream_id: int, block: bytes, ended: bool) -> None:
        """A header block on a stream that has had one."""
        stream = self._streams.get(stream_id)
        if stream is None and stream_id not in self._ignored:
            raise ConnectionFault(Code.STREAM_CLOSED, "HEADERS on a stream that is closed")
        trailers = self._heads.fields(block)
        if stream is not None and stream.ended:
            raise StreamFault(Code.STREAM_CLOSED)
        if not ended or (stream is not None and stream.left > 0):
            raise StreamFault(Code.PROTOCOL_ERROR)
        if stream is None:
            self._heed(stream_id)
        else:
            check_trailers(trailers)
            if stream.content is None:
                stream.ended = True  # its answer is under way already
            else:
                self._take_body(stream, bytes(stream.content))

    def _refuse(self, stream_id: int, error: ProtocolError, ended: bool) -> None:
        """Answer what the site is not asked about."""
        body = error.body()
        if error.head_only or len(body) > min(self._window, self._stream_window):
            body = b""
        self._window -= len(body)
        self._write_answer(stream_id, error.status, NO_HEADERS, JSON, body)
        if not ended:
            self._linger(stream_id)
        self._charge_reset()

    # Streams that end before their time

    def _rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        frames.read_word(payload)
        if self._is_idle(stream_id):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "RST_STREAM on a stream that is not open")
        stream = self._streams.get(stream_id)
        if stream is None:
            # A client that does not read an answer to its end resets the stream after it.
            self._heed(stream_id)
            self._extra()
            return
        self._charge_reset()
        stream.ended = True
        self._forget(stream, Failure(ConnectionLost("the client has reset the stream")))

    def _forget(self, stream: Stream, reason: Failure) -> None:
        """A stream is gone; its request may still be with its resource."""
        awaited = stream.content is not None
        self._remove(stream)
        if awaited:
            # Nobody is there to read the answer, but the audit log has every request.
            self._site.refuse(stream, BadRequest("request body broke off"))
        elif not stream.code:
            stream.orphaned = True
            self._orphans += 1
        stream.finished(reason)

    def _remove(self, stream: Stream) -> None:
        stream.closed = True
        stream.content = None
        stream.unsent = None
        self._held -= stream.held
        del self._streams[stream.id]
        if self._blocked:
            self._blocked.pop(stream.id, None)

    def _is_idle(self, stream_id: int) -> bool:
        """Whether a stream was never open (section 5.1), as those with even numbers are not: the server opens none."""
        return stream_id > self._last_stream or not stream_id & 1

    def _fault(self, stream_id: int, code: Code) -> None:
        """The peer has broken the protocol on one stream."""
        if self._is_idle(stream_id):
            # Section 6.4: an idle stream is not to be reset.
            raise ConnectionFault(code, "a fault on a stream that is not open")
        self._charge_reset()
        self._reset(stream_id, code)
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._forget(stream, Failure(ConnectionLost(f"the stream was reset: {code.name}")))

    def _reset(self, stream_id: int, code: Code) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._ignore(stream_id, stream.ended)
        self._write(frames.rst_stream(stream_id, code))

    def _ignore(self, stream_id: int, ended: bool) -> None:
        """Take no notice of what is still to come on a stream."""
        if ended:
            return
        self._ignored[stream_id] = None
        if len(self._ignored) > limits.MAX_IGNORED:
            del self._ignored[next(iter(self._ignored))]

    def _heed(self, stream_id: int) -> None:
        """Nothing more can come on a stream that was ignored, or it would be a fault."""
        self._ignored.pop(stream_id, None)
        self._lingering.pop(stream_id, None)

    def _linger(self, stream_id: int) -> None:
        """An answer is out, and its request not all in.

        The rest is not needed, and a reset says so (RFC 9113, section 8.1). It comes a little later: there are clients
        (curl until 7.88) that find the answer gone when it comes with the answer.
        """
        self._ignore(stream_id, False)
        self._lingering[stream_id] = due = self._clock.seconds() + limits.LINGER_TIMEOUT
        self._ring_by(due)
        if len(self._lingering) > limits.MAX_IGNORED:
            self._end_lingering(next(iter(self._lingering)))

    def _end_lingering(self, stream_id: int) -> None:
        del self._lingering[stream_id]
        self._write(frames.rst_stream(stream_id, Code.NO_ERROR))

    def _charge_reset(self) -> None:
        if not self._resets.take(self._now, self._answered):
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many streams are reset")

    def _extra(self) -> None:
        """A frame that brings no request forward."""
        if not self._extras.take(self._now, self._answered):
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many frames that are no request's")

    # The connection's own frames

    def _settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "SETTINGS on a stream")
        self._extra()
        if flags & ACK:
            if payload:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "an acknowledgement with settings")
            return
        values = frames.read_settings(payload)
        self._settled = True
        window = values.get(frames.INITIAL_WINDOW_SIZE, self._stream_window)
        change = window - self._stream_window
        self._stream_window = window
        for stream in self._streams.values():
            stream.window += change
            if stream.window > MAX_WINDOW:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a stream's window is too large")
        if values.get(frames.HEADER_TABLE_SIZE, TABLE_SIZE) < TABLE_SIZE:
            self._block_prefix = NO_TABLE  # RFC 7541, section 4.2: a smaller size has to be acknowledged in a block
        self._write(frames.SETTINGS_ACK)
        if change > 0:
            self._send_blocked()

    def _ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "expected a PING of 8 bytes")
        self._extra()
        if not flags & ACK:
            self._write(frames.ping_ack(payload))

    def _goaway(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "expected a GOAWAY of 8 bytes or more")
        self._extra()
        self._leaving = True  # the end of the read finds whether that is now

    def _window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        size = frames.read_word(payload) & MAX_WINDOW
        self._extra()
        if stream_id == 0:
            if not size:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
            self._window += size
            if self._window > MAX_WINDOW:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "the connection's window is too large")
            self._send_blocked()
            return
        if self._is_idle(stream_id):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that is not open")
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if not size:
            raise StreamFault(Code.PROTOCOL_ERROR)
        stream.window += size
        if stream.window > MAX_WINDOW:
            raise StreamFault(Code.FLOW_CONTROL_ERROR)
        if stream.unsent:
            self._send(stream)

    def _priority(self, _flags: int, stream_id: int, payload: bytes) -> None:
        """Deprecated (section 5.3.2), and nothing but checked."""
        if stream_id == 0:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "PRIORITY on no stream")
        self._extra()
        if len(payload) != 5:
            raise StreamFault(Code.FRAME_SIZE_ERROR)
        if frames.read_dependency(payload) == stream_id:
            raise StreamFault(Code.PROTOCOL_ERROR)

    def _push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        raise ConnectionFault(Code.PROTOCOL_ERROR, "a client does not push")

    def _unknown(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        """A frame of a type that is not known means nothing (section 4.1)."""
        self._extra()

    # The frame types' numbers are their places.
    _takers: Final[tuple[Callable[[HTTP2Connection, int, int, bytes], None], ...]] = (
        _data, _headers, _priority, _rst_stream, _settings,
        _push_promise, _ping, _goaway, _window_update, _continuation,
        *[_unknown] * 246,
    )  # fmt: skip

    # From answers to frames

    def sendAnswer(
        self, request: Request, code: int, headers: tuple[tuple[bytes, bytes], ...], content_type: bytes, body: bytes
    ) -> None:
        assert isinstance(request, Stream)
        stream = request
        self._site.finished(stream, code)
        if stream.closed:
            self._orphans -= stream.orphaned
            return
        if stream.method == b"HEAD":
            self._write_head(stream.id, self._head(code, headers, content_type if body else b"", len(body)), END_STREAM)
        elif len(body) <= min(MAX_PAYLOAD, stream.window, self._window):
            self._window -= len(body)
            self._write_answer(stream.id, code, headers, content_type, body)
        else:
            self._write_head(stream.id, self._head(code, headers, content_type, len(body)))
            stream.body = b""  # from here on it is the answer that is accounted for
            stream.unsent = bytearray(body)
            stream.ending = True
            self._send(stream)
            self._flush()
            return
        self._end(stream)
        self._flush()

    def startStream(self, request: Request, code: int, content_type: bytes) -> None:
        assert isinstance(request, Stream)
        self._site.finished(request, code)
        if request.closed:
            self._orphans -= request.orphaned
            return
        head = self._head(code, NO_HEADERS, content_type)
        if request.method == b"HEAD":
            self._write_head(request.id, head, END_STREAM)
            self._end(request)
        else:
            self._write_head(request.id, head)
            request.unsent = bytearray()
        self._flush()

    def writeStream(self, request: Request, data: bytes) -> None:
        assert isinstance(request, Stream)
        if request.unsent is None:
            return
        request.unsent += data
        self._send(request)
        if request.unsent and request.producer is not None:
            request.producer.pauseProducing()
        self._flush()

    def endStream(self, request: Request) -> None:
        assert isinstance(request, Stream)
        if request.unsent is None or request.ending:
            return
        request.ending = True
        if not request.unsent:
            self._write(header(0, DATA, END_STREAM, request.id))
            self._end(request)
            self._flush()

    def _head(
        self, code: int, headers: tuple[tuple[bytes, bytes], ...], content_type: bytes, size: int | None = None
    ) -> bytes:
        """The header block of an answer; `size` is that of its body, if it is known."""
        return self._prefixed(encode_head(code, content_type, headers, size, self._site.date()))

    def _prefixed(self, block: bytes) -> bytes:
        if self._block_prefix:
            block = self._block_prefix + block
            self._block_prefix = b""
        return block

    def _write_head(self, stream_id: int, block: bytes, flags: int = 0) -> None:
        self._write(header(len(block), HEADERS, END_HEADERS | flags, stream_id) + block)

    def _write_answer(
        self, stream_id: int, code: int, headers: tuple[tuple[bytes, bytes], ...], content_type: bytes, body: bytes
    ) -> None:
        """Write an answer whose body fits into one frame and into the windows."""
        size = len(body)
        if not size:
            self._write_head(stream_id, self._head(code, headers, b"", 0), END_STREAM)
            return
        block = self._head(code, headers, content_type, size)
        self._write(
            b"%b%b%b%b"
            % (
                header(len(block), HEADERS, END_HEADERS, stream_id),
                block,
                header(size, DATA, END_STREAM, stream_id),
                body,
            )
        )

    def _end(self, stream: Stream) -> None:
        """All of an answer is out."""
        self._remove(stream)
        self._answered += 1
        if not stream.ended:
            self._linger(stream.id)
        stream.finished()
        if not (self._streams or self._corked):
            self._rest()

    def _send(self, stream: Stream) -> None:
        """Send what the windows allow of an answer's body."""
        unsent = stream.unsent
        assert unsent is not None
        progress = False
        while unsent and not self._paused:
            size = min(len(unsent), MAX_PAYLOAD, stream.window, self._window)
            if size <= 0:
                break
            part = bytes(unsent[:size])
            del unsent[:size]
            stream.window -= size
            self._window -= size
            last = END_STREAM if stream.ending and not unsent else 0
            self._write(header(size, DATA, last, stream.id) + part)
            progress = True
        self._held += len(unsent) - stream.held
        stream.held = len(unsent)
        waited = self._blocked.pop(stream.id, None) is not None
        if unsent and self._held > 2 * limits.MAX_HELD:
            self._reset(stream.id, Code.ENHANCE_YOUR_CALM)
            self._forget(stream, Failure(ConnectionLost("too much is waiting for the client")))
            return
        if unsent:
            # To the end of the queue: the next window is somebody else's.
            self._blocked[stream.id] = stream
            if not waited or (progress and not stream.ending):
                stream.deadline = self._clock.seconds() + limits.IDLE_TIMEOUT
                self._ring_by(stream.deadline)
            return
        stream.deadline = inf
        if stream.ending:
            self._end(stream)
        elif waited and stream.producer is not None:
            stream.producer.resumeProducing()

    def _send_blocked(self) -> None:
        for stream in tuple(self._blocked.values()):
            if self._window <= 0 or self._paused:
                break
            if stream.unsent and stream.window > 0:
                self._send(stream)
