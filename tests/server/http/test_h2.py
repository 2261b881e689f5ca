"""HTTP/2 in memory, through the real framer and the real resource tree: frames in, frames out."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any

import hpack
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from kes.server.http import limits
from kes.server.http.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    MAX_STREAM,
    MAX_WINDOW,
    PING,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Code,
    ConnectionFault,
)
from kes.server.http.h2 import HTTP2Connection
from kes.server.http.headers import HeadDecoder, request_head
from tests.server.http.costs import COSTLY, Calls
from tests.server.http.h2client import (
    LONGEST,
    PREFACE,
    SETTINGS_ACK,
    WINDOW,
    Client,
    Fields,
    Frame,
    Reply,
    data,
    frame,
    goaway,
    parse_frames,
    ping,
    priority,
    reset,
    settings,
    window_update,
)
from tests.server.memory import ADMIN, APP, HIGH_WATER, PROXY, STRANGER, House, get, put

MIB = 1024 * 1024
HMAC = {"message": base64.b64encode(b"m").decode()}
BIG = {"plaintext": base64.b64encode(b"p" * 700_000).decode()}  # with an answer that is as large
ROUTE_TIMEOUT = 15.0  # seconds
UNLIMITED = {INITIAL_WINDOW_SIZE: MAX_WINDOW}


def end(house: House, client: Client) -> None:
    """The client goes; nothing may be left of it."""
    client.connection.drop()
    house.reactor.turn()
    assert house.at_rest()


def reset_later(house: House, client: Client, reply: Reply) -> Code | None:
    """What a stream is reset with, once its answer has had time to be read."""
    assert reply.ended
    assert reply.reset is None
    house.reactor.advance(limits.LINGER_TIMEOUT)
    client.read()
    return reply.reset


# Prefaces and settings


def test_the_servers_preface(house: House) -> None:
    """The server begins with its settings and the connection's window, and only then acknowledges the client's."""
    connection = house.connect(speaks=b"h2")
    assert not connection.unread
    connection.send(PREFACE + settings({}))
    (first, window, acknowledgement), rest = parse_frames(connection.read())
    assert not rest
    values = {
        int.from_bytes(first.payload[at : at + 2], "big"): int.from_bytes(first.payload[at + 2 : at + 6], "big")
        for at in range(0, len(first.payload), 6)
    }
    assert first[:3] == (SETTINGS, 0, 0)
    assert values[MAX_CONCURRENT_STREAMS] == limits.MAX_STREAMS
    assert values[MAX_HEADER_LIST_SIZE] == limits.MAX_HEAD
    assert values[INITIAL_WINDOW_SIZE] > limits.MAX_BODY
    assert window[:3] == (WINDOW_UPDATE, 0, 0)
    assert WINDOW + int.from_bytes(window.payload, "big") == limits.CONNECTION_WINDOW
    assert acknowledgement == (SETTINGS, ACK, 0, b"")


@pytest.mark.parametrize(
    "sent",
    [get("/version"), PREFACE[:-1] + b"\r", b"\x00", b"pri * HTTP/2.0\r\n\r\nSM\r\n\r\n", settings({}), PREFACE[1:]],
)
def test_no_preface(house: House, sent: bytes) -> None:
    """Who agreed on HTTP/2 and says something else is not answered: no frame would mean anything to it."""
    connection = house.connect(speaks=b"h2")
    for byte in sent:
        connection.send(bytes((byte,)))
    assert connection.closed
    assert not connection.unread
    assert house.codes == []


def test_settings_come_first(house: House) -> None:
    """A request in front of the client's settings is an error of the connection."""
    connection = house.connect(speaks=b"h2")
    connection.send(PREFACE + frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x82\x84\x87"))
    frames, _ = parse_frames(connection.read())
    assert frames[-1].kind == GOAWAY
    assert connection.closed
    assert house.codes == []


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\x00\x04\x80\x00\x00\x00", Code.FLOW_CONTROL_ERROR),
        (b"\x00\x04\xff\xff\xff\xff", Code.FLOW_CONTROL_ERROR),
        (b"\x00\x02\x00\x00\x00\x02", Code.PROTOCOL_ERROR),
        (b"\x00\x05\x00\x00\x3f\xff", Code.PROTOCOL_ERROR),
        (b"\x00\x05\x01\x00\x00\x00", Code.PROTOCOL_ERROR),
        (b"\x00\x04\x00\x00\x00", Code.FRAME_SIZE_ERROR),
    ],
)
def test_settings_out_of_bounds(house: House, payload: bytes, code: Code) -> None:
    """A setting that the RFC does not allow ends the connection."""
    client = Client(house)
    client.send(frame(SETTINGS, payload=payload))
    client.read()
    assert client.goaways == [(0, code)]
    assert client.connection.closed


def test_settings_that_mean_nothing(house: House) -> None:
    """Unknown settings, and those about what this server does not do, are acknowledged and no more."""
    client = Client(house)
    values = {MAX_FRAME_SIZE: 2**24 - 1, MAX_HEADER_LIST_SIZE: 0, MAX_CONCURRENT_STREAMS: 0}
    client.send(client.settings(values | {2: 0, 0: 1, 0xFFFF: 2**32 - 1}))
    assert [each[:3] for each in client.read()] == [(SETTINGS, ACK, 0)]
    assert client.ask(client.get("/version")).status == 200
    client.ask(client.put("/v1/key/encrypt/k", BIG))  # in frames of 16 KiB still


def test_the_last_of_two_settings_counts(house: House) -> None:
    """Of a setting that is there twice the later one holds."""
    client = Client(house)
    client.settings({INITIAL_WINDOW_SIZE: 7})
    client.send(frame(SETTINGS, payload=b"\x00\x04\x7f\xff\xff\xff" + b"\x00\x04\x00\x00\x00\x07"))
    client.read()
    assert len(client.ask(client.get("/version")).body) == 7


def test_settings_are_acknowledged_before_they_are_used(house: House) -> None:
    """What a larger window lets out comes after the acknowledgement, so that the client knows why it may come."""
    client = Client(house, values={INITIAL_WINDOW_SIZE: 0})
    assert client.ask(client.get("/version")).status == 200
    client.send(client.settings({INITIAL_WINDOW_SIZE: 100_000}))
    assert [each[:3] for each in client.read()] == [(SETTINGS, ACK, 0), (DATA, END_STREAM, 1)]


@pytest.mark.parametrize("size", [0, 1, 4095])
@pytest.mark.parametrize("first", ["answer", "100"])
def test_a_smaller_table(house: House, size: int, first: str) -> None:
    """A client that shrinks the header table is told in the next block, whatever that is, that it may (RFC 7541, 4.2).

    hpack's decoder raises if it is not.
    """
    client = Client(house, values={HEADER_TABLE_SIZE: size})
    if first == "100":
        request = client.begin("/v1/key/hmac/k", ("expect", "100-continue"))
        assert client.ask(request).interim == [100]
        client.send(data(client.last, json.dumps(HMAC).encode()))
        client.read()
    client.ask(client.get("/version"))
    client.ask(client.get("/version"))
    assert set(client.statuses) == {200}


def test_ping(house: House) -> None:
    """A PING comes back with what is in it; its acknowledgement does not."""
    client = Client(house)
    client.send(ping(b"abcdefgh") + ping(b"ijklmnop", ACK))
    assert client.read() == [(PING, ACK, 0, b"abcdefgh")]


# Requests and answers


def test_an_answer_is_framed(house: House) -> None:
    """An answer is one HEADERS frame, and DATA if it has a body; the last of them ends the stream."""
    client = Client(house)
    client.send(client.get("/version") + client.put("/v1/key/create/new"))
    head, body, empty = client.read()
    assert head[:3] == (HEADERS, END_HEADERS, 1)
    assert body[:3] == (DATA, END_STREAM, 1)
    assert empty[:3] == (HEADERS, END_HEADERS | END_STREAM, 3)
    fields = hpack.Decoder().decode(head.payload)
    assert fields[0] == (":status", "200")
    assert sorted(name for name, _ in fields) == [":status", "content-length", "content-type", "date"]
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", dict(fields)["date"])
    assert client.reply(1).headers == {"content-type": "application/json", "content-length": str(len(body.payload))}
    assert client.reply(3).headers == {"content-length": "0"}


@pytest.mark.parametrize("target", ["/version", "/v1/log/error", "/v1/key/list/"])
def test_head_is_get_without_the_body(house: House, target: str) -> None:
    """HEAD gets the head that GET gets, which ends the stream."""
    client = Client(house)
    head = client.ask(client.get(target, method="HEAD"))
    assert (head.status, head.body, head.ended) == (200, b"", True)
    assert client.ask(client.get(target)).headers == head.headers


def test_one_write_a_read(house: House) -> None:
    """All answers to what one read brought are written at once."""
    client = Client(house)
    writes = client.connection.writes
    for reads in range(1, 30):
        client.send(b"".join(client.put("/v1/key/generate/k") for _ in range(20)))
        assert client.connection.writes == writes + reads
        client.read()
        assert client.statuses == [200] * 20 * reads


def test_a_long_body_is_many_frames(house: House) -> None:
    """A body of 1 MiB comes in frames of the size that every peer takes, and only the last ends the stream."""
    client = Client(house, values=UNLIMITED)
    client.send(client.enlarge(0, 2 * MIB))
    reply = client.ask(client.put("/v1/key/encrypt/k", BIG))
    frames = [each for each in client.frames if each.kind == DATA]
    assert [len(each.payload) for each in frames[:-1]] == [LONGEST] * (len(frames) - 1)
    assert [each.flags for each in frames] == [0] * (len(frames) - 1) + [END_STREAM]
    ciphertext = json.loads(reply.body)["ciphertext"]
    assert client.ask(client.put("/v1/key/decrypt/k", {"ciphertext": ciphertext})).status == 200
    assert json.loads(client.reply(client.last).body) == BIG


REQUESTS: list[tuple[str, str, bytes | None, Any]] = [
    ("GET", "/version", None, ADMIN),
    ("GET", "/version?x=y", None, STRANGER),
    ("GET", "/version", None, None),
    ("HEAD", "/version", None, ADMIN),
    ("GET", "/v1/status", None, STRANGER),
    ("DELETE", "/v1/status", None, STRANGER),
    ("PATCH", "/v1/key/create/k", b"x", None),
    ("GET", "/v1/api", None, APP),
    ("GET", "/nowhere", None, None),
    ("PUT", "/nowhere", b"body", ADMIN),
    ("OPTIONS", "*", None, ADMIN),
    ("OPTIONS", "/version", None, ADMIN),
    ("TRACE", "/version", None, ADMIN),
    ("GET", "/v1/key/generate/../generate/k", None, APP),
    ("GET", "//version", None, ADMIN),
    ("GET", "/v1/key/describe/k", None, ADMIN),
    ("GET", "/v1/key/describe/none", None, ADMIN),
    ("HEAD", "/v1/key/describe/none", None, ADMIN),
    ("GET", "/v1/key/describe/%6b", None, APP),
    ("GET", "/v1/key/describe/k%20", None, ADMIN),
    ("GET", "/v1/key/list/k*", None, ADMIN),
    ("GET", "/v1/key/list/secret*", None, APP),
    ("PUT", "/v1/key/create/k", None, ADMIN),
    ("PUT", "/v1/key/create/k", b"", ADMIN),
    ("POST", "/v1/key/create/k", b"ignored", ADMIN),
    ("PUT", "/v1/key/create/k", None, STRANGER),
    ("PUT", "/v1/key/hmac/k", json.dumps(HMAC).encode(), ADMIN),
    ("POST", "/v1/key/hmac/k", json.dumps(HMAC).encode(), APP),
    ("PUT", "/v1/key/hmac/k", b"{", ADMIN),
    ("PUT", "/v1/key/hmac/k", b"", ADMIN),
    ("PUT", "/v1/key/hmac/k", None, ADMIN),
    ("PUT", "/v1/key/hmac/secret", b"{}", APP),
    ("PUT", "/v1/key/hmac/k", b"{}", STRANGER),
    ("PUT", "/v1/key/generate/secret", b"{}", APP),
    ("DELETE", "/v1/key/delete/none", None, ADMIN),
    ("GET", "/v1/policy/describe/app", None, ADMIN),
    ("GET", "/v1/policy/list/", None, ADMIN),
    ("GET", "/v1/identity/self/describe", None, APP),
    ("GET", "/v1/identity/describe/none", None, ADMIN),
    ("HEAD", "/v1/log/audit", None, ADMIN),
    ("GET", "/v1/log/audit", None, STRANGER),
]


@pytest.mark.parametrize(("method", "target", "body", "identity"), REQUESTS)
def test_the_same_answer_as_http1(house: House, method: str, target: str, body: bytes | None, identity: Any) -> None:
    """Which protocol brought a request makes no difference to its answer, its audit event and what is counted."""

    def trace() -> Any:
        (event,) = house.audit
        house.audit.clear()
        counted = {api: dict(codes) for api, codes in house.metrics.requests.items() if codes}
        house.forget_counts()
        assert house.metrics.active == 0
        return event["request"], event["response"]["code"], counted

    house.forget_counts()
    if method == "HEAD":  # whose answer's length is no body's
        connection = house.connect(identity)
        connection.send(get(target, method=method))
        head, _, rest = connection.read_all().decode().partition("\r\n\r\n")
        assert rest == ""
        lines = [line.partition(": ") for line in head.split("\r\n")[1:]]
        old_status = int(head.split()[1])
        old_headers = {name.lower(): value for name, _, value in lines if name not in ("Date", "Transfer-Encoding")}
        old_body = b""
        connection.close()
    else:
        (answer,) = house.ask(put(target, body, method=method), identity)
        old_status, old_headers, old_body = answer.status, answer.headers, answer.body
    old_trace = trace()
    client = Client(house, identity)
    reply = client.ask(client.request(method, target, body))
    assert (reply.status, reply.headers) == (old_status, old_headers)
    volatile = rb'"(uptime|[a-z_]*(mem|heap|stack|cpu)[a-z_]*)":[^,}]*'
    assert re.sub(volatile, b"", reply.body) == re.sub(volatile, b"", old_body)
    assert (reply.ended, reply.reset) == (True, None)
    assert trace() == old_trace
    end(house, client)


@pytest.mark.parametrize(
    ("headers", "status", "identity"),
    [
        ([("x-tls-client-cert", APP)], 200, APP),
        ([("x-tls-client-cert", STRANGER)], 403, STRANGER),
        ([("x-tls-client-cert", APP), ("x-tls-client-cert", ADMIN)], 400, ""),
        ([], 400, ""),
    ],
)
def test_a_proxys_requests_are_its_clients(house: House, headers: Any, status: int, identity: str) -> None:
    """Each request that a TLS proxy forwards has the identity in its own header, on one connection."""
    client = Client(house, PROXY)
    for address in ("198.51.100.1", "2001:db8::1"):
        reply = client.ask(client.put("/v1/key/generate/k", None, *headers, ("x-forwarded-for", address)))
        assert reply.status == status
        request = house.audit.pop()["request"]
        assert (request["identity"], request["ip"]) == (identity, address)


def test_connect_is_not_found(house: House) -> None:
    """CONNECT names no resource (RFC 9113, section 8.5): it is answered as HTTP/1.1's is."""
    client = Client(house)
    assert client.ask(client.head([(":method", "CONNECT"), (":authority", "a:1")])).status == 404
    assert client.reply(1).body == house.ask(get("a:1", method="CONNECT"))[0].body
    assert [event["request"]["path"] for event in house.audit] == ["a:1", "a:1"]


# The hot path


def test_a_hit_is_cheap(house: House) -> None:
    """A request for a cached key makes no Deferred, no delayed call, no moved timer and no thread."""
    client = Client(house)
    requests = [b"".join(client.put("/v1/key/generate/k", {}) for _ in range(count)) for count in (1, 3)]
    with Calls() as called:
        for request in requests:
            client.send(request)
    client.read()
    assert client.statuses == [200] * 4
    assert HTTP2Connection.dataReceived.__code__ in called, "nothing was watched"
    assert {name for name, code in COSTLY.items() if code in called} == set()


def test_the_watch_for_costly_calls_sees_them(cold: House) -> None:
    """What the test above looks for is seen where it happens: a key that is not in the cache takes a Deferred."""
    client = Client(cold)
    with Calls() as called:
        client.send(client.put("/v1/key/generate/cold", {}))
    assert COSTLY["a Deferred"] in called
    assert COSTLY["a delayed call"] in called


# Header blocks on their way

HALF_BLOCK = frame(HEADERS, 0, 1, b"\x82")


def test_a_block_in_pieces(house: House) -> None:
    """A header block may be cut anywhere, into frames without a byte too."""
    client = Client(house)
    for size in range(1, 8):
        fields = [(":method", "GET"), (":scheme", "https"), (":path", "/version"), ("x", "y" * size)]
        assert client.ask(client.head(fields, size=size)).status == 200
    block = hpack.Encoder().encode([(":method", "GET"), (":scheme", "https"), (":path", "/version")])
    stream = client.open()
    client.send(frame(HEADERS, END_STREAM, stream) + frame(9, 0, stream, block) + frame(9, END_HEADERS, stream))
    client.read()
    assert client.reply(stream).status == 200


@pytest.mark.parametrize("padding", [None, 0, 7, 255])
@pytest.mark.parametrize("prioritised", [False, True])
def test_a_padded_block(house: House, padding: int | None, prioritised: bool) -> None:
    """Padding and priority around a header block mean nothing."""
    client = Client(house)
    block = client.encoder.encode([(":method", "GET"), (":scheme", "https"), (":path", "/version")])
    flags = END_HEADERS | END_STREAM
    if prioritised:
        flags, block = flags | 0x20, b"\x80\x00\x00\x00\xff" + block
    if padding is not None:
        flags, block = flags | 0x8, bytes((padding,)) + block + bytes(padding)
    client.send(frame(HEADERS, flags, client.open(), block))
    client.read()
    assert client.statuses == [200]


@pytest.mark.parametrize(
    "sent",
    [
        ping(),
        window_update(0, 1),
        data(1, b""),
        frame(9, END_HEADERS, 3, b"\x87"),
        frame(HEADERS, END_HEADERS | END_STREAM, 3, b"\x82\x84\x87"),
        frame(0xFF),
    ],
)
def test_nothing_comes_inside_a_block(house: House, sent: bytes) -> None:
    """Between the frames of a header block there is no other."""
    client = Client(house)
    client.send(HALF_BLOCK + sent + frame(9, END_HEADERS, 1, b"\x84\x87"))
    client.read()
    assert client.goaways == [(0, Code.PROTOCOL_ERROR)]
    assert house.codes == []


def test_a_continuation_of_nothing(house: House) -> None:
    """A CONTINUATION that no block waits for ends the connection."""
    client = Client(house)
    client.ask(client.get("/version"))
    client.send(frame(9, END_HEADERS, 1))
    client.read()
    assert client.goaways == [(1, Code.PROTOCOL_ERROR)]


# Bodies

BODY = json.dumps(HMAC).encode()
BODIES: dict[str, Callable[[Client], bytes]] = {
    "one DATA": lambda c: c.put("/v1/key/hmac/k", HMAC),
    "no length": lambda c: c.begin("/v1/key/hmac/k") + data(c.last, BODY),
    "single bytes": lambda c: c.begin("/v1/key/hmac/k") + data(c.last, BODY, size=1),
    "empty DATA at the end": lambda c: c.begin("/v1/key/hmac/k") + data(c.last, BODY, end=False) + data(c.last, b""),
    "empty DATA before": lambda c: c.begin("/v1/key/hmac/k") + data(c.last, b"", end=False) + data(c.last, BODY),
    "padded": lambda c: c.request("PUT", "/v1/key/hmac/k", HMAC, padding=9),
    "most padding": lambda c: c.begin("/v1/key/hmac/k") + data(c.last, BODY, size=1, padding=255),
    "no padding in a padded frame": lambda c: c.request("PUT", "/v1/key/hmac/k", HMAC, padding=0),
    "trailers": lambda c: (
        c.begin("/v1/key/hmac/k") + data(c.last, BODY, end=False) + c.head([("x-trailer", "y")], stream=c.last)
    ),
    "length and trailers": lambda c: (
        c.begin("/v1/key/hmac/k", ("content-length", str(len(BODY))))
        + data(c.last, BODY, end=False)
        + c.head([], stream=c.last)
    ),
    "other streams between": lambda c: (
        c.begin("/v1/key/hmac/k")
        + b"".join(part + c.get("/version") for part in (data(1, BODY[:5], end=False), data(1, BODY[5:])))
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies(house: House, name: str) -> None:
    """However a body comes, it is the same request."""
    client = Client(house)
    client.send(BODIES[name](client))
    client.read()
    assert client.reply(1).status == 200
    assert client.reply(1).body == house.ask(put("/v1/key/hmac/k", HMAC))[0].body
    assert client.protocol._held == 0
    end(house, client)


@pytest.mark.parametrize(
    ("length", "sent"),
    [
        (5, b"1234"),
        (5, b"123456"),
        (5, b""),
        (0, b"1"),
        (1, None),
    ],
)
@pytest.mark.parametrize("how", ["DATA", "trailers"])
def test_a_length_that_is_not_the_bodys(house: House, length: int, sent: bytes | None, how: str) -> None:
    """A body that is shorter or longer than it was said to be is malformed (RFC 9113, section 8.1.1)."""
    client = Client(house)
    fields = [(":method", "PUT"), (":scheme", "https"), (":path", "/v1/key/hmac/k"), ("content-length", str(length))]
    client.send(client.head(fields, end=sent is None))
    if sent is not None:
        client.send(data(1, sent, end=how == "DATA"))
        if how == "trailers":
            client.send(client.head([("x", "y")], stream=1))
    client.read()
    assert (client.reply(1).status, client.reply(1).reset) == (0, Code.PROTOCOL_ERROR)
    assert house.codes == ([] if sent is None else [400])
    assert client.ask(client.get("/version")).status == 200
    end(house, client)


@pytest.mark.parametrize("size", [MIB - 1, MIB, MIB + 1])
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("padding", [None, 3])
def test_body_limit(house: House, size: int, told: bool, padding: int | None) -> None:
    """A body of 1 MiB is taken, one more byte is 413, whether its length is told or not."""
    client = Client(house)
    headers = [("content-length", str(size))] if told else []
    client.send(client.begin("/v1/key/hmac/k", *headers))
    client.send(data(1, b"{}".ljust(size), size=LONGEST - 8, padding=padding))
    client.read()
    assert client.statuses == [413 if size > MIB else 200]
    assert house.codes == client.statuses
    assert client.protocol._held == 0


@pytest.mark.parametrize("told", [True, False])
def test_the_rest_of_a_refused_body_is_not_needed(house: House, told: bool) -> None:
    """The 413 comes as soon as it is known, RST_STREAM NO_ERROR a little later: what still comes is passed over."""
    client = Client(house)
    client.send(client.begin("/v1/key/hmac/k", *([("content-length", str(MIB + 1))] if told else [])))
    if not told:
        client.send(data(1, b" " * (MIB + 1), end=False))
    client.read()
    reply = client.reply(1)
    assert (reply.status, reset_later(house, client, reply)) == (413, Code.NO_ERROR)
    before = len(client.frames)
    client.send(data(1, b" " * MIB, end=False) + client.head([("x", "y")], stream=1))
    client.read()
    assert {each.kind for each in client.frames[before:]} <= {WINDOW_UPDATE}
    assert client.ask(client.get("/version")).status == 200
    assert house.codes == [413, 200]


@pytest.mark.parametrize("ended", [True, False])
def test_a_refused_body_that_ends_before_its_answer(house: House, ended: bool) -> None:
    """Only what is still to come of a request is refused: a body that has ended before the answer is out is not."""
    client = Client(house, values={INITIAL_WINDOW_SIZE: 0})
    client.send(client.begin("/v1/key/hmac/k", ("content-length", str(MIB + 1))))
    client.send(data(1, b" ", end=False) + data(1, b" ", end=ended) + client.enlarge(1, 1000))
    client.read()
    reply = client.reply(1)
    assert (reply.status, reset_later(house, client, reply)) == (413, None if ended else Code.NO_ERROR)


@pytest.mark.parametrize(
    "finish",
    [lambda _: data(1, b" "), lambda client: client.head([("x", "y")], stream=1), lambda _: reset(1)],
    ids=["data", "trailers", "reset"],
)
def test_a_refused_body_that_ends_after_its_answer(house: House, finish: Callable[[Client], bytes]) -> None:
    """A client that goes on to the end of a body that is not needed is not disturbed."""
    client = Client(house)
    client.send(client.begin("/v1/key/hmac/k", ("content-length", str(MIB + 1))))
    client.read()
    reply = client.reply(1)
    assert reply.status == 413
    client.send(data(1, b" ", end=False))
    client.send(finish(client))
    assert reset_later(house, client, reply) is None
    assert client.ask(client.get("/version")).status == 200
    end(house, client)


@pytest.mark.parametrize(
    ("target", "identity", "expected"),
    [
        ("/nowhere", ADMIN, 404),
        ("/v1/status", ADMIN, 405),
        ("/v1/key/hmac/k", STRANGER, 413),
        ("/v1/key/hmac/k", None, 413),
        ("/v1/key/create/x", ADMIN, 413),
    ],
)
@pytest.mark.parametrize("told", [True, False])
def test_order_of_checks(house: House, target: str, identity: Any, expected: int, told: bool) -> None:
    """An unknown route and a wrong method are said before the body's size, and that before who asks."""
    client = Client(house, identity)
    client.send(client.begin(target, *([("content-length", str(MIB + 1))] if told else [])))
    if not told:
        client.send(data(1, b" " * (MIB + 1)))
    client.read()
    assert client.statuses == [expected]
    assert house.codes == [expected]


@pytest.mark.parametrize(("identity", "target", "code"), [(STRANGER, "/v1/key/hmac/k", 403), (ADMIN, "/nowhere", 404)])
def test_no_body_is_kept_for_a_refused_request(house: House, identity: Any, target: str, code: int) -> None:
    """The body of a request that is refused is read to its end but held nowhere."""
    client = Client(house, identity)
    client.send(client.begin(target) + data(1, b"x" * MIB, end=False))
    client.read()
    protocol = client.protocol
    assert protocol._streams[1].content == b""
    assert protocol._buffer == b""
    assert protocol._held < 1000
    assert client.statuses == [0]
    client.send(data(1, b""))
    client.read()
    assert client.statuses == [code]
    assert client.reply(1).reset is None


def test_a_body_where_none_is_wanted_is_dropped(house: House) -> None:
    """A route without a body passes over one."""
    client = Client(house)
    assert client.ask(client.put("/v1/key/create/x", b"{" * 1000)).status == 200


def test_continue(house: House) -> None:
    """Who asks whether to go on is told to when the request is welcome so far."""
    client = Client(house)
    request = client.begin("/v1/key/hmac/k", ("expect", "100-Continue"), ("content-length", str(len(BODY))))
    reply = client.ask(request)
    assert (reply.interim, reply.status) == ([100], 0)
    client.send(data(1, BODY))
    client.read()
    assert (reply.status, reply.ended) == (200, True)


@pytest.mark.parametrize(
    ("target", "identity", "size", "expected"),
    [
        ("/v1/key/hmac/k", STRANGER, 10, 403),
        ("/v1/key/hmac/k", None, 10, 400),
        ("/nowhere", ADMIN, 10, 404),
        ("/v1/key/hmac/k", ADMIN, MIB + 1, 413),
    ],
)
def test_no_continue_for_a_refused_request(house: House, target: str, identity: Any, size: int, expected: int) -> None:
    """Who asks whether to go on with what is refused gets the refusal instead, and need not send the body."""
    client = Client(house, identity)
    reply = client.ask(client.begin(target, ("content-length", str(size)), ("expect", "100-continue")))
    assert (reply.interim, reply.status, reset_later(house, client, reply)) == ([], expected, Code.NO_ERROR)
    assert house.codes == [expected]
    assert client.protocol._held == 0


def test_an_expectation_without_a_body(house: House) -> None:
    """A request that has ended is not told to go on; an expectation that is not known is 417."""
    client = Client(house)
    assert client.ask(client.get("/version", ("expect", "100-continue"))).interim == []
    assert client.ask(client.get("/version", ("expect", "200-maybe"))).status == 417
    assert client.statuses == [200, 417]


@pytest.mark.parametrize(
    "trailers",
    [[("X", "y")], [(":path", "/")], [("x", "a\x00b")], [("x y", "z")], [("", "z")]],
)
def test_malformed_trailers(house: House, trailers: Fields) -> None:
    """Trailers mean nothing, but what is no field resets the stream; the request is recorded."""
    client = Client(house)
    client.send(client.begin("/v1/key/hmac/k") + data(1, BODY, end=False) + client.head(trailers, stream=1))
    client.read()
    assert (client.reply(1).status, client.reply(1).reset) == (0, Code.PROTOCOL_ERROR)
    assert house.codes == [400]
    assert client.ask(client.get("/version")).status == 200


def test_trailers_end_a_request(house: House) -> None:
    """A second header block that does not end the stream is malformed, and one after the end is for no stream."""
    client = Client(house)
    client.send(client.begin("/v1/key/hmac/k") + client.head([("x", "y")], end=False, stream=1))
    client.read()
    assert client.reply(1).reset is Code.PROTOCOL_ERROR
    client.ask(client.put("/v1/key/hmac/k", HMAC))
    client.send(client.head([("x", "y")], stream=3))
    client.read()
    assert client.goaways == [(3, Code.STREAM_CLOSED)]


# Answers that come later


def test_streams_do_not_wait_for_each_other(cold: House) -> None:
    """A request that waits for the store holds up none behind it, and what comes of it is one write."""
    client = Client(cold)
    client.send(
        client.put("/v1/key/hmac/cold", HMAC)
        + client.get("/version")
        + client.put("/v1/key/create/new")
        + client.get("/nowhere")
        + client.put("/v1/key/hmac/k", HMAC)
    )
    client.read()
    assert client.statuses == [0, 200, 0, 404, 200]
    assert cold.metrics.active == 2
    cold.threads.work()
    client.read()
    assert client.statuses == [200, 200, 200, 404, 200]
    assert [event["request"]["path"] for event in cold.audit] == [
        "/version",
        "/nowhere",
        "/v1/key/hmac/k",
        "/v1/key/hmac/cold",
        "/v1/key/create/new",
    ]
    end(cold, client)


def test_the_store_takes_too_long(cold: House) -> None:
    """An answer that is not there within its route's time is 504; what comes later is dropped, the stream is over."""
    client = Client(cold)
    client.send(client.put("/v1/key/hmac/cold", HMAC))
    cold.reactor.advance(ROUTE_TIMEOUT)
    client.read()
    assert client.statuses == [504]
    cold.threads.work()
    assert client.read() == []
    assert cold.codes == [504]
    end(cold, client)


@pytest.mark.parametrize("how", ["lost", "reset", "fault of the stream", "fault of the connection"])
@pytest.mark.parametrize("work", [True, False])
def test_gone_during_a_later_answer(cold: House, how: str, work: bool) -> None:
    """A request that nobody waits for any more is recorded once, when its work is over, and is active no more."""
    client = Client(cold)
    client.send(client.put("/v1/key/hmac/cold", HMAC))
    if how == "lost":
        client.connection.drop()
    else:
        ends = {"reset": reset(1), "fault of the stream": window_update(1, 0), "fault of the connection": frame(DATA)}
        client.send(ends[how])
    assert cold.codes == []
    assert cold.metrics.active == 1
    if work:
        cold.threads.work()
    else:
        cold.reactor.advance(ROUTE_TIMEOUT)
    assert cold.codes == [200 if work else 504]
    cold.threads.work()
    client.read()
    assert client.reply(1).status == 0
    end(cold, client)


@pytest.mark.parametrize(
    ("identity", "target", "expected"),
    [(ADMIN, "/v1/key/hmac/k", 400), (STRANGER, "/v1/key/hmac/k", 403), (ADMIN, "/nowhere", 404)],
)
@pytest.mark.parametrize("how", ["lost", "reset", "fault of the stream", "fault of the connection"])
def test_gone_in_the_middle_of_a_body(house: House, identity: Any, target: str, expected: int, how: str) -> None:
    """A request whose body breaks off is in the audit log, once."""
    client = Client(house, identity)
    client.send(client.begin(target) + data(1, BODY, end=False))
    assert house.codes == []
    if how == "lost":
        client.connection.drop()
    else:
        ends = {"reset": reset(1), "fault of the stream": window_update(1, 0), "fault of the connection": frame(DATA)}
        client.send(ends[how])
    assert house.codes == [expected]
    assert client.protocol._held == 0
    end(house, client)
    assert house.codes == [expected]


@pytest.mark.parametrize("sent", [b"", PREFACE[:9], PREFACE, PREFACE + settings({})[:11], PREFACE + settings({})])
def test_gone_before_a_request(house: House, sent: bytes) -> None:
    """A client that goes before it has asked for anything leaves nothing."""
    connection = house.connect(speaks=b"h2")
    connection.send(sent)
    connection.drop()
    assert house.at_rest()
    assert house.codes == []


def test_gone_in_the_middle_of_a_block(house: House) -> None:
    """Half a header block is no request: there is nothing to record."""
    client = Client(house)
    client.send(frame(HEADERS, 0, 1, b"\x82"))
    client.send(frame(HEADERS)[:5])
    end(house, client)
    assert house.codes == []


def test_gone_while_an_answer_waits(house: House) -> None:
    """An answer that its client has not taken is gone with it; it was recorded when it began."""
    client = Client(house)
    client.ask(client.put("/v1/key/encrypt/k", BIG))
    assert house.codes == [200]
    end(house, client)
    assert house.codes == [200]


# Flow control: what the server sends


def test_no_window(house: House) -> None:
    """Without a window an answer's head comes, its body waits, and an answer without a body is complete."""
    client = Client(house, values={INITIAL_WINDOW_SIZE: 0})
    client.send(client.get("/version") + client.put("/v1/key/create/new") + client.get("/version", method="HEAD"))
    client.read()
    assert client.statuses == [200] * 3
    assert [client.reply(stream).ended for stream in (1, 3, 5)] == [False, True, True]
    client.send(client.enlarge(1, 1))
    client.read()
    assert client.reply(1).body == b"{"
    client.send(client.enlarge(1, 1000))
    client.read()
    assert client.reply(1).ended
    assert client.protocol._held == 0


def test_a_window_of_exactly_the_body(house: House) -> None:
    """A window as large as the body takes it at once; in one that is a byte smaller, one byte waits."""
    size = len(house.ask(get("/version"))[0].body)
    for window, ended in ((size, True), (size - 1, False)):
        client = Client(house, values={INITIAL_WINDOW_SIZE: window})
        reply = client.ask(client.get("/version"))
        assert (reply.ended, len(reply.body)) == (ended, window)
    client.send(client.enlarge(1, 1))
    client.read()
    assert (reply.ended, client.frames[-1].payload) == (True, b"\n")


@pytest.mark.parametrize("step", [1000, LONGEST, LONGEST + 1, WINDOW, MIB])
def test_a_large_answer_through_small_windows(house: House, step: int) -> None:
    """However the windows grow, an answer of 1 MiB comes whole, and never more of it than they allow."""
    client = Client(house)
    reply = client.ask(client.put("/v1/key/encrypt/k", BIG))
    assert len(reply.body) == WINDOW
    while not reply.ended:
        before = len(reply.body)
        client.send(client.enlarge(0, step) + client.enlarge(1, step))
        client.read()
        assert reply.ended or len(reply.body) == before + step
    assert client.protocol._held == 0
    assert client.ask(client.put("/v1/key/decrypt/k", json.loads(reply.body))).status == 200
    end(house, client)


def test_the_initial_window_goes_up_and_down(house: House) -> None:
    """A new initial size moves the windows of open streams; one may become negative, and has to be filled up first."""
    client = Client(house, values={INITIAL_WINDOW_SIZE: 100})
    client.ask(client.put("/v1/key/encrypt/k", BIG))
    reply = client.reply(1)
    assert len(reply.body) == 100
    client.send(client.settings({INITIAL_WINDOW_SIZE: 10}))
    client.read()
    assert client.windows[1] == -90
    client.send(client.enlarge(1, 90))
    client.read()
    assert len(reply.body) == 100
    client.send(client.enlarge(1, 1))
    client.read()
    assert len(reply.body) == 101
    client.send(client.settings({INITIAL_WINDOW_SIZE: 0}) + client.settings({INITIAL_WINDOW_SIZE: 30}))
    client.read()
    assert len(reply.body) == 121
    assert len(client.ask(client.get("/version")).body) == 30  # the streams to come have it too


def test_a_window_may_be_enlarged_before_the_answer(cold: House) -> None:
    """What a stream's window has gained while its answer was being made is there for it."""
    client = Client(cold, values={INITIAL_WINDOW_SIZE: 0})
    client.send(client.put("/v1/key/hmac/cold", HMAC))
    client.send(client.enlarge(1, 1000))
    client.read()
    cold.threads.work()
    client.read()
    assert client.reply(1).ended


def test_the_connections_window_is_shared_in_turns(house: House) -> None:
    """Answers that wait for the connection's window take turns at what comes of it."""
    client = Client(house, values=UNLIMITED)
    streams = []
    for _ in range(3):
        client.send(client.put("/v1/key/encrypt/k", BIG))
        streams.append(client.last)
    client.read()
    assert client.window == 0
    for _ in range(4):
        before = {stream: len(client.reply(stream).body) for stream in streams}
        for _ in streams:
            client.send(client.enlarge(0, 5000))
        client.read()
        assert {len(client.reply(stream).body) - before[stream] for stream in streams} == {5000}
    client.send(client.enlarge(0, 4 * MIB))
    client.read()
    assert all(client.reply(stream).ended for stream in streams)
    assert len({len(client.reply(stream).body) for stream in streams}) == 1


def test_a_stream_without_a_window_holds_up_no_other(house: House) -> None:
    """An answer that waits for its own window leaves the connection's to others."""
    client = Client(house, values={INITIAL_WINDOW_SIZE: 0})
    client.ask(client.put("/v1/key/encrypt/k", BIG))
    client.send(client.settings({INITIAL_WINDOW_SIZE: 1000}) + client.enlarge(1, MIB))
    client.read()
    assert client.window == 0
    client.send(client.get("/version") + client.get("/nowhere") + client.enlarge(0, 2000))
    client.read()
    assert not client.reply(1).ended
    assert client.statuses == [200, 200, 404]
    client.send(client.enlarge(0, 2000))
    client.read()
    assert client.reply(3).ended
    assert client.reply(5).ended


def test_a_window_that_is_too_large(house: House) -> None:
    """The connection's window may grow to 2^31 - 1; one byte more ends the connection."""
    client = Client(house)
    client.send(client.enlarge(0, MAX_WINDOW - WINDOW))
    assert client.read() == []
    client.send(window_update(0, 1))
    client.read()
    assert client.goaways == [(0, Code.FLOW_CONTROL_ERROR)]
    assert client.connection.closed


def test_a_streams_window_that_overflows(cold: House) -> None:
    """A stream's window may grow to 2^31 - 1; beyond that the stream is reset, and the connection stays."""
    client = Client(cold)
    client.send(client.put("/v1/key/hmac/cold", HMAC) + client.put("/v1/key/hmac/cold", HMAC))
    for stream, over in ((1, 0), (3, 1)):
        client.send(window_update(stream, MAX_WINDOW - WINDOW + over))
    client.read()
    assert client.reply(1).reset is None
    assert client.reply(3).reset is Code.FLOW_CONTROL_ERROR
    assert client.goaways == []


def test_settings_that_overflow_a_streams_window(cold: House) -> None:
    """An initial window size that makes an open stream's window too large ends the connection (section 6.9.2)."""
    client = Client(cold)
    client.send(client.put("/v1/key/hmac/cold", HMAC) + window_update(1, 1))
    client.send(client.settings({INITIAL_WINDOW_SIZE: MAX_WINDOW - 1}))
    client.read()
    assert client.goaways == []
    client.send(client.settings({INITIAL_WINDOW_SIZE: MAX_WINDOW}))
    client.read()
    assert client.goaways == [(1, Code.FLOW_CONTROL_ERROR)]


def test_windows_of_streams_that_are_over(house: House) -> None:
    """A WINDOW_UPDATE for a stream that has just ended means nothing: it may have been on its way."""
    client = Client(house)
    client.ask(client.get("/version"))
    client.send(window_update(1, 100) + window_update(1, 0))
    assert client.read() == []
    assert client.ask(client.get("/version")).status == 200


# Flow control: what the client sends


def test_the_connections_window_comes_back(house: House) -> None:
    """What the client may send is given back to the connection, whoever the DATA was for, padding too."""
    client = Client(house)
    window = limits.CONNECTION_WINDOW
    sent = 0

    def send(body: bytes) -> None:
        nonlocal window, sent
        (found, _) = parse_frames(body)
        size = sum(len(each.payload) for each in found if each.kind == DATA)
        assert size <= window
        window -= size
        sent += size
        client.send(body)
        for each in client.read():
            if each.kind == WINDOW_UPDATE and each.stream == 0:
                window += int.from_bytes(each.payload, "big")

    for _ in range(4):
        send(client.begin("/v1/key/hmac/k"))
        for size in (MIB // 4, MIB // 2, MIB // 4 - 2):
            send(data(client.last, b" " * size, end=False, padding=1, size=LONGEST - 2))
        send(data(client.last, b"{}"))  # taken
        send(client.begin("/nowhere") + data(client.last, b" " * (MIB // 2)))  # dropped
        send(client.begin("/v1/key/hmac/k", ("content-length", str(MIB + 1))))
        send(data(client.last, b" " * (MIB // 2)))  # ignored
    assert client.statuses == [200, 404, 413] * 4
    assert sent > 8 * MIB
    assert window > MIB // 2


def test_padding_does_not_use_up_a_streams_window(house: House) -> None:
    """What padding takes of a stream's window comes back at once: the largest body has room however it is padded."""
    client = Client(house)
    client.send(client.begin("/v1/key/hmac/k") + data(1, b" " * 30, end=False, size=10, padding=9))
    assert client.read() == [Frame(WINDOW_UPDATE, 0, 1, (9 + 1).to_bytes(4, "big"))] * 3


def test_more_than_the_connections_window(house: House) -> None:
    """A client that sends more than the connection's window ends it."""
    client = Client(house)
    client.send(client.begin("/nowhere") + client.begin("/nowhere"))
    protocol = client.protocol
    burst = data(1, b" " * (MIB // 2), end=False) + data(3, b" " * (MIB // 2 + 1), end=False)
    protocol.dataReceived(burst)  # in one read, so that nothing was given back meanwhile
    client.read()
    assert client.goaways == [(3, Code.FLOW_CONTROL_ERROR)]


# Log streams


def subscribe(house: House, client: Client) -> Reply:
    reply = client.ask(client.get("/v1/log/audit"))
    house.reactor.turn()
    client.read()
    assert (reply.status, reply.headers) == (200, {"content-type": "application/x-ndjson"})
    return reply


def events(reply: Reply) -> list[Any]:
    """The events that came since the last time."""
    lines, reply.body = reply.body, b""
    assert not lines or lines.endswith(b"\n")
    return [json.loads(line) for line in lines.splitlines()]


def flood(house: House, size: int, *readers: Client) -> int:
    """Make so many bytes of audit events, while `readers` read; how many events that is."""
    path = "/" + "x" * 7000
    count = size // 7000 + 1
    for _ in range(count):
        house.ask(get(path))
        house.reactor.turn()
        for reader in readers:
            reader.read()
    return count


def test_events_are_delivered(house: House) -> None:
    """A subscriber gets each event when it happens, on a connection that goes on with other requests."""
    client = Client(house)
    reply = subscribe(house, client)
    assert [e["request"]["path"] for e in events(reply)] == ["/v1/log/audit"]
    assert client.ask(client.get("/version")).status == 200
    house.reactor.turn()
    client.read()
    assert [e["request"]["path"] for e in events(reply)] == ["/version"]
    house.reactor.advance(10_000)
    assert not reply.ended
    assert not client.connection.closed
    end(house, client)
    assert not house.audit_feed.subscribers


def test_a_subscriber_is_paused_by_its_window(house: House) -> None:
    """Events wait for a subscriber whose window is used up, and come when it grows; none is lost."""
    client = Client(house)
    reply = subscribe(house, client)
    events(reply)
    count = flood(house, limits.MAX_LOG_BACKLOG // 2)
    client.read()
    assert client.windows[1] == 0
    for _ in range(100):
        client.send(client.enlarge(0, 50_000) + client.enlarge(1, 50_000))
        client.read()
    assert len(events(reply)) == count
    assert client.ask(client.get("/nowhere")).status == 404
    house.reactor.turn()
    client.read()
    assert len(events(reply)) == 1


def test_a_subscriber_is_paused_by_the_transport(house: House) -> None:
    """A subscriber that does not read is paused whatever its windows are, and nothing is lost when it reads."""
    client = Client(house, values=UNLIMITED)
    client.send(client.enlarge(0, 100 * MIB))
    reply = subscribe(house, client)
    events(reply)
    count = flood(house, limits.MAX_LOG_BACKLOG // 2)
    assert client.connection.unread < 2 * HIGH_WATER + LONGEST
    client.read()
    assert len(events(reply)) == count


def test_a_subscriber_that_is_too_slow(house: House) -> None:
    """A subscriber that does not keep up is dropped, and told so in its last line; others and the connection go on."""
    client = Client(house)
    slow = subscribe(house, client)
    other = Client(house, values=UNLIMITED)
    other.send(other.enlarge(0, 100 * MIB))
    swift = subscribe(house, other)
    count = flood(house, limits.MAX_LOG_BACKLOG + 2 * HIGH_WATER, other)
    assert len(house.audit_feed.subscribers) == 1
    client.send(client.enlarge(0, 10 * MIB) + client.enlarge(1, 10 * MIB))
    client.read()
    heard = events(slow)
    assert slow.ended
    assert heard[-1] == {"message": "log stream closed: too many events were not read in time"}
    assert len(heard) <= count + 2
    assert len(events(swift)) == count + 1
    assert client.ask(client.get("/nowhere")).status == 404
    other.connection.close()
    end(house, client)


def test_a_subscriber_that_takes_nothing(house: House) -> None:
    """A stream whose window stays shut is reset in the end; the connection goes on."""
    client = Client(house)
    reply = subscribe(house, client)
    flood(house, 2 * WINDOW)
    house.reactor.advance(limits.IDLE_TIMEOUT)
    client.read()
    assert reply.reset is Code.CANCEL
    assert not house.audit_feed.subscribers
    assert client.protocol._held == 0
    assert client.ask(client.get("/version")).status == 200
    end(house, client)


def test_a_subscriber_that_is_always_behind(house: House) -> None:
    """A subscriber that takes a little now and then keeps its stream, other than one who takes an answer so."""
    client = Client(house)
    reply = subscribe(house, client)
    flood(house, 2 * WINDOW)
    client.read()
    for _ in range(5):
        house.reactor.advance(limits.IDLE_TIMEOUT - 1)
        client.send(client.enlarge(0, 1) + client.enlarge(1, 1))
        client.read()
        assert reply.reset is None
    house.reactor.advance(limits.IDLE_TIMEOUT)
    client.read()
    assert reply.reset is Code.CANCEL
    end(house, client)


@pytest.mark.parametrize("blocked", [False, True])
def test_a_client_resets_its_log_stream(house: House, blocked: bool) -> None:
    """A client ends a log stream by RST_STREAM: it is forgotten, and the connection goes on."""
    client = Client(house)
    subscribe(house, client)
    if blocked:
        flood(house, 2 * WINDOW)
    client.send(reset(1))
    assert not house.audit_feed.subscribers
    assert client.protocol._held == 0
    client.read()
    assert client.ask(client.get("/version")).status == 200
    house.reactor.turn()
    end(house, client)


@pytest.mark.parametrize("blocked", [False, True])
def test_stop_ends_log_streams(house: House, blocked: bool) -> None:
    """When the server stops, a stream ends in order with the events that there are, then the connection closes."""
    client = Client(house)
    reply = subscribe(house, client)
    events(reply)
    count = flood(house, 4 * WINDOW if blocked else 100)
    client.protocol.stop()
    client.read()
    assert not house.audit_feed.subscribers
    assert reply.ended is not blocked
    assert client.connection.closed is not blocked
    if blocked:
        client.send(client.enlarge(0, MIB) + client.enlarge(1, MIB))
        client.read()
    assert reply.ended
    assert len(events(reply)) == count
    assert client.goaways == [(1, Code.NO_ERROR)]
    assert client.connection.closed
    end(house, client)


# The server stops, or wants its clients on new connections


def test_stop_closes_idle_connections(house: House) -> None:
    """A connection that has had its answers closes at once, with GOAWAY."""
    idle = Client(house)
    idle.ask(idle.get("/version"))
    idle.protocol.stop()
    idle.protocol.stop()
    idle.read()
    assert idle.goaways == [(1, Code.NO_ERROR)]
    assert idle.connection.closed
    end(house, idle)


def test_stop_waits_for_first_requests(house: House) -> None:
    """A client that was let in before the server stops has requests on their way; they are answered, and no others."""
    client = Client(house)
    client.protocol.stop()
    client.read()
    assert client.goaways == []
    client.send(client.get("/version") + client.get("/version"))
    client.read()
    assert client.statuses == [200, 200]
    assert client.goaways == [(3, Code.NO_ERROR)]
    assert client.connection.closed
    end(house, client)


def test_stop_waits_for_running_requests(cold: House) -> None:
    """Requests under way are answered when the server stops, later ones are not, then the connection closes."""
    client = Client(cold)
    client.send(client.put("/v1/key/hmac/cold", HMAC) + client.begin("/v1/key/hmac/k"))
    client.protocol.stop()
    client.read()
    assert client.goaways == [(3, Code.NO_ERROR)]
    client.send(client.get("/version") + client.begin("/v1/key/hmac/k") + data(7, BODY) + data(3, BODY))
    cold.threads.work()
    client.read()
    assert client.statuses == [200, 200, 0, 0]
    assert client.connection.closed
    assert cold.codes == [200, 200]
    end(cold, client)


def test_drain_loses_no_request(cold: House) -> None:
    """A client is asked to move before any stream is refused; it is done when it has nothing open for a while."""
    client = Client(cold)
    client.send(client.put("/v1/key/hmac/cold", HMAC))
    protocol = client.protocol
    protocol.drain()
    protocol.drain()
    client.read()
    assert client.goaways == [(MAX_STREAM, Code.NO_ERROR)]
    assert client.ask(client.get("/version")).status == 200  # it was on its way
    cold.reactor.advance(limits.LINGER_TIMEOUT)
    assert not client.connection.closed
    cold.threads.work()
    cold.reactor.advance(limits.LINGER_TIMEOUT - 0.1)
    client.read()
    assert client.statuses == [200, 200]
    assert not client.connection.closed
    cold.reactor.advance(0.1)
    client.read()
    assert client.goaways == [(MAX_STREAM, Code.NO_ERROR), (3, Code.NO_ERROR)]
    assert client.connection.closed
    end(cold, client)


def test_stop_and_drain(cold: House) -> None:
    """The last stream that GOAWAY names is never a later one than before (RFC 9113, section 6.8)."""
    for first, second, named in (("drain", "stop", [MAX_STREAM, 1]), ("stop", "drain", [1, 1])):
        client = Client(cold)
        client.send(client.put("/v1/key/hmac/cold", HMAC))
        getattr(client.protocol, first)()
        getattr(client.protocol, second)()
        client.read()
        assert [goaway.last for goaway in client.goaways] == named
        client.connection.drop()


def test_drain_before_the_preface(house: House) -> None:
    """A connection that is asked to go before it has begun says so after its settings."""
    client_side = house.connect(speaks=b"h2")
    client_side.wrappedProtocol.drain()
    assert not client_side.unread
    client_side.send(PREFACE + settings({}))
    frames, _ = parse_frames(client_side.read())
    assert [each.kind for each in frames] == [SETTINGS, WINDOW_UPDATE, GOAWAY, SETTINGS]
    house.reactor.advance(limits.LINGER_TIMEOUT)
    assert client_side.closed


def test_drain_has_an_end(house: House) -> None:
    """A client that goes on with new requests is told after a while which is the last, and the connection closes."""
    client = Client(house)
    reply = subscribe(house, client)
    client.protocol.drain()
    for _ in range(int(limits.DRAIN_TIMEOUT) - 1):
        house.reactor.advance(1)
        assert client.ask(client.get("/version")).status == 200
    last = client.last
    house.reactor.advance(1)
    client.read()
    assert client.goaways == [(MAX_STREAM, Code.NO_ERROR), (last, Code.NO_ERROR)]
    assert client.ask(client.get("/version")).status == 0
    house.reactor.advance(1000)
    assert not reply.ended  # the stream from before is still served
    client.send(reset(1))
    client.read()
    assert client.connection.closed
    end(house, client)


def test_drain_has_an_end_for_who_does_not_listen(house: House) -> None:
    """Requests that are refused by then do not keep the connection open."""
    client = Client(house)
    client.protocol.drain()
    for _ in range(int(limits.DRAIN_TIMEOUT) + 2):
        client.send(client.get("/version"))
        house.reactor.advance(1)
    client.read()
    assert client.connection.closed
    end(house, client)


def test_the_clients_goaway(cold: House) -> None:
    """A client that says it will go gets what is under way, then the connection closes."""
    client = Client(cold)
    client.send(client.put("/v1/key/hmac/cold", HMAC) + goaway() + client.get("/version"))
    client.read()
    assert client.statuses == [0, 200]
    assert not client.connection.closed
    cold.threads.work()
    client.read()
    assert client.statuses == [200, 200]
    assert client.connection.closed
    other = Client(cold)
    other.send(goaway())
    assert other.connection.closed


# Time


@pytest.mark.parametrize("sent", [b"", PREFACE[:5], PREFACE[:-1]])
def test_no_preface_in_time(house: House, sent: bytes) -> None:
    """A client that does not say its preface in time is let go."""
    connection = house.connect(speaks=b"h2")
    connection.send(sent)
    house.reactor.advance(limits.HEAD_TIMEOUT if sent else limits.HANDSHAKE_TIMEOUT)
    assert connection.closed
    assert not connection.unread


@pytest.mark.parametrize("sent", [frame(HEADERS)[:1], ping()[:-1], HALF_BLOCK])
def test_half_a_frame(house: House, sent: bytes) -> None:
    """A frame, and a header block, has 5 s from its first byte, however it trickles."""
    client = Client(house)
    client.ask(client.get("/version"))
    house.reactor.advance(60)
    for byte in sent:
        client.send(bytes((byte,)))
    house.reactor.advance(limits.HEAD_TIMEOUT - 0.1)
    if sent == HALF_BLOCK:
        client.send(frame(9, 0, 1, b"\x84"))  # a frame more of the block is no end of it
    client.read()
    assert client.goaways == []
    house.reactor.advance(0.1)
    client.read()
    assert client.goaways == [(1, Code.ENHANCE_YOUR_CALM)]
    assert client.connection.closed


def test_each_frame_has_its_own_time(house: House) -> None:
    """Frames that come whole in time may follow each other for ever, cut as they are."""
    client = Client(house)
    sent = b"".join(client.get("/version") for _ in range(20))
    frames, _ = parse_frames(sent)
    assert len(frames) == 20
    at = 5
    client.send(sent[:at])
    for each in frames:
        house.reactor.advance(limits.HEAD_TIMEOUT - 1)
        size = 9 + len(each.payload)
        client.send(sent[at : at + size])
        at += size
    client.read()
    assert client.statuses == [200] * 20


@pytest.mark.parametrize("told", [True, False])
def test_slow_body(house: House, told: bool) -> None:
    """A body that is not complete within its route's time is 504; the rest is not needed, the connection stays."""
    client = Client(house)
    client.send(client.begin("/v1/key/hmac/k", *([("content-length", str(len(BODY)))] if told else [])))
    client.send(data(1, BODY[:-1], end=False))
    house.reactor.advance(ROUTE_TIMEOUT - 1)
    assert client.ask(client.get("/version")).status == 200  # no reprieve
    house.reactor.advance(1)
    client.read()
    reply = client.reply(1)
    assert (reply.status, reply.message) == (504, "request timed out")
    assert reset_later(house, client, reply) is Code.NO_ERROR
    client.send(data(1, BODY[-1:]))
    assert client.read() == []
    assert house.codes == [200, 504]
    assert client.protocol._held == 0
    end(house, client)


def test_a_refused_request_with_a_slow_body(house: House) -> None:
    """What a request is refused for is said also if its body never comes."""
    client = Client(house, STRANGER)
    client.send(client.begin("/v1/key/hmac/k"))
    house.reactor.advance(ROUTE_TIMEOUT)
    client.read()
    assert client.statuses == [403]


def test_the_limit_is_for_body_and_answer_together(cold: House) -> None:
    """A route's time limit covers the whole request: what the body took is not there for the key store."""
    client = Client(cold)
    client.send(client.begin("/v1/key/hmac/cold") + data(1, BODY, end=False))
    cold.reactor.advance(10)
    client.send(data(1, b""))
    cold.reactor.advance(4.9)
    client.read()
    assert client.statuses == [0]
    cold.reactor.advance(0.2)
    client.read()
    assert client.statuses == [504]


def test_an_answer_that_is_not_taken(house: House) -> None:
    """An answer whose windows stay shut is reset in the end, and the connection stays for other requests."""
    client = Client(house, values={INITIAL_WINDOW_SIZE: 0})
    client.ask(client.get("/version"))
    house.reactor.advance(limits.IDLE_TIMEOUT - 1)
    client.send(client.enlarge(1, 1))
    client.read()
    assert client.reply(1).reset is None
    house.reactor.advance(1)
    client.read()
    assert client.reply(1).reset is Code.CANCEL
    assert client.protocol._held == 0
    client.send(client.enlarge(1, 1000))
    assert client.read() == []
    assert client.ask(client.get("/version")).status == 200
    assert client.goaways == []


def test_after_an_answer_that_is_not_taken(house: House) -> None:
    """When the only stream is reset, the connection is idle from then on, or closes if the server stops."""
    client, stopped = Client(house, values={INITIAL_WINDOW_SIZE: 0}), Client(house, values={INITIAL_WINDOW_SIZE: 0})
    for each in (client, stopped):
        each.ask(each.get("/version"))
    stopped.protocol.stop()
    house.reactor.advance(limits.IDLE_TIMEOUT)
    stopped.read()
    assert stopped.reply(1).reset is Code.CANCEL
    assert stopped.connection.closed
    house.reactor.advance(limits.IDLE_TIMEOUT - 1)
    client.read()
    assert not client.connection.closed
    house.reactor.advance(1)
    client.read()
    assert client.goaways == [(1, Code.NO_ERROR)]
    assert client.connection.closed


def test_idle(house: House) -> None:
    """A connection is closed after 90 s without a request, with GOAWAY, each request granting it another 90 s."""
    client = Client(house)
    for _ in range(3):
        house.reactor.advance(limits.IDLE_TIMEOUT - 1)
        assert client.ask(client.get("/version")).status == 200
    house.reactor.advance(limits.IDLE_TIMEOUT - 1)
    assert client.read() == []
    house.reactor.advance(1)
    client.read()
    assert client.goaways == [(5, Code.NO_ERROR)]
    assert client.connection.closed
    house.reactor.advance(limits.CLOSE_TIMEOUT)
    assert client.connection.aborted
    house.reactor.turn()
    assert house.at_rest()


def test_a_peer_that_reads_nothing(house: House) -> None:
    """Who does not read what was written gets no more answers made, is read no further, and is cut off at 90 s.

    What it sends meanwhile changes nothing.
    """
    client = Client(house, values=UNLIMITED)
    client.send(client.enlarge(0, 10 * MIB))
    client.read()
    client.send(client.put("/v1/key/encrypt/k", BIG))
    assert client.connection.unread < HIGH_WATER + limits.MAX_UNWRITTEN + LONGEST
    client.send(client.get("/version"))
    assert house.codes == [200]
    for _ in range(9):
        house.reactor.advance(limits.IDLE_TIMEOUT / 10)
        client.send(client.get("/version"))
    assert not client.connection.aborted
    house.reactor.advance(limits.IDLE_TIMEOUT / 10)
    assert client.connection.aborted
    house.reactor.turn()
    assert house.codes == [200]
    assert house.at_rest()


def stall(house: House, client: Client) -> int:
    """Have more answers written than the client reads, and no stream open; how many requests that took."""
    before = client.last
    while not client.connection._producer_paused:
        client.send(client.get("/v1/metrics"))
    return (client.last - before) // 2


def test_a_peer_that_reads_nothing_and_has_no_stream(house: House) -> None:
    """It is cut off too, though it goes on to send."""
    client = Client(house, values=UNLIMITED)
    client.send(client.enlarge(0, 10 * MIB))
    client.read()
    stall(house, client)
    for _ in range(9):
        house.reactor.advance(limits.IDLE_TIMEOUT / 9)
        client.send(ping())
    assert client.connection.aborted


def test_a_peer_that_reads_late(house: House) -> None:
    """Who reads in the end gets everything: the time of what was sent meanwhile begins when it is looked at."""
    client = Client(house, values=UNLIMITED)
    client.send(client.enlarge(0, 10 * MIB))
    client.read()
    count = stall(house, client)
    client.send(client.get("/nowhere") + client.begin("/v1/key/hmac/k", ("content-length", str(len(BODY)))))
    body = client.last
    rest = data(body, BODY)
    client.send(rest[:-1])
    house.reactor.advance(limits.IDLE_TIMEOUT - 1)
    client.read()
    house.reactor.advance(limits.HEAD_TIMEOUT - 1)
    client.send(rest[-1:])
    client.read()
    assert client.goaways == []
    assert client.statuses[-count - 2 :] == [200] * count + [404, 200]


def test_a_slow_body_during_a_pause(house: House) -> None:
    """A body that was awaited when writing paused is given up as soon as its time is over and the peer reads again."""
    client = Client(house, values=UNLIMITED)
    client.send(client.enlarge(0, 10 * MIB) + client.begin("/v1/key/hmac/k"))
    client.read()
    stall(house, client)
    house.reactor.advance(60)
    client.read()
    house.reactor.turn()
    client.read()
    assert client.reply(1).status == 504


def test_unwritten_answers_are_bounded(house: House) -> None:
    """Many small requests with large answers are answered only as fast as the client reads."""
    client = Client(house, values=UNLIMITED)
    client.send(client.enlarge(0, 100 * MIB))
    client.read()
    client.send(b"".join(client.get("/v1/metrics") for _ in range(900)))
    heard = client.connection.read()
    assert len(heard) < HIGH_WATER + limits.MAX_UNWRITTEN + LONGEST
    client.receive(heard)
    while client.connection.unread:
        client.read()
        house.reactor.turn()
    assert client.statuses == [200] * 900


# Deliveries in pieces


def conversation() -> tuple[bytes, int]:
    """What a client says that uses most of the protocol, and how many requests that is."""
    client = Client(House())
    sent = PREFACE + settings({HEADER_TABLE_SIZE: 100, INITIAL_WINDOW_SIZE: 70_000}) + SETTINGS_ACK
    sent += client.get("/version", ("x-indexed", "y"))
    sent += client.put("/v1/key/hmac/k", HMAC) + ping() + client.get("/version", ("x-indexed", "y"))
    sent += client.begin("/v1/key/hmac/k") + data(client.last, BODY, end=False, padding=3)
    sent += client.head([("x-trailer", "z")], stream=client.last) + window_update(0, 100_000)
    sent += client.head([(":method", "GET"), (":scheme", "https"), (":path", "/nowhere")], size=3)
    sent += client.put("/v1/key/create/k", b"ignored") + priority(client.last + 2, 1) + frame(0x20, 7, 3, b"unknown")
    sent += client.get("/v1/key/list/", method="HEAD") + client.put("/v1/key/encrypt/k", b"{") + reset(client.last)
    return sent, (client.last + 1) // 2


CONVERSATION, COUNT = conversation()


def converse(house: House, parts: list[bytes]) -> tuple[list[int], list[bytes], list[Any], list[int], bool]:
    """What comes of a conversation: statuses, bodies, GOAWAYs, audit codes, and whether the server closes."""
    house.audit.clear()
    client = Client(house)
    client.settings({INITIAL_WINDOW_SIZE: 70_000})  # as the conversation says
    for part in parts:
        client.send(part)
    client.windows = dict.fromkeys(range(1, 1000, 2), MAX_WINDOW)
    client.read()
    heard = [client.reply(stream) for stream in range(1, 2 * COUNT, 2)]
    closed = client.connection.closed
    end(house, client)
    return [reply.status for reply in heard], [reply.body for reply in heard], client.goaways, house.codes, closed


def test_byte_by_byte(shared: House) -> None:
    """A conversation that comes byte by byte gets what it gets in one piece."""
    rest = CONVERSATION[len(PREFACE) :]
    whole = converse(shared, [rest])
    assert whole[0] == [200, 200, 200, 200, 404, 400, 200, 400]
    assert converse(shared, [rest[at : at + 1] for at in range(len(rest))]) == whole


@given(data=st.data())
@examples(max_examples=100)
def test_any_split(shared: House, data: st.DataObject) -> None:
    """However a conversation is cut into reads, what comes of it is the same."""
    rest = CONVERSATION[len(PREFACE) :]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(rest) - 1), max_size=12)))
    parts = [rest[a:b] for a, b in zip([0, *cuts], [*cuts, len(rest)], strict=True)]
    assert converse(shared, parts) == converse(shared, [rest])


# The memo of header blocks

# Few of them, so that lists come again, and entries of all sizes push each other out of small tables.
FIELDS = st.tuples(st.sampled_from("abc"), st.sampled_from(["", "v" * 30, "w" * 700]), st.sampled_from([0, 0, 0, 1]))
LISTS = st.lists(st.lists(FIELDS, max_size=3), min_size=1, max_size=4)  # a field with 1 is not for the table
SIZES = st.lists(st.sampled_from([0, 64, 1000, 4096]), max_size=2, unique=True)  # that the table has one by one
START: list[Any] = [(":method", "GET"), (":scheme", "https"), (":path", "/version")]


@given(LISTS, st.lists(st.tuples(st.integers(0, 3), SIZES | st.just([])), max_size=20))
@examples(max_examples=300)
def test_the_memo_is_the_decoder(lists: list[list[Any]], steps: list[tuple[int, list[int]]]) -> None:
    """Whatever a client's encoder does to the table, each block means what it means without a memo."""
    encoder, remembering, plain = hpack.Encoder(), HeadDecoder(), hpack.Decoder()
    for number, sizes in steps:
        for size in sizes:
            encoder.header_table_size = size
        for _ in range(2):  # in the second one all is in the table, where it has room
            block = encoder.encode(START + lists[number % len(lists)])
            expected = request_head([(bytes(name), bytes(value)) for name, value in plain.decode(block, raw=True)])
            assert remembering.request(block) == expected


REQUEST = b"\x82\x84\x87"
TABLE_SIZES = [b"\x20", b"\x3f\x21", b"\x3f\xe1\x1f", b"\x20\x3f\xe1\x1f"]  # 0; 64; 4096; 0, then 4096
ENTRIES = [b"\x40\x01a\x01b", b"\x40\x01c\x01d", b"\x40\x01e\x46" + b"f" * 70]  # for the table
REFERENCES = [b"\xbe", b"\xbf"]  # to the two newest entries of it
BLOCKS = [*(size + REQUEST for size in TABLE_SIZES), *(REQUEST + field for field in ENTRIES + REFERENCES)]


@given(st.lists(st.sampled_from(BLOCKS), max_size=20))
@examples(max_examples=1000)
def test_the_memo_is_the_decoder_for_any_blocks(blocks: list[bytes]) -> None:
    """The same for blocks that no encoder would make, which come again and again."""
    remembering, plain = HeadDecoder(), hpack.Decoder()
    for block in blocks:
        if block[-1:] in REFERENCES and len(plain.header_table.dynamic_entries) <= REFERENCES.index(block[-1:]):
            with pytest.raises(ConnectionFault):
                remembering.request(block)
            break
        expected = request_head([(bytes(name), bytes(value)) for name, value in plain.decode(block, raw=True)])
        assert remembering.request(block) == expected


def test_the_memo_is_bounded(house: House) -> None:
    """So many blocks are remembered, and only short ones."""
    client = Client(house)
    for number in range(2 * limits.MAX_REMEMBERED_BLOCKS):
        for target in (f"/{number}", "/".ljust(2 * limits.MAX_REMEMBERED_BLOCK, "x")):
            client.ask(client.head([*START[:2], hpack.NeverIndexedHeaderTuple(":path", target)]))
    assert set(client.statuses) == {404}
    memo = client.protocol._heads._memo
    assert len(memo) == limits.MAX_REMEMBERED_BLOCKS
    assert max(map(len, memo)) <= limits.MAX_REMEMBERED_BLOCK


# Malformed requests

MALFORMED: dict[str, Fields] = {
    "nothing": [],
    "no method": START[1:],
    "no scheme": [START[0], START[2]],
    "no path": START[:2],
    "empty method": [(":method", ""), *START[1:]],
    "empty scheme": [START[0], (":scheme", ""), START[2]],
    "empty path": [*START[:2], (":path", "")],
    "two methods": [START[0], *START],
    "two schemes": [*START, START[1]],
    "two paths": [*START, START[2]],
    "two authorities": [*START, (":authority", "kes"), (":authority", "kes")],
    "unknown pseudo-header": [*START, (":protocol", "x")],
    "an answer's pseudo-header": [*START, (":status", "200")],
    "pseudo-header without a name": [*START, (":", "x")],
    "pseudo-header behind a field": [*START[:2], ("a", "b"), START[2]],
    "upper-case name": [*START, ("X-Y", "z")],
    "upper-case pseudo-header": [*START[:2], (":Path", "/version")],
    "empty name": [*START, ("", "z")],
    "space in a name": [*START, ("x y", "z")],
    "colon in a name": [*START, ("x:y", "z")],
    "control character in a name": [*START, ("x\x00", "z")],
    "other character in a name": [*START, ("x\u00e9", "z")],
    "NUL": [*START, ("x", "a\x00b")],
    "line feed": [*START, ("x", "a\nb")],
    "carriage return": [*START, ("x", "a\rb")],
    "DEL": [*START, ("x", "a\x7fb")],
    "leading space": [*START, ("x", " a")],
    "trailing tab": [*START, ("x", "a\t")],
    "line feed in the path": [*START[:2], (":path", "/version\n")],
    "space in the path": [*START[:2], (":path", "/ver sion")],
    "fragment": [*START[:2], (":path", "/version#x")],
    "other characters in the path": [*START[:2], (":path", "/\u00e9")],
    "relative path": [*START[:2], (":path", "version")],
    "absolute form": [*START[:2], (":path", "https://kes/version")],
    "asterisk without OPTIONS": [*START[:2], (":path", "*")],
    "space in the method": [(":method", "GET x"), *START[1:]],
    "connection": [*START, ("connection", "close")],
    "keep-alive": [*START, ("keep-alive", "5")],
    "proxy-connection": [*START, ("proxy-connection", "keep-alive")],
    "transfer-encoding": [*START, ("transfer-encoding", "chunked")],
    "upgrade": [*START, ("upgrade", "h2c")],
    "te": [*START, ("te", "gzip")],
    "two lengths": [*START, ("content-length", "0"), ("content-length", "0")],
    "signed length": [*START, ("content-length", "+0")],
    "empty length": [*START, ("content-length", "")],
    "long length": [*START, ("content-length", "0" * 20)],
    "other host": [*START, (":authority", "kes"), ("host", "other")],
    "two hosts": [*START, ("host", "kes"), ("host", "other")],
    "CONNECT with a path": [(":method", "CONNECT"), (":authority", "a:1"), *START[1:]],
    "CONNECT without an authority": [(":method", "CONNECT")],
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("ended", [True, False])
def test_malformed_requests(house: House, name: str, ended: bool) -> None:
    """A request that is not exactly as the RFC has it resets its stream, and nobody is asked to serve it.

    The connection goes on, its header table too.
    """
    client = Client(house)
    reply = client.ask(client.head(MALFORMED[name], end=ended))
    assert (reply.status, reply.reset) == (0, Code.PROTOCOL_ERROR)
    client.send(b"" if ended else data(1, BODY))
    assert client.read() == []
    assert client.ask(client.get("/version", ("x", "y"))).status == 200
    assert house.codes == [200]
    end(house, client)


@pytest.mark.parametrize(
    "fields",
    [
        [("te", "trailers")],
        [("te", "Trailers")],
        [("host", "kes")],
        [("host", "kes"), ("host", "kes")],
        [("content-length", "0")],
        [("content-length", "00")],
        [("x", "")],
        [("x", "a\tb c")],
        [("x", "\u00e9")],
        [("cookie", "a=b"), ("cookie", "c=d")],
        [("expect", "100-Continue")],
        [("priority", "u=1")],
    ],
)
def test_fields_that_are_fine(house: House, fields: Fields) -> None:
    """What the RFC allows is served."""
    client = Client(house)
    assert client.ask(client.head([*START, *fields])).status == 200


def test_the_host_is_the_authority(house: House) -> None:
    """A Host that repeats the authority is fine, and a request needs neither."""
    client = Client(house)
    for fields in ([(":authority", "kes"), ("host", "kes")], [(":authority", "kes")], [("host", "kes")], []):
        assert client.ask(client.head([*START, *fields])).status == 200


# Streams


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(HEADERS, END_HEADERS | END_STREAM, 0, b"\x82\x84\x87"), Code.PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS | END_STREAM, 2, b"\x82\x84\x87"), Code.PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x82\x84\x87"), Code.STREAM_CLOSED),
        (frame(HEADERS, END_HEADERS | END_STREAM, 5, b"\x82\x84\x87"), Code.STREAM_CLOSED),
        (frame(DATA, END_STREAM, 0), Code.PROTOCOL_ERROR),
        (frame(DATA, END_STREAM, 9), Code.PROTOCOL_ERROR),
        (reset(0), Code.PROTOCOL_ERROR),
        (reset(9), Code.PROTOCOL_ERROR),
        (window_update(9, 1), Code.PROTOCOL_ERROR),
        (window_update(0, 0), Code.PROTOCOL_ERROR),
        (priority(0), Code.PROTOCOL_ERROR),
        (frame(PUSH_PROMISE, END_HEADERS, 7, b"\x00\x00\x00\x02"), Code.PROTOCOL_ERROR),
        (frame(SETTINGS, 0, 7), Code.PROTOCOL_ERROR),
        (frame(PING, 0, 7, bytes(8)), Code.PROTOCOL_ERROR),
        (frame(GOAWAY, 0, 7, bytes(8)), Code.PROTOCOL_ERROR),
        (frame(DATA, 0, 7, bytes(LONGEST + 1)), Code.FRAME_SIZE_ERROR),
        (frame(0x20, 0, 7, bytes(LONGEST + 1)), Code.FRAME_SIZE_ERROR),
        (frame(DATA, 0x8, 7, b""), Code.FRAME_SIZE_ERROR),
        (frame(DATA, 0x8, 7, b"\x01"), Code.PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS | 0x8, 9, b""), Code.FRAME_SIZE_ERROR),
        (frame(HEADERS, END_HEADERS | 0x8, 9, b"\x03\x82\x84\x87"[:3]), Code.PROTOCOL_ERROR),
        (frame(HEADERS, END_HEADERS | 0x20, 9, bytes(4)), Code.FRAME_SIZE_ERROR),
        (frame(HEADERS, END_HEADERS | 0x20, 9, b"\x00\x00\x00\x09\x10\x82\x84\x87"), Code.PROTOCOL_ERROR),
        (frame(SETTINGS, ACK, payload=bytes(6)), Code.FRAME_SIZE_ERROR),
    ],
)
def test_errors_of_the_connection(house: House, sent: bytes, code: Code) -> None:
    """What breaks the protocol for the whole connection ends it, and tells the last stream that was looked at."""
    client = Client(house)
    client.send(client.get("/version"))
    client.open()  # and skipped: what comes after it closes it
    client.send(client.get("/nowhere") + client.begin("/v1/key/hmac/k") + sent)
    client.read()
    assert [code_ for _, code_ in client.goaways] == [code]
    assert client.connection.closed
    client.send(client.get("/version"))
    assert client.read() == []
    end(house, client)
    assert house.codes == [200, 404, 400]


def test_streams_may_be_skipped(house: House) -> None:
    """A client may leave out streams; their numbers only have to grow."""
    client = Client(house)
    for stream in (3, 101, MAX_STREAM):
        client.windows[stream] = WINDOW
        client.send(client.head(START, stream=stream))
        client.read()
        assert client.reply(stream).status == 200


def test_data_on_a_stream_that_is_over(house: House) -> None:
    """DATA behind a request's end is an error of its stream; a reset or a priority is none."""
    client = Client(house)
    client.ask(client.get("/version"))
    client.send(reset(1) + priority(1))
    assert client.read() == []
    client.send(data(1, b"x"))
    assert client.read() == [(RST_STREAM, 0, 1, int(Code.STREAM_CLOSED).to_bytes(4, "big"))]
    assert client.ask(client.get("/version")).status == 200
