"""What fuzzers and tests feed with bytes, and what has to hold whatever the bytes are. Each target takes one input and
raises AssertionError, or whatever the server should not have raised, where something does not hold.

An input is cut into reads, and answers come at once or later, as its checksum has it, so that the same input does the
same each time.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from random import Random
from typing import Any
from zlib import crc32

from hpack import Decoder, HPACKError
from msgspec.structs import astuple

from kes.api import keys
from kes.api.body import Body, body_decoder
from kes.errors import InvalidBody
from kes.policy import Policy
from kes.server.http import frames, limits
from kes.server.http.frames import END_HEADERS, END_STREAM, ConnectionFault, StreamFault
from kes.server.http.headers import Field, HeadDecoder, request_head
from kes.server.http.syntax import ProtocolError
from tests.server.memory import APP, House, parse_answers, put

OPENING = frames.PREFACE + frames.settings({})

Frame = tuple[int, int, int, bytes]  # type, flags, stream, payload

# What answers the same to the same request at every time.
_POLICY = Policy(
    "fuzz",
    allow=(
        "/version",
        "/v1/key/describe/*",
        "/v1/key/hmac/*",
        "/v1/key/decrypt/*",
        "/v1/key/import/k",
        "/v1/key/list/*",
        "/v1/api",
        "/v1/log/error",
    ),
)


@cache
def _house() -> House:
    house = House()
    house.make_key("k")
    house.site.state = replace(house.site.state, assigned={APP: _POLICY})
    house.site.date = lambda: b"Thu, 01 Jan 1970 00:00:00 GMT"
    return house


def converse(protocol: bytes | None, parts: Iterable[bytes], later: bool) -> tuple[bytes, list[dict[str, Any]], bool]:
    """What the server says to `parts`, whom and what it audits, and whether it is done with the connection.

    `later`: what needs the key store is answered after all was sent. Nothing that a client sends makes the server fail,
    and nothing is left when the client has gone.
    """
    house = _house()
    house.audit.clear()
    house.lines.clear()
    house.threads.held = deque() if later else None
    with house.logging():
        connection = house.connect(APP, protocol)
        for part in parts:
            connection.send(part)
        while house.threads.held:
            house.threads.work()
        house.error_log.feed.publish(b'{"message":"to all who read the log"}\n')
        house.reactor.advance(limits.LINGER_TIMEOUT)
        said = connection.read_all()
        house.reactor.turn()
        said += connection.read_all()
        done = connection.closed
        connection.drop()
        house.reactor.turn()
    assert not house.lines
    assert 500 not in house.codes
    assert house.at_rest()
    return said, [{**event["request"], "code": event["response"]["code"]} for event in house.audit], done


def _reads(data: bytes) -> Iterator[list[bytes]]:
    """`data` cut into reads in several ways."""
    size = len(data)
    random = Random(crc32(data))
    cuts = sorted(random.sample(range(size), min(size, random.randint(1, 8))))
    yield [data[a:b] for a, b in pairwise([0, *cuts, size])]
    if size < 600:
        yield [data[at : at + 1] for at in range(size)]


def _same_however_cut(protocol: bytes | None, data: bytes, meaning: Callable[[bytes], object]) -> bytes:
    """How bytes are cut into reads makes no difference for the `meaning` of what the server says. What it says."""
    later = bool(crc32(data) & 1)
    said, *rest = converse(protocol, [data], later)
    for parts in _reads(data):
        said_again, *rest_again = converse(protocol, parts, later)
        assert meaning(said_again) == meaning(said)
        assert rest_again == rest
    return said


def h1(data: bytes) -> None:
    """HTTP/1.1: the bytes of a connection."""
    if re.search(rb"(?i)expect:", data):
        # Whether the client is told to go on depends on whether it has waited.
        said, _, _ = converse(None, [data], False)
    else:
        said = _same_however_cut(None, data, bytes)
    assert re.match(rb"HTTP/1\.1 \d{3} |\Z", said)


def h2(data: bytes) -> None:
    """HTTP/2: the bytes of a connection, less the preface and the first SETTINGS."""
    if any(kind == frames.GOAWAY for kind, *_ in split_frames(data)):
        # After it, it is the read's end that ends the connection.
        said, _, _ = converse(b"h2", [OPENING + data], False)
    else:
        said = _same_however_cut(b"h2", OPENING + data, _by_stream)
    opened = {stream_id & frames.MAX_STREAM for kind, _, stream_id, _ in split_frames(data) if kind == frames.HEADERS}
    check_answers(said, opened)


def _by_stream(data: bytes) -> list[Frame]:
    """What of several streams comes first is left open."""
    return sorted(split_frames(data), key=lambda frame: frame[2])


def split_frames(data: bytes) -> list[Frame]:
    """The whole frames in `data`, with what is left at its end, if there is something, as one of type -1."""
    found = []
    at = 0
    while len(data) - at >= frames.HEADER_SIZE:
        word, flags, stream_id = frames.read_header(data, at)
        end = at + frames.HEADER_SIZE + (word >> 8)
        if end > len(data):
            break
        found.append((word & 0xFF, flags, stream_id, data[at + frames.HEADER_SIZE : end]))
        at = end
    if at < len(data):
        found.append((-1, 0, 0, data[at:]))
    return found


def join_frames(parts: Iterable[Frame]) -> bytes:
    return b"".join(
        payload if kind < 0 else frames.header(len(payload), kind, flags, stream_id) + payload
        for kind, flags, stream_id, payload in parts
    )


def check_answers(data: bytes, opened: set[int]) -> None:
    """What a server says over HTTP/2 has to make sense to its client, which has `opened` streams with these numbers."""
    decoder = Decoder()
    left: dict[int, int | None] = {}  # bytes to come, of streams whose answer has begun, where it was told
    ended: set[int] = set()
    greeting, *rest = split_frames(data)
    assert greeting[:3] == (frames.SETTINGS, 0, 0)
    for kind, flags, stream_id, payload in rest:
        assert len(payload) <= frames.MAX_PAYLOAD
        if kind in (frames.SETTINGS, frames.PING):
            assert (flags, stream_id) == (frames.ACK, 0)
        elif kind == frames.GOAWAY:
            assert stream_id == 0
        elif kind == frames.WINDOW_UPDATE:
            assert frames.read_word(payload) > 0
        elif kind == frames.RST_STREAM:
            # A stream is idle, and not to be reset, until one with its number or a higher one is opened.
            assert stream_id & 1
            assert stream_id <= max(opened)
            ended.add(stream_id)
        else:
            assert stream_id not in ended
            if kind == frames.HEADERS:
                assert flags & END_HEADERS
                assert stream_id in opened - left.keys()
                headers = dict(decoder.decode(payload))
                if headers[":status"] == "100":
                    assert not flags & END_STREAM
                    continue
                length = headers.get("content-length")
                left[stream_id] = None if flags & END_STREAM or length is None else int(length)
            else:
                assert kind == frames.DATA
                if left[stream_id] is not None:
                    left[stream_id] -= len(payload)
                    assert left[stream_id] >= 0
            if flags & END_STREAM:
                assert not left[stream_id]
                ended.add(stream_id)


def hpack(data: bytes) -> None:
    """Header blocks, each after its length in two bytes. Each comes twice: whether it is remembered must not tell."""
    decoder = HeadDecoder()
    plain = Decoder(2 * limits.MAX_HEAD)
    for block in (block for block in split_blocks(data) for _ in range(2)):
        fields = _outcome(lambda block: [(name, value) for name, value in plain.decode(block, raw=True)], block)
        if isinstance(fields, list):
            assert _outcome(decoder.request, block) == _outcome(request_head, fields)
        else:
            assert _outcome(decoder.request, block)[0] is ConnectionFault
            break


def split_blocks(data: bytes) -> list[bytes]:
    blocks = []
    while data:
        end = 2 + int.from_bytes(data[:2], "big")
        blocks.append(data[2:end])
        data = data[end:]
    return blocks


def join_blocks(blocks: Iterable[bytes]) -> bytes:
    return b"".join(len(block).to_bytes(2, "big") + block for block in blocks)


def _reader(body_type: type[Body]) -> Callable[[bytes], list[bytes | str]]:
    """What a body has for each field of a type; None is the same as b""."""
    read = body_decoder(body_type, InvalidBody)
    return lambda data: [value or b"" for value in astuple(read(data))]


_READERS = [_reader(body_type) for body_type in (keys.EncryptBody, keys.HMACBody, keys.ImportBody)]


def body(data: bytes) -> None:
    """A request's body. What follows the JSON value changes nothing; it also keeps msgspec from reading the value."""
    for read in _READERS:
        assert _outcome(read, data) == _outcome(read, data + b" x")
    routes = ("hmac", "decrypt", "import")
    said, _, _ = converse(None, [put(f"/v1/key/{route}/k", data) for route in routes], False)
    assert len(parse_answers(said)) == len(routes)


def _outcome(function: Callable[[Any], Any], argument: bytes | list[Field]) -> Any:
    """What a function returns, or the class and the state of what it may raise."""
    try:
        return function(argument)
    except (ConnectionFault, StreamFault, ProtocolError, HPACKError, InvalidBody) as error:
        return type(error), vars(error)


TARGETS: dict[str, Callable[[bytes], None]] = {"h1": h1, "h2": h2, "hpack": hpack, "body": body}
