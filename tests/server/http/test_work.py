"""How the work that a client makes grows with what it sends: by counts of calls and of copied bytes, on no clock."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from kes.server.http import frames, limits
from kes.server.http.frames import CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, WINDOW_UPDATE, Code
from kes.server.http.headers import encode_fields
from tests.server.http.h2client import Client, frame
from tests.server.memory import House, chunk, get

GET = encode_fields((b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/version"))
MALFORMED = encode_fields((b"x", b"y"))
WHOLE = END_HEADERS | END_STREAM
PUT = encode_fields((b":method", b"PUT"), (b":scheme", b"https"), (b":path", b"/v1/key/hmac/k"))


class Bytes(bytes):
    """Bytes that tell how many of them are copied."""

    copied = 0

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        if isinstance(part, int):
            return part
        Bytes.copied += len(part)
        return Bytes(part)

    def __add__(self, other: bytes) -> Bytes:
        Bytes.copied += len(self) + len(other)
        return Bytes(super().__add__(other))


class Work:
    """How many functions are called meanwhile, those in C among them, and how many bytes of `Bytes` are copied."""

    calls = 0

    def __enter__(self) -> Work:
        Bytes.copied = 0
        sys.setprofile(self._called)
        return self

    def _called(self, _frame: FrameType, event: str, _argument: object) -> None:
        self.calls += event in ("call", "c_call")

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        self.copied = Bytes.copied


def trickled(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def in_pieces(block: bytes, stream: int) -> bytes:
    """A request whose header block is in as many frames as it may be."""
    last = limits.MAX_HEAD_FRAMES - 1
    pieces = frame(HEADERS, END_STREAM, stream, block[:1])
    for at in range(1, last):
        pieces += frame(CONTINUATION, 0, stream, block[at : at + 1])
    return pieces + frame(CONTINUATION, END_HEADERS, stream, block[last:])


CHUNKED = get("/v1/key/hmac/k", "Transfer-Encoding: chunked", method="PUT")


def window(size: int) -> bytes:
    return frame(frames.SETTINGS, payload=bytes((0, frames.INITIAL_WINDOW_SIZE)) + size.to_bytes(4, "big"))


BLOCKED = window(0) + b"".join(frame(HEADERS, WHOLE, stream, GET) for stream in range(1, 41, 2))

# What n of it are on the wire, as reads.
HTTP1: dict[str, Callable[[int], list[bytes]]] = {
    "requests in one read over HTTP/1.1": lambda n: [get("/version") * n],
    "chunks in one read": lambda n: [CHUNKED + chunk(b" ") * n],
    "chunks in a read each": lambda n: [CHUNKED, *[chunk(b" ")] * n],
    "chunks byte by byte": lambda n: trickled(CHUNKED + chunk(b" ") * n),
    "a header byte by byte": lambda n: trickled(get("/version", "X: " + "x" * n)),
    "a body byte by byte": lambda n: trickled(
        get("/v1/key/hmac/k", f"Content-Length: {n + 1}", method="PUT") + b" " * n
    ),
}
HTTP2: dict[str, Callable[[int], list[bytes]]] = {
    "requests in one read over HTTP/2": lambda n: [b"".join(frame(HEADERS, WHOLE, 2 * i + 1, GET) for i in range(n))],
    "DATA in one read": lambda n: [frame(HEADERS, END_HEADERS, 1, PUT) + frame(DATA, 0, 1, b" ") * n],
    "DATA in a read each": lambda n: [frame(HEADERS, END_HEADERS, 1, PUT), *[frame(DATA, 0, 1, b" ")] * n],
    "padded DATA": lambda n: [frame(HEADERS, END_HEADERS, 1, PUT) + frame(DATA, frames.PADDED, 1, b"\x01 \0") * n],
    "DATA that is ignored": lambda n: [frame(HEADERS, END_HEADERS, 1, MALFORMED) + frame(DATA, 0, 1, b" ") * n],
    "header blocks in pieces": lambda n: [b"".join(in_pieces(GET, 2 * i + 1) for i in range(n))],
    "header fields": lambda n: [frame(HEADERS, WHOLE, 1, GET + b"\x0f\x2b\x00" * n)],
    "header fields for the table": lambda n: [frame(HEADERS, WHOLE, 1, GET + b"\x40\x01a\x01b" * n)],
    "table sizes": lambda n: [frame(HEADERS, WHOLE, 1, b"\x20" * n + GET)],
    "a header block byte by byte": lambda n: trickled(frame(HEADERS, WHOLE, 1, GET + encode_fields((b"x", b"x" * n)))),
    "window updates": lambda n: [BLOCKED + frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1") * n],
    "settings": lambda n: [BLOCKED + (window(0) + window(1)) * n],
}

# What is put together from many reads, or taken off the front of one, is copied each time; limits bound how much it is.
COPIED_EACH_TIME = {"requests in one read over HTTP/1.1", "a header byte by byte", "a header block byte by byte"}


def work(protocol: bytes | None, reads: list[bytes]) -> Work:
    """What it takes a server to be sent this, on a connection that is open."""
    house = House()
    house.make_key("k")
    connection = house.connect(speaks=protocol)
    if protocol:
        connection.send(PREFACE + frame(frames.SETTINGS))
    with Work() as work:
        for read in reads:
            connection.send(Bytes(read))
    return work


@pytest.mark.parametrize("name", [*HTTP1, *HTTP2])
def test_work_grows_with_the_input(name: str) -> None:
    """Eight times as much of anything takes a server about eight times as many calls and copies, far from 64."""
    protocol, reads = (b"h2", HTTP2[name]) if name in HTTP2 else (None, HTTP1[name])
    some, more = work(protocol, reads(50)), work(protocol, reads(400))
    assert 0 < more.calls < 20 * some.calls
    assert 0 < more.copied < 20 * some.copied or name in COPIED_EACH_TIME


def test_the_watch_for_work_sees_it() -> None:
    """What copies all that there is for each byte that is new is seen to do that."""
    copied = []
    for size in (50, 400):
        data = Bytes()
        with Work() as work:
            for _ in range(size):
                data = data + b"x"
        copied.append(work.copied)
    assert copied[1] > 20 * copied[0]


def test_header_blocks_that_are_no_requests() -> None:
    """Blocks on a stream that the server has ended are decoded, for the table, but not more of them than resets."""
    client = Client(House())
    client.send(client.block(MALFORMED, end=False))
    client.send(client.block(MALFORMED, end=False, stream=1) * (limits.RESETS - 1))
    assert not client.connection.closed
    client.send(client.block(MALFORMED, end=False, stream=1))
    client.read()
    assert client.goaways[0].code == Code.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("over", [0, 1])
def test_trailers_count(over: int) -> None:
    """So many fields pass as trailers, as in a header, and one more is a fault of the stream."""
    client = Client(House())
    client.send(client.begin("/v1/key/delete/k"))
    reply = client.ask(client.block(encode_fields(*[(b"a", b"b")] * (limits.MAX_HEADERS + over)), stream=1))
    assert reply.reset == (Code.PROTOCOL_ERROR if over else None)
    assert reply.status == (0 if over else 405)
