"""HTTP/2 against peers that mean harm: each of their ways runs into a bound of `limits.py`, and leaves nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hpack
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from kes.keystore import PAGE
from kes.server.http import limits
from kes.server.http.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_STREAM,
    MAX_WINDOW,
    PADDED,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Code,
)
from tests.server.http.h2client import (
    LONGEST,
    PREFACE,
    SETTINGS_ACK,
    WINDOW,
    Client,
    data,
    frame,
    parse_frames,
    ping,
    priority,
    reset,
    settings,
    window_update,
)
from tests.server.http.test_h2 import (
    BIG,
    BODY,
    CONVERSATION,
    HMAC,
    MIB,
    ROUTE_TIMEOUT,
    START,
    UNLIMITED,
    end,
    reset_later,
)
from tests.server.memory import HIGH_WATER, LONGEST_READ, House

GREETED = 2  # frames that a client has used of its allowance: its SETTINGS, and the acknowledgement of the server's
CALM = Code.ENHANCE_YOUR_CALM


def ended_by(client: Client) -> Code | None:
    """Why the server has ended the connection; None: it has not."""
    client.read()
    assert bool(client.goaways) == client.connection.closed
    return client.goaways[0].code if client.goaways else None


# Streams that end before their answer

CANCELS: dict[str, tuple[Callable[[int], bytes], Code | None]] = {
    "RST_STREAM": (reset, None),
    "RST_STREAM NO_ERROR": (lambda stream: reset(stream, Code.NO_ERROR), None),
    "WINDOW_UPDATE by nothing": (lambda stream: window_update(stream, 0), Code.PROTOCOL_ERROR),
    "window overflow": (lambda stream: window_update(stream, MAX_WINDOW), Code.FLOW_CONTROL_ERROR),
    "DATA after the end": (lambda stream: data(stream, b"x"), Code.STREAM_CLOSED),
    "HEADERS after the end": (
        lambda stream: frame(HEADERS, END_HEADERS | END_STREAM, stream, b"\x82"),
        Code.STREAM_CLOSED,
    ),
    "depends on itself": (lambda stream: priority(stream, stream), Code.PROTOCOL_ERROR),
    "short PRIORITY": (lambda stream: frame(PRIORITY, 0, stream, bytes(4)), Code.FRAME_SIZE_ERROR),
}


@pytest.mark.parametrize("name", CANCELS)
def test_requests_that_are_cancelled(cold: House, name: str) -> None:
    """A client that cancels its requests, or has the server do it, is stopped soon; meanwhile they count as under way.

    CVE-2023-44487 (rapid reset) and CVE-2025-8671 (made you reset).
    """
    cancel, code = CANCELS[name]
    client = Client(cold)
    for count in range(1, limits.RESETS + 1):
        client.send(client.put("/v1/key/hmac/cold", HMAC) + cancel(client.last))
        client.read()
        assert client.goaways == [], count
        assert client.reply(client.last).reset is code
    assert cold.metrics.active == limits.RESETS == limits.MAX_STREAMS
    client.send(client.put("/v1/key/hmac/cold", HMAC) + cancel(client.last))
    assert ended_by(client) is CALM
    assert cold.codes == []
    cold.threads.work()
    assert cold.codes == [200] * limits.RESETS
    end(cold, client)


def test_cancelled_bodies(house: House) -> None:
    """The same for requests that are cancelled before their body is there."""
    client = Client(house)
    for _ in range(limits.RESETS):
        client.send(client.begin("/v1/key/hmac/k") + reset(client.last))
    assert ended_by(client) is None
    client.send(client.begin("/v1/key/hmac/k") + reset(client.last))
    assert ended_by(client) is CALM
    assert house.codes == [400] * (limits.RESETS + 1)
    end(house, client)


def test_malformed_requests_are_no_way_around(house: House) -> None:
    """Requests that are malformed, refused for their header, or sent on streams that are over, count as cancelled."""
    for hostile in (
        lambda c: c.block(b"\x82"),
        lambda c: c.get("/".ljust(limits.MAX_TARGET + 1, "0")),
        lambda c: c.get("/version", ("expect", "nothing")),
        lambda c: data(1, b"x"),
    ):
        client = Client(house, values=UNLIMITED)
        client.ask(client.get("/version"))
        for _ in range(limits.RESETS):
            client.send(hostile(client))
        assert ended_by(client) is None
        client.send(hostile(client) + hostile(client))
        assert ended_by(client) is CALM


def test_who_cancels_slowly(house: House) -> None:
    """So many cancelled requests a second are no harm, for as long as the client likes."""
    client = Client(house)
    for _ in range(100):
        for _ in range(int(limits.RESET_RATE)):
            client.send(client.begin("/nowhere") + reset(client.last))
        house.reactor.advance(1)
    assert ended_by(client) is None


def test_who_cancels_now_and_then(cold: House) -> None:
    """A client whose requests are answered may cancel as many."""
    client = Client(cold)
    for _ in range(20):
        for _ in range(100):
            client.send(client.begin("/nowhere") + reset(client.last) + client.get("/version", method="HEAD"))
        assert ended_by(client) is None


def test_who_cancels_after_the_answer(house: House) -> None:
    """A client that resets streams whose answers it has, as the official SDK does, is never punished."""
    client = Client(house)
    block = hpack.Encoder().encode([(":method", "HEAD"), *START[1:]])
    batch = 1000
    for first in range(1, 200_000, 2 * batch):
        streams = range(first, first + 2 * batch, 2)
        client.send(b"".join([frame(HEADERS, END_HEADERS | END_STREAM, stream, block) for stream in streams]))
        heard, _ = parse_frames(client.connection.read_all())
        assert [each[:3] for each in heard] == [(HEADERS, END_HEADERS | END_STREAM, stream) for stream in streams]
        client.send(b"".join(map(reset, streams)))
        house.audit.clear()
    assert client.read() == []
    assert not client.connection.closed


def test_cancelled_requests_are_still_under_way(cold: House) -> None:
    """What a client has cancelled counts until it is done: it cannot have more work done at once than others."""
    client = Client(cold)
    for _ in range(100):
        client.send(client.put("/v1/key/hmac/cold", HMAC) + reset(client.last))
    for _ in range(limits.MAX_STREAMS - 100):
        client.send(client.put("/v1/key/hmac/cold", HMAC))
    client.read()
    assert client.reply(client.last).reset is None
    assert client.ask(client.get("/version")).reset is Code.REFUSED_STREAM
    cold.threads.work()
    client.read()
    assert client.ask(client.get("/version")).status == 200
    assert client.protocol._orphans == 0
    end(cold, client)


# Floods of frames that bring no request forward

FLOODS: dict[str, Callable[[Client], bytes]] = {
    "SETTINGS": lambda c: settings({}),
    "SETTINGS of windows": lambda c: settings({INITIAL_WINDOW_SIZE: 0}),
    "SETTINGS acknowledgement": lambda c: SETTINGS_ACK,
    "PING": lambda c: ping(),
    "PING acknowledgement": lambda c: ping(flags=ACK),
    "PRIORITY": lambda c: priority(1),
    "PRIORITY of streams to come": lambda c: priority(MAX_STREAM),
    "WINDOW_UPDATE": lambda c: window_update(0, 1),
    "WINDOW_UPDATE of a stream": lambda c: window_update(3, 1),
    "WINDOW_UPDATE of a stream that is over": lambda c: window_update(1, 1),
    "RST_STREAM of a stream that is over": lambda c: reset(1),
    "empty DATA": lambda c: data(3, b"", end=False),
    "empty DATA with padding": lambda c: data(3, b"", end=False, padding=1),
    "empty DATA that is ignored": lambda c: data(5, b"", end=False),
    "unknown": lambda c: frame(0xFF, 0xFF, 1, b"x"),
}


def busy(house: House) -> Client:
    """A client with a stream that is over, one whose body is awaited, and one that the server has ended."""
    client = Client(house)
    client.ask(client.get("/version"))
    client.ask(client.begin("/v1/key/hmac/k"))
    client.ask(client.begin("/v1/key/hmac/k", ("content-length", str(MIB + 1))))
    assert client.statuses == [200, 0, 413]
    client.expect_acknowledgements(10_000)
    return client


@pytest.mark.parametrize("name", FLOODS)
def test_floods(house: House, name: str) -> None:
    """So many frames that bring no request forward are taken at once, and one more is too many."""
    client = busy(house)
    flood = FLOODS[name](client)
    client.send(flood * limits.EXTRA_FRAMES)
    assert ended_by(client) is None
    client.send(flood)
    assert ended_by(client) is CALM
    end(house, client)


@pytest.mark.parametrize("name", FLOODS)
def test_slow_floods(house: House, name: str) -> None:
    """So many such frames a second are no harm."""
    client = busy(house)
    flood = FLOODS[name](client)
    client.send(flood * limits.EXTRA_FRAMES)
    for _ in range(14):  # no longer than a body may take
        house.reactor.advance(1)
        client.send(flood * int(limits.EXTRA_FRAME_RATE))
    assert ended_by(client) is None


def test_frames_between_requests(house: House) -> None:
    """A client whose requests are answered may send several such frames with each: windows, pings."""
    client = Client(house)
    extra = window_update(0, 1) * (limits.EXTRA_FRAMES_PER_REQUEST - 1) + ping()
    for _ in range(1000):
        client.send(client.get("/version", method="HEAD") + extra)
    assert ended_by(client) is None


def test_a_flood_that_is_not_read(house: House) -> None:
    """Who pings and does not read the replies is read no further."""
    client = Client(house)
    for _ in range(100):
        client.send(client.get("/version", method="HEAD") + ping() * limits.EXTRA_FRAMES_PER_REQUEST * 100)
        house.reactor.advance(1)
    assert client.connection.unread <= HIGH_WATER + limits.MAX_UNWRITTEN


# Header blocks


@pytest.mark.parametrize("piece", [b"", b"\x51\x01x"])  # accept-encoding: x
@pytest.mark.parametrize("over", [0, 1])
def test_a_block_in_too_many_frames(house: House, piece: bytes, over: int) -> None:
    """A header block is in so many frames at most, empty ones too (CVE-2024-27316, the CONTINUATION flood)."""
    client = Client(house)
    client.send(frame(HEADERS, END_STREAM, client.open(), b"\x82\x84\x87"))
    for _ in range(limits.MAX_HEAD_FRAMES - 2 + over):
        client.send(frame(CONTINUATION, 0, 1, piece))
    client.send(frame(CONTINUATION, END_HEADERS, 1))
    assert ended_by(client) is (CALM if over else None)
    assert client.reply(1).status == (0 if over else 404)


@pytest.mark.parametrize("over", [0, 1])
def test_a_block_that_is_too_long(house: House, over: int) -> None:
    """A header block that comes in more than one frame has so many bytes at most."""
    client = Client(house)
    block = client.encoder.encode(START)
    name, head = b"\x00\x01x\x7f", 4 + 3
    filler = limits.MAX_HEAD - len(block) - head + over
    length = filler - 127
    block += name + bytes((length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14)) + b"y" * filler
    assert len(block) == limits.MAX_HEAD + over
    client.send(client.block(block))
    client.read()
    assert client.goaways == ([(0, CALM)] if over else [])
    assert client.reply(1).status == (0 if over else 431)


def listed(size: int, count: int = 0) -> list[Any]:
    """A request's header list of that size, as SETTINGS_MAX_HEADER_LIST_SIZE counts; its block is small."""
    fields = [*START]
    left = size - sum(len(name) + len(value) + 32 for name, value in fields)
    while left > 2000:
        fields.append(("x", "y" * 967))
        left -= 1000
    fields.append(("z", "y" * (left - 33)))
    return fields


@pytest.mark.parametrize(
    ("size", "status"),
    [
        (limits.MAX_HEAD, 200),
        (limits.MAX_HEAD + 1, 431),
        (2 * limits.MAX_HEAD, 431),
        (2 * limits.MAX_HEAD + 1, None),
    ],
)
def test_header_list_size(house: House, size: int, status: int | None) -> None:
    """A header list that is too long is answered 431, and the connection goes on; one that is far too long ends it."""
    client = Client(house)
    request = client.head(listed(size))
    assert len(request) < 4000
    reply = client.ask(request)
    if status is None:
        assert ended_by(client) is CALM
    else:
        assert (reply.status, reply.ended) == (status, True)
        assert client.ask(client.head(listed(1000))).status == 200  # the table is right still
    assert 431 not in house.codes


@pytest.mark.parametrize("over", [0, 1])
def test_header_count(house: House, over: int) -> None:
    """So many header fields pass, one more is 431."""
    client = Client(house)
    fields = [(f"x-{number}", "") for number in range(limits.MAX_HEADERS - len(START) + over)]
    assert client.ask(client.head([*START, *fields])).status == (431 if over else 200)


@pytest.mark.parametrize("over", [0, 1])
def test_target_length(house: House, over: int) -> None:
    """A target of the longest length is looked up, a longer one is 414."""
    client = Client(house)
    reply = client.ask(client.get("/version?".ljust(limits.MAX_TARGET + over, "x")))
    assert reply.status == (414 if over else 200)
    assert house.codes == ([] if over else [200])


def test_a_refused_header_with_a_body(house: House) -> None:
    """Who is refused for the header need not send the body; what comes of it is passed over."""
    client = Client(house)
    client.send(client.begin("/".ljust(limits.MAX_TARGET + 1, "x")))
    client.read()
    reply = client.reply(1)
    assert (reply.status, reset_later(house, client, reply)) == (414, Code.NO_ERROR)
    client.send(data(1, BODY))
    assert client.read() == []


def test_many_bodies_that_are_not_needed(house: House) -> None:
    """Of the streams that may be read to their end a connection keeps so many in mind; the oldest is reset for more."""
    client = Client(house)
    for _ in range(limits.MAX_IGNORED + 1):
        client.send(client.begin("/v1/key/hmac/k", ("content-length", str(MIB + 1))))
        client.read()
    assert client.statuses == [413] * (limits.MAX_IGNORED + 1)
    assert [stream for stream, reply in client.replies.items() if reply.reset is not None] == [1]
    house.reactor.advance(limits.LINGER_TIMEOUT)
    client.read()
    assert {reply.reset for reply in client.replies.values()} == {Code.NO_ERROR}
    end(house, client)


def test_a_refused_header_without_a_window(house: House) -> None:
    """The refusal's body is left out where the client has no window for it: nothing waits."""
    client = Client(house, values={INITIAL_WINDOW_SIZE: 0})
    reply = client.ask(client.get("/".ljust(limits.MAX_TARGET + 1, "x")))
    assert (reply.status, reply.body, reply.ended) == (414, b"", True)


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        ("/".ljust(limits.MAX_TARGET + 1, "x"), [], 414),
        ("/version", [("expect", "a miracle")], 417),
        ("/version", [("x", "y" * 1000)] * 40, 431),
    ],
)
def test_a_refused_head_request(house: House, target: str, headers: Any, status: int) -> None:
    """The refusal of a HEAD request has no body either."""
    client = Client(house)
    reply = client.ask(client.get(target, *headers, method="HEAD"))
    assert (reply.status, reply.body, reply.ended) == (status, b"", True)


def test_a_refused_header_takes_of_the_connections_window(house: House) -> None:
    """A refusal's body counts as any other's."""
    client = Client(house, values={INITIAL_WINDOW_SIZE: WINDOW - 60})
    client.ask(client.put("/v1/key/encrypt/k", BIG))
    assert client.window == 60
    target = "/".ljust(limits.MAX_TARGET + 1, "x")
    bodies = [client.ask(client.get(target)).body for _ in range(2)]
    assert [bool(body) for body in bodies] == [True, False]


BOMBS: dict[str, bytes] = {
    "index 0": b"\x80",
    "index that is not there": b"\xbe",
    "index with no end": b"\xff" + b"\x80" * 30_000,
    "large index": b"\xff" + b"\xff" * 4 + b"\x0f",
    "length with no end": b"\x00\x7f" + b"\xff" * 30_000,
    "large length": b"\x00\x7f\xff\xff\xff\xff\x0f",
    "string that is cut off": b"\x00\x05abc",
    "name without a value": b"\x00\x01a",
    "table size over the limit": b"\x3f\xe2\x1f",
    "large table size": b"\x3f\xff\xff\xff\xff\x0f",
    "table size that is cut off": b"\x3f",
    "table size behind a field": b"\x82\x20",
    "Huffman code of the end": b"\x00\x84\xff\xff\xff\xff\x00",
    "Huffman padding of a whole byte": b"\x00\x82\x1f\xff\x00",
    "Huffman padding of zeros": b"\x00\x81\x18\x00",
}


@pytest.mark.parametrize("name", BOMBS)
def test_blocks_that_cannot_be_decoded(house: House, name: str) -> None:
    """What HPACK does not allow ends the connection, as its table is lost, and costs no more than its bytes."""
    client = Client(house)
    client.send(client.block(BOMBS[name]))
    assert ended_by(client) is Code.COMPRESSION_ERROR
    assert house.codes == []
    end(house, client)


def test_the_largest_table_size(house: House) -> None:
    """A client may set the table's size to all that it has."""
    client = Client(house)
    client.send(client.block(b"\x20\x3f\xe1\x1f" + hpack.Encoder().encode(START)))
    client.read()
    assert client.statuses == [200]


@given(st.lists(st.binary(max_size=60), max_size=5))
@examples(max_examples=300)
def test_any_block(shared: House, blocks: list[bytes]) -> None:
    """Whatever is in header blocks, each is a request, resets its stream, or ends the connection."""
    client = Client(shared)
    for block in blocks:
        client.send(client.block(block))
    if ended_by(client) is None:
        assert all(reply.status or reply.reset for reply in map(client.reply, range(1, client.last + 1, 2)))
    end(shared, client)


# More than one connection may have


def until_refused(client: Client, make: Callable[[], bytes]) -> None:
    """Have requests made until the server refuses one."""
    while client.ask(make()).reset is not Code.REFUSED_STREAM:
        assert not client.goaways


def test_too_many_streams(cold: House) -> None:
    """One stream too many is refused, untouched, so that the client may send it again; the others are answered."""
    client = Client(cold)
    for _ in range(limits.MAX_STREAMS):
        client.send(client.put("/v1/key/hmac/cold", HMAC))
    for _ in range(3):
        assert client.ask(client.get("/version")).reset is Code.REFUSED_STREAM
    assert client.ask(client.begin("/v1/key/hmac/k")).reset is Code.REFUSED_STREAM
    client.send(data(client.last, BODY))
    cold.threads.work()
    client.read()
    assert client.statuses == [200] * limits.MAX_STREAMS + [0] * 4
    assert cold.codes == [200] * limits.MAX_STREAMS
    assert client.ask(client.get("/version")).status == 200
    end(cold, client)


FULL = limits.MAX_HELD // MIB  # bodies of the largest size, less a byte: their headers count too


@pytest.mark.parametrize("told", [True, False])
def test_bodies_share_the_connections_room(house: House, told: bool) -> None:
    """The body that finds no more room has its stream refused; the others go on, and room that is free is free."""
    client = Client(house)
    headers = [("content-length", str(MIB))] if told else []

    def upload() -> Code | None:
        request = client.begin("/v1/key/hmac/k", *headers)
        return client.ask(request + data(client.last, b" " * (MIB - 1), end=False)).reset

    assert [upload() for _ in range(FULL)] == [None] * (FULL - 1) + [Code.REFUSED_STREAM]
    assert house.codes == [400]
    assert client.ask(client.put("/v1/key/hmac/k", HMAC)).status == 200  # a small one has room
    # Whatever ends a request, its room is there again.
    client.send(data(1, b" ") + reset(3) + data(5, b"  ") + window_update(7, 0))
    client.read()
    assert [upload() for _ in range(5)] == [None] * 4 + [Code.REFUSED_STREAM]
    house.reactor.advance(ROUTE_TIMEOUT)
    client.read()
    assert client.protocol._held == 0
    assert upload() is None
    end(house, client)


def test_streams_that_wait_for_windows(house: House) -> None:
    """Answers without a window count as under way, and are given up in the end: nothing of them stays."""
    client = Client(house, values={INITIAL_WINDOW_SIZE: 0})
    for _ in range(limits.MAX_STREAMS):
        client.send(client.get("/version"))
    assert client.ask(client.get("/version")).reset is Code.REFUSED_STREAM
    house.reactor.advance(limits.IDLE_TIMEOUT)
    client.read()
    assert [client.reply(stream).reset for stream in range(1, 512, 2)] == [Code.CANCEL] * limits.MAX_STREAMS
    assert client.protocol._held == 0
    assert client.ask(client.get("/nowhere")).status == 404
    assert client.goaways == []
    end(house, client)


def test_large_answers_that_wait_for_windows(house: House) -> None:
    """Once the answers that wait are as large as a connection may have them, no request is taken."""
    client = Client(house, values={INITIAL_WINDOW_SIZE: 0})
    while (reply := client.ask(client.put("/v1/key/encrypt/k", BIG))).reset is None:
        assert reply.status == 200
    assert reply.reset is Code.REFUSED_STREAM
    assert client.last // 2 <= limits.MAX_HELD // 900_000 + 1
    client.send(client.enlarge(0, 100 * MIB) + client.settings({INITIAL_WINDOW_SIZE: 2 * MIB}))
    client.read()
    assert client.ask(client.get("/version")).status == 200
    assert client.protocol._held == 0


def test_answers_that_wait_count_with_the_bodies(house: House) -> None:
    """Small requests with answers that wait take the same room as bodies, and are refused when it is full."""
    client = Client(house, values={INITIAL_WINDOW_SIZE: 0})
    for _ in range(FULL):
        client.send(client.begin("/v1/key/hmac/k") + data(client.last, b" " * (MIB - 20_000 // FULL), end=False))
    until_refused(client, lambda: client.get("/v1/metrics"))
    assert client.last // 2 < limits.MAX_STREAMS // 2
    assert client.protocol._held > limits.MAX_HELD
    client.send(reset(1))
    assert client.ask(client.get("/v1/metrics")).status == 200


def test_a_window_of_single_bytes(house: House) -> None:
    """Who has an answer sent byte by byte runs out of frames for it."""
    client = Client(house, values={INITIAL_WINDOW_SIZE: 0})
    client.ask(client.put("/v1/key/encrypt/k", BIG))
    sent = 0
    while ended_by(client) is None:
        client.send(client.enlarge(1, 1))
        sent += 1
    assert sent == limits.EXTRA_FRAMES - GREETED + 1
    assert ended_by(client) is CALM
    end(house, client)


def test_an_endless_trickle(house: House) -> None:
    """A client that says its part byte by byte, a second each, gets as far as the time of a frame allows."""
    client = Client(house)
    for byte in CONVERSATION[len(PREFACE) :]:
        client.send(bytes((byte,)))
        house.reactor.advance(1)
    assert ended_by(client) is CALM
    end(house, client)


def test_streams_that_the_server_has_ended(house: House) -> None:
    """How many streams are remembered for what may still come on them is bounded."""
    client = Client(house)
    for _ in range(2 * limits.MAX_IGNORED):
        client.send(client.begin("/v1/key/hmac/k", ("content-length", str(MIB + 1))))
    client.read()
    assert client.statuses == [413] * 2 * limits.MAX_IGNORED
    assert len(client.protocol._ignored) == limits.MAX_IGNORED
    client.send(data(client.last, BODY))
    assert client.read() == []
    client.send(data(1, BODY))
    assert [each[:3] for each in client.read()] == [(RST_STREAM, 0, 1)]


# Frames of every form


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        *((frame(SETTINGS, payload=bytes(size)), Code.FRAME_SIZE_ERROR) for size in (1, 5, 7, 11)),
        *((frame(PING, payload=bytes(size)), Code.FRAME_SIZE_ERROR) for size in (0, 7, 9)),
        *((frame(GOAWAY, payload=bytes(size)), Code.FRAME_SIZE_ERROR) for size in (0, 7)),
        *((frame(RST_STREAM, 0, 1, bytes(size)), Code.FRAME_SIZE_ERROR) for size in (0, 3, 5)),
        *((frame(WINDOW_UPDATE, 0, 0, bytes(size)), Code.FRAME_SIZE_ERROR) for size in (0, 3, 5)),
        *((frame(WINDOW_UPDATE, 0, 1, bytes(size)), Code.FRAME_SIZE_ERROR) for size in (0, 3, 5)),
        *((frame(DATA, PADDED, 1, bytes((size,)) + bytes(2)), Code.PROTOCOL_ERROR) for size in (3, 4, 255)),
        *((frame(kind, 0, 1, bytes(LONGEST + 1)), Code.FRAME_SIZE_ERROR) for kind in (*range(10), 0xFF)),
    ],
)
def test_frames_of_a_wrong_size(house: House, sent: bytes, code: Code) -> None:
    """A frame whose size does not fit its type ends the connection."""
    client = Client(house)
    client.ask(client.begin("/v1/key/hmac/k"))
    client.send(sent)
    assert ended_by(client) is code
    assert house.codes == [400]
    end(house, client)


@pytest.mark.parametrize("size", [0, 4, 6])
def test_a_priority_of_a_wrong_size(house: House, size: int) -> None:
    """A PRIORITY of a wrong size resets its stream (RFC 9113, section 6.3)."""
    client = Client(house)
    client.send(client.begin("/v1/key/hmac/k") + frame(PRIORITY, 0, 1, bytes(size)))
    assert ended_by(client) is None
    assert client.reply(1).reset is Code.FRAME_SIZE_ERROR


@pytest.mark.parametrize("kind", [*range(11), 0xFF])
def test_any_frame_in_any_state(shared: House, kind: int) -> None:
    """Whatever frame comes on whatever stream, the connection serves the next request or ends with GOAWAY."""
    for flags in (0, 0x1, 0x4, 0x5, 0x8, 0x20, 0xFF):
        for stream in (0, 1, 2, 3, 5, 7, 8, 9, MAX_STREAM, 2**31 + 3):
            for size in (0, 1, 4, 5, 8):
                client = busy(shared)
                client.last = 9
                client.windows.update({7: MAX_WINDOW, 9: MAX_WINDOW, MAX_STREAM: MAX_WINDOW})
                client.send(frame(kind, flags, stream, b"\x00\x00\x00\x02\x82\x84\x87\x84"[:size]))
                client.ask(client.get("/version"))
                assert ended_by(client) or client.statuses[-1] == 200
                end(shared, client)
    shared.audit.clear()


# Garbage


@given(
    edits=st.lists(
        st.tuples(
            st.floats(0, 1),
            st.sampled_from(["flip", "insert", "delete"]),
            st.binary(min_size=1, max_size=12) | st.sampled_from([b"\x00", b"\xff", b"\x00\x00\x00", b"\x00\x40\x00"]),
        ),
        min_size=1,
        max_size=4,
    ),
    splits=st.integers(1, 4),
)
@examples(max_examples=500)
def test_garbage(shared: House, edits: list[tuple[float, str, bytes]], splits: int) -> None:
    """Garbage anywhere raises and logs nothing, leaves nothing, and costs its own connection at most."""
    sent = bytearray(CONVERSATION)
    for at, how, garbage in edits:
        start = int(at * len(sent))
        if how == "flip":
            sent[start : start + len(garbage)] = bytes(
                a ^ b for a, b in zip(sent[start : start + len(garbage)], garbage, strict=False)
            )
        elif how == "insert":
            sent[start:start] = garbage
        else:
            del sent[start : start + len(garbage)]
    shared.audit.clear()
    with shared.logging():
        connection = shared.connect(speaks=b"h2")
        size = len(sent) // splits + 1
        for start in range(0, len(sent), size):
            connection.send(bytes(sent[start : start + size]))
        shared.reactor.advance(ROUTE_TIMEOUT)
        frames, rest = parse_frames(connection.read_all())
        assert rest == b""
        assert connection.closed or [each for each in frames if each.kind == HEADERS]
        connection.drop()
        shared.reactor.turn()
    assert shared.at_rest()
    assert shared.lines == []
    assert set(shared.codes) <= {200, 400, 404, 405, 413, 504}


@given(st.binary(max_size=200))
@examples(max_examples=300)
def test_pure_garbage_is_never_served(shared: House, garbage: bytes) -> None:
    """Bytes behind the preface that are no frames bring no answer."""
    shared.audit.clear()
    client = Client(shared)
    client.send(garbage)
    shared.reactor.advance(limits.HEAD_TIMEOUT)
    client.connection.read_all()
    end(shared, client)
    assert shared.codes == []


# Memory

# What is accounted for; for each stream, a header list and an answer that a window has taken but the client has not
# read; what was read ahead, and what was written, of a connection that is paused.
BOUND = (
    limits.MAX_HELD
    + limits.MAX_STREAMS * (limits.MAX_HEAD + LONGEST)
    + (limits.MAX_PIPELINED + LONGEST_READ)
    + (HIGH_WATER + limits.MAX_UNWRITTEN + LONGEST)
)


def holds(client: Client) -> int:
    """How many bytes of what the client sent, and of answers to it, the server has in memory."""
    protocol = client.protocol
    streams = sum(
        len(stream.body)
        + len(stream.content or b"")
        + len(stream.unsent or b"")
        + sum(len(name) + len(value) for name, value in stream.headers)
        for stream in protocol._streams.values()
    )
    memo = sum(map(len, protocol._heads._memo))
    return len(protocol._buffer) + protocol._out_size + streams + memo + client.connection.unread


def unfinished_bodies(client: Client, house: House) -> None:
    for _ in range(2 * FULL):
        client.send(client.begin("/v1/key/encrypt/k") + data(client.last, b" " * (MIB - 1), end=False))


def waiting_bodies(client: Client, house: House) -> None:
    until_refused(client, lambda: client.put("/v1/key/encrypt/cold", BIG))


def waiting_answers(client: Client, house: House) -> None:
    until_refused(client, lambda: client.put("/v1/key/encrypt/cold", BIG))
    house.threads.work()
    client.read()


def long_headers(client: Client, house: House) -> None:
    fields = [("x", "y" * 1000)] * ((limits.MAX_HEAD - 1000) // 1033)
    until_refused(client, lambda: client.put("/v1/key/create/new", None, *fields))


def unread_answers(client: Client, house: House) -> None:
    small = {"plaintext": BIG["plaintext"][: LONGEST // 4 * 3]}
    client.send(client.settings(UNLIMITED) + client.enlarge(0, 100 * MIB))
    client.read()
    for _ in range(limits.MAX_STREAMS):
        client.send(client.put("/v1/key/encrypt/cold", small))
    house.threads.work()
    for _ in range(100):
        client.send(client.put("/v1/key/encrypt/k", small))
    assert client.connection.unread > 100 * LONGEST // 2
    assert client.connection.undelivered


def test_answers_beyond_all_measure_are_given_up(cold: House) -> None:
    """What a connection holds is at most twice what stops it from taking requests: answers beyond that are dropped."""
    key = cold.store.get("cold")
    for number in range(PAGE):
        cold.store.create(f"{number:04}".rjust(80, "n"), key)
    cold.threads.hold()
    client = Client(cold, values={INITIAL_WINDOW_SIZE: 0})
    for _ in range(15):
        client.send(client.put("/v1/key/encrypt/cold", BIG))
    lists = limits.MAX_STREAMS - 15
    for _ in range(lists):
        client.send(client.get("/v1/key/list/n"))
    cold.threads.work()
    client.read()
    given_up = [reply.reset for reply in client.replies.values() if reply.reset is not None]
    assert set(given_up) == {CALM}
    assert len(given_up) < lists // 2
    assert limits.MAX_HELD < client.protocol._held <= 2 * limits.MAX_HELD
    assert client.goaways == []
    client.connection.drop()
    assert client.protocol._held == 0


@pytest.mark.parametrize(
    ("attack", "least"),
    [
        (unfinished_bodies, limits.MAX_HELD - 2 * MIB),
        (waiting_bodies, 0),  # what they decode to is held, which is less, and not to be seen from here
        (waiting_answers, limits.MAX_HELD - 2 * MIB),
        (long_headers, limits.MAX_STREAMS * limits.MAX_HEAD * 3 // 4),
        (unread_answers, limits.MAX_STREAMS * LONGEST // 2),
    ],
)
def test_what_a_connection_holds(cold: House, attack: Callable[[Client, House], None], least: int) -> None:
    """However a client goes about it, what one connection holds for it is bounded, and gone with it."""
    client = Client(cold, values={INITIAL_WINDOW_SIZE: 0})
    attack(client, cold)
    assert least < holds(client) < BOUND
    assert client.protocol._held <= limits.MAX_HELD
    client.connection.drop()
    cold.threads.work()
    cold.reactor.turn()
    assert cold.at_rest()
    protocol = client.protocol
    assert (protocol._held, protocol._orphans, protocol._streams, protocol._blocked) == (0, 0, {}, {})
