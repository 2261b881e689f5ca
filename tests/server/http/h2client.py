"""A client of HTTP/2 for tests in memory: it makes frames byte by byte, reads what the server sends into frames and
answers, and holds the server to the order of frames and to the windows that it was given."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import hpack

from kes.identity import Identity
from kes.server.http.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PADDED,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Code,
)
from kes.server.http.h2 import HTTP2Connection
from tests.server.memory import ADMIN, House

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LONGEST = 16_384  # bytes of a frame's payload
WINDOW = 65_535  # bytes, of each stream and of the connection at first

Fields = Iterable[tuple[str | bytes, str | bytes]]


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, payload=b"".join(k.to_bytes(2, "big") + v.to_bytes(4, "big") for k, v in values.items()))


SETTINGS_ACK = frame(SETTINGS, ACK)


def ping(payload: bytes = b"12345678", flags: int = 0) -> bytes:
    return frame(PING, flags, payload=payload)


def window_update(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def reset(stream: int, code: Code = Code.CANCEL) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last: int = 0, code: Code = Code.NO_ERROR) -> bytes:
    return frame(GOAWAY, payload=last.to_bytes(4, "big") + code.to_bytes(4, "big"))


def priority(stream: int, on: int = 0) -> bytes:
    return frame(PRIORITY, 0, stream, on.to_bytes(4, "big") + b"\x10")


def data(stream: int, content: bytes, *, end: bool = True, size: int = LONGEST, padding: int | None = None) -> bytes:
    """A body, or a part of one, in DATA frames of `size` bytes of content; `padding` bytes follow in each."""
    parts = [content[at : at + size] for at in range(0, len(content), size)] or [b""]
    out = b""
    for part in parts:
        flags = END_STREAM if end and part is parts[-1] else 0
        if padding is not None:
            flags |= PADDED
            part = bytes((padding,)) + part + bytes(padding)
        out += frame(DATA, flags, stream, part)
    return out


def parse_frames(received: bytes) -> tuple[list[Frame], bytes]:
    """The whole frames in `received`, and what is left over."""
    found = []
    at = 0
    while len(received) - at >= 9:
        size = int.from_bytes(received[at : at + 3], "big")
        assert size <= LONGEST
        end = at + 9 + size
        if end > len(received):
            break
        stream = int.from_bytes(received[at + 5 : at + 9], "big")
        found.append(Frame(received[at + 3], received[at + 4], stream, received[at + 9 : end]))
        at = end
    return found, received[at:]


@dataclass
class Reply:
    """What came on one stream so far: an answer, `ended` or not, or that the server has `reset` it."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    reset: Code | None = None
    interim: list[int] = field(default_factory=list)

    @property
    def message(self) -> str:
        return json.loads(self.body)["message"]


class Goaway(NamedTuple):
    last: int
    code: Code


class Client:
    """One connection. What makes a request gives its bytes, so that they can be sent in any pieces and any order."""

    def __init__(self, house: House, identity: Identity | None = ADMIN, values: dict[int, int] | None = None) -> None:
        self.connection = house.connect(identity, speaks=b"h2")
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder(2**20)
        self.last = -1  # the newest stream
        self.frames: list[Frame] = []  # all that came
        self.replies: dict[int, Reply] = {}
        self.goaways: list[Goaway] = []
        self.window = WINDOW  # bytes that the server may still send
        self.windows: dict[int, int] = {}  # likewise, of each stream
        self._stream_window = WINDOW
        self._unacknowledged: deque[dict[int, int]] = deque()
        self._rest = b""
        self.send(PREFACE + self.settings(values or {}))
        self.read()
        self.send(SETTINGS_ACK)

    @property
    def protocol(self) -> HTTP2Connection:
        """The server's side of it."""
        protocol = self.connection.wrappedProtocol
        assert isinstance(protocol, HTTP2Connection)
        return protocol

    # What goes out

    def send(self, sent: bytes) -> None:
        self.connection.send(sent)

    def settings(self, values: dict[int, int]) -> bytes:
        self._unacknowledged.append(values)
        return settings(values)

    def expect_acknowledgements(self, count: int) -> None:
        """So many SETTINGS that change nothing may be acknowledged."""
        self._unacknowledged.extend([{}] * count)

    def enlarge(self, stream: int, size: int) -> bytes:
        """A WINDOW_UPDATE that counts: `stream` 0 is the connection."""
        if stream:
            self.windows[stream] += size
        else:
            self.window += size
        return window_update(stream, size)

    def open(self) -> int:
        """The number of the next stream."""
        self.last += 2
        self.windows[self.last] = self._stream_window
        return self.last

    def head(self, fields: Fields, *, end: bool = True, stream: int | None = None, size: int = LONGEST) -> bytes:
        """A header block on a new stream, or on `stream`, in frames of `size` bytes at most."""
        return self.block(self.encoder.encode(list(fields)), end=end, stream=stream, size=size)

    def block(self, block: bytes, *, end: bool = True, stream: int | None = None, size: int = LONGEST) -> bytes:
        """The same for an encoded block."""
        stream = stream or self.open()
        parts = [block[at : at + size] for at in range(0, len(block), size)] or [b""]
        out = b""
        for number, part in enumerate(parts):
            flags = END_STREAM if end and not number else 0
            flags |= END_HEADERS if number == len(parts) - 1 else 0
            out += frame(CONTINUATION if number else HEADERS, flags, stream, part)
        return out

    def request(
        self, method: str, target: str, body: Any = None, *headers: tuple[str, str], padding: int | None = None
    ) -> bytes:
        """A whole request on a new stream; a body that is no bytes is sent as JSON."""
        fields = [(":method", method), (":scheme", "https"), (":authority", "kes"), (":path", target), *headers]
        if body is None:
            return self.head(fields)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields.append(("content-length", str(len(content))))
        return self.head(fields, end=False) + data(self.last, content, padding=padding)

    def get(self, target: str, *headers: tuple[str, str], method: str = "GET") -> bytes:
        return self.request(method, target, None, *headers)

    def put(self, target: str, body: Any = None, *headers: tuple[str, str]) -> bytes:
        return self.request("PUT", target, body, *headers)

    def begin(self, target: str, *headers: tuple[str, str]) -> bytes:
        """The head of a PUT whose body follows."""
        fields = [(":method", "PUT"), (":scheme", "https"), (":authority", "kes"), (":path", target), *headers]
        return self.head(fields, end=False)

    def ask(self, request: bytes) -> Reply:
        """Send the newest request, and read its answer, whole or not."""
        self.send(request)
        self.read()
        return self.reply(self.last)

    # What comes in

    def reply(self, stream: int) -> Reply:
        return self.replies.setdefault(stream, Reply())

    @property
    def statuses(self) -> list[int]:
        """The status of each stream's answer, in the order of the streams; 0: there is none yet."""
        return [self.reply(stream).status for stream in range(1, self.last + 1, 2)]

    def read(self) -> list[Frame]:
        """Take all that the server has written and writes meanwhile; the frames that this brings."""
        return self.receive(self.connection.read_all())

    def receive(self, received: bytes) -> list[Frame]:
        found, self._rest = parse_frames(self._rest + received)
        for each in found:
            self._take(each)
        self.frames += found
        return found

    def _take(self, frame: Frame) -> None:
        kind, flags, stream, payload = frame
        if kind in (HEADERS, DATA):
            reply = self.reply(stream)
            assert stream in self.windows
            assert not reply.ended
            assert reply.reset is None
            if kind == HEADERS:
                assert flags & ~END_STREAM == END_HEADERS
                self._take_head(reply, payload)
            else:
                assert reply.status
                assert payload or flags & END_STREAM
                self.window -= len(payload)
                self.windows[stream] -= len(payload)
                assert not payload or min(self.window, self.windows[stream]) >= 0, "more than the windows allow"
                reply.body += payload
            if flags & END_STREAM:
                reply.ended = True
                if "content-length" in reply.headers and reply.body:
                    assert int(reply.headers["content-length"]) == len(reply.body)
        elif kind == RST_STREAM:
            self.reply(stream).reset = Code(int.from_bytes(payload, "big"))
        elif kind == GOAWAY:
            self.goaways.append(Goaway(int.from_bytes(payload[:4], "big"), Code(int.from_bytes(payload[4:8], "big"))))
        elif kind == SETTINGS and flags & ACK:
            self._apply(self._unacknowledged.popleft())
        else:
            assert kind in (SETTINGS, PING, WINDOW_UPDATE)

    def _take_head(self, reply: Reply, block: bytes) -> None:
        (name, status), *fields = self.decoder.decode(block)
        assert name == ":status"
        assert not reply.status
        if status[0] == "1":
            assert not fields
            reply.interim.append(int(status))
            return
        reply.status = int(status)
        reply.headers = dict(fields)
        assert len(reply.headers) == len(fields)
        del reply.headers["date"]

    def _apply(self, values: dict[int, int]) -> None:
        """The server has taken settings: from here on it is held to them."""
        window = values.get(INITIAL_WINDOW_SIZE, self._stream_window)
        for stream in self.windows:
            self.windows[stream] += window - self._stream_window
        self._stream_window = window
        if HEADER_TABLE_SIZE in values:
            self.decoder.max_allowed_table_size = values[HEADER_TABLE_SIZE]
