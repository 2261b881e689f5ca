"""HTTP/1.1 in memory, through the real parser and the real resource tree: bytes in, bytes out."""

from __future__ import annotations

import base64
import json
import re
import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionLost

from kes.server.http import limits
from kes.server.http.h1 import HTTP1Connection, parse_fields, parse_request_line
from kes.server.http.request import Peer
from kes.server.http.syntax import ProtocolError
from kes.server.metrics import HandshakeFailure
from tests.server.http.costs import COSTLY, Calls
from tests.server.memory import (
    ADDRESS,
    ADMIN,
    APP,
    HIGH_WATER,
    STRANGER,
    House,
    Transport,
    chunk,
    chunked,
    get,
    parse_answers,
    put,
)

MIB = 1024 * 1024
HMAC = {"message": base64.b64encode(b"m").decode()}


def statuses(house: House, data: bytes, identity: Any = ADMIN) -> list[int]:
    return [answer.status for answer in house.ask(data, identity)]


def without_date(data: bytes) -> bytes:
    return re.sub(rb"\r\nDate: [^\r]+", b"", data)


# Requests and answers


def test_an_answer_is_framed(house: House) -> None:
    """An answer has a status line, Date, Content-Length, and the type of a body that there is."""
    connection = house.connect()
    connection.send(get("/version") + put("/v1/key/create/new"))
    assert re.fullmatch(
        rb"HTTP/1\.1 200 OK\r\n"
        rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n"
        rb"Content-Length: \d+\r\n"
        rb"Content-Type: application/json\r\n\r\n"
        rb'\{"version":"[^"]+","commit":"[^"]+"\}\n'
        rb"HTTP/1\.1 200 OK\r\nDate: [^\r]+\r\nContent-Length: 0\r\n\r\n",
        connection.read(),
    )


@pytest.mark.parametrize("target", ["/version", "/v1/log/error"])
def test_head_is_get_without_the_body(house: House, target: str) -> None:
    """HEAD gets the head that GET gets, no body, and leaves the connection for the next request."""
    connection = house.connect()
    connection.send(get(target, method="HEAD") + get("/nowhere"))
    head, _, rest = connection.read_all().partition(b"\r\n\r\n")
    assert parse_answers(rest)[0].status == 404
    connection.send(get(target))
    assert without_date(connection.read_all()).startswith(without_date(head))


def test_post_is_put(house: House) -> None:
    """The SDK sends POST where the contract says PUT; both do the same."""
    assert statuses(house, put("/v1/key/hmac/k", HMAC, method="POST") + put("/v1/key/hmac/k", HMAC)) == [200, 200]


def test_method_not_allowed_tells_the_allowed_ones(house: House) -> None:
    """405 carries Allow, and comes before authorization."""
    for identity in (ADMIN, STRANGER, None):
        (answer,) = house.ask(get("/v1/key/create/k"), identity)
        assert (answer.status, answer.headers["allow"]) == (405, "PUT, POST")


@pytest.mark.parametrize(
    ("version", "headers", "stays"),
    [
        ("HTTP/1.1", [], True),
        ("HTTP/1.1", ["Connection: keep-alive"], True),
        ("HTTP/1.1", ["Connection: close"], False),
        ("HTTP/1.1", ["Connection: x, Close"], False),
        ("HTTP/1.1", ["Connection: x", "Connection: close"], False),
        ("HTTP/1.0", [], False),
        ("HTTP/1.0", ["Connection: Keep-Alive"], True),
        ("HTTP/1.0", ["Connection: keep-alive, close"], False),
    ],
)
def test_who_keeps_the_connection(house: House, version: str, headers: list[str], stays: bool) -> None:
    """The client decides whether the connection stays, by its version's rule, and the answer says what holds."""
    connection = house.connect()
    connection.send(get("/version", *headers, version=version))
    (answer,) = parse_answers(connection.read())
    expected = (None if version == "HTTP/1.1" else "keep-alive") if stays else "close"
    assert answer.headers.get("connection") == expected
    assert connection.closed is not stays
    if stays:
        connection.send(get("/version"))
        assert connection.unread


def test_nothing_after_the_last_request_is_answered(house: House) -> None:
    """What follows a request with `Connection: close` is dropped, and the answer arrives nevertheless."""
    connection = house.connect()
    connection.send(get("/version", "Connection: close") + get("/version"))
    connection.send(get("/version"))
    assert len(parse_answers(connection.read_all())) == 1
    assert not connection.closed  # bytes may be on their way: a reset would take the answer along
    house.reactor.advance(limits.LINGER_TIMEOUT)
    assert connection.closed
    assert house.codes == [200]


def test_an_empty_line_too_many_is_passed_over(house: House) -> None:
    """An empty line before a request (RFC 9112, section 2.2) means nothing, and does not start the header's time."""
    connection = house.connect()
    for part in (b"\r", b"\n", get("/version"), b"\r\n"):
        connection.send(part)
    house.reactor.advance(limits.HEAD_TIMEOUT + 1)
    connection.send(get("/version"))
    assert [a.status for a in parse_answers(connection.read())] == [200, 200]
    assert statuses(house, b"\r\n\r\n" + get("/version")) == [400]


def test_no_delay_and_keep_alive_are_set(house: House) -> None:
    """Small answers are not held back, and a peer that vanished is noticed."""
    assert house.connect().options == {"no delay", "keep alive"}


# The hot path


def test_a_hit_is_cheap(house: House) -> None:
    """A request for a cached key makes no Deferred, no delayed call and no thread."""
    connection = house.connect()
    request = put("/v1/key/generate/k", {})
    with Calls() as called:
        connection.send(request)
        connection.send(request * 3)
    assert [a.status for a in parse_answers(connection.read())] == [200] * 4
    assert HTTP1Connection.dataReceived.__code__ in called, "nothing was watched"
    assert {name for name, code in COSTLY.items() if code in called} == set()


def test_the_watch_for_costly_calls_sees_them(house: House) -> None:
    """What the test above looks for is seen where it happens: a key that is not in the cache takes a Deferred."""
    house.ask(put("/v1/key/create/cold"))
    calls = house.threads.calls
    connection = house.connect()
    with Calls() as called:
        connection.send(put("/v1/key/generate/cold", {}))
    assert COSTLY["a Deferred"] in called
    assert COSTLY["a delayed call"] in called
    assert house.threads.calls == calls + 1


def test_one_write_a_read(house: House) -> None:
    """All answers to what one read brought are written at once."""
    connection = house.connect()
    for reads in range(1, 30):
        connection.send(put("/v1/key/generate/k") * 20)
        assert connection.writes == reads
        assert len(parse_answers(connection.read())) == 20


# Bodies


@pytest.mark.parametrize(
    "request_",
    [
        put("/v1/key/hmac/k", HMAC),
        chunked("/v1/key/hmac/k", b'{"messa', b'ge":"bQ=="', b"}"),
        get("/v1/key/hmac/k", "transfer-ENCODING: Chunked", method="PUT")
        + b'00e;x="y"\r\n{"message":"bQ\r\n4 ; x\r\n=="}\r\n0\r\nTrailer: x\r\nOther:\r\n\r\n',
    ],
)
def test_bodies(house: House, request_: bytes) -> None:
    """A body comes by its length or in chunks, and gives the same answer; extensions and trailers mean nothing."""
    answers = house.ask(request_ + get("/version"))
    assert [a.status for a in answers] == [200, 200]
    assert answers[0] == house.ask(put("/v1/key/hmac/k", HMAC))[0]


@pytest.mark.parametrize("size", [MIB - 1, MIB, MIB + 1])
@pytest.mark.parametrize("how", ["length", "chunks"])
def test_body_limit(house: House, size: int, how: str) -> None:
    """A body of 1 MiB is taken, one more byte is 413, whichever way it comes."""
    body = b"{}".ljust(size)
    if how == "length":
        data = put("/v1/key/hmac/k", body)
    else:
        data = chunked("/v1/key/hmac/k", *(body[at : at + 60_000] for at in range(0, size, 60_000)))
    assert statuses(house, data) == [413 if size > MIB else 200]


@pytest.mark.parametrize("how", ["length", "chunks"])
def test_a_refused_body_can_be_sent_to_its_end(house: House, how: str) -> None:
    """Who sends all of a body that is too large reads the 413 after it: the connection is not reset meanwhile."""
    connection = house.connect()
    body = b" " * (2 * MIB)
    connection.send(put("/v1/key/hmac/k", body) if how == "length" else chunked("/v1/key/hmac/k", body))
    assert connection.undelivered == 0
    (answer,) = parse_answers(connection.read_all())
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert not connection.closed
    house.reactor.advance(limits.LINGER_TIMEOUT)
    assert connection.closed


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
@pytest.mark.parametrize("how", ["length", "chunks"])
def test_order_of_checks(house: House, target: str, identity: Any, expected: int, how: str) -> None:
    """An unknown route and a wrong method are said before the body's size, and that before who asks."""
    body = b" " * (MIB + 1)
    data = put(target, body) if how == "length" else chunked(target, body)
    assert statuses(house, data, identity) == [expected]
    assert house.codes == [expected]


def test_no_body_is_kept_for_a_refused_request(house: House) -> None:
    """The body of a request that is refused is read to its end but held nowhere."""
    for identity, target, code in ((STRANGER, "/v1/key/hmac/k", 403), (ADMIN, "/nowhere", 404)):
        connection = house.connect(identity)
        data = put(target, b"x" * MIB)
        connection.send(data[:-1])
        protocol = connection.wrappedProtocol
        assert protocol._body.content == b""
        assert protocol._buffer == b""
        assert not connection.unread
        connection.send(data[-1:] + get("/nowhere"))
        assert [a.status for a in parse_answers(connection.read())] == [code, 404]


def test_a_body_where_none_is_wanted_is_dropped(house: House) -> None:
    """A route without a body passes over one."""
    assert statuses(house, put("/v1/key/create/x", b"{" * 1000) + get("/version")) == [200, 200]


def test_a_body_in_single_bytes_costs_no_more_than_its_size(house: House) -> None:
    """What is held of a body does not depend on the pieces in which it came."""
    connection = house.connect()
    connection.send(get("/v1/key/hmac/k", f"Content-Length: {MIB}", method="PUT"))
    for _ in range(2000):
        connection.send(b"ab")
    content = connection.wrappedProtocol._body.content
    assert len(content) == 4000
    assert sys.getsizeof(content) < 8000


def test_continue(house: House) -> None:
    """Who asks whether to go on is told to when the request is welcome so far."""
    connection = house.connect()
    body = json.dumps(HMAC).encode()
    connection.send(put("/v1/key/hmac/k", body, "Expect: 100-Continue")[: -len(body)])
    assert connection.read() == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.send(body)
    assert parse_answers(connection.read())[0].status == 200


def test_no_continue_when_the_body_is_there(house: House) -> None:
    """A client that does not wait for the word is not sent it."""
    connection = house.connect()
    connection.send(put("/v1/key/hmac/k", HMAC, "Expect: 100-continue"))
    connection.send(put("/v1/key/hmac/k", HMAC, "Expect: 100-continue")[:-5])
    assert b"100 Continue" not in connection.read()


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
    """Who asks whether to go on with what is refused gets the refusal instead."""
    connection = house.connect(identity)
    connection.send(get(target, f"Content-Length: {size}", "Expect: 100-continue", method="PUT"))
    (answer,) = parse_answers(connection.read())
    assert (answer.status, answer.headers["connection"]) == (expected, "close")
    assert house.codes == [expected]


def test_http10_knows_no_continue(house: House) -> None:
    """A 1.0 client would take 100 for the answer (RFC 9110, section 10.1.1)."""
    connection = house.connect()
    connection.send(put("/v1/key/hmac/k", HMAC, "Expect: 100-continue").replace(b"/1.1", b"/1.0")[:-5])
    assert not connection.unread


# Deliveries in pieces


CONVERSATIONS = [
    put("/v1/key/hmac/k", HMAC)
    + b"\r\n"
    + chunked("/v1/key/hmac/k", b'{"message":', b'"bQ=="}')
    + get("/v1/key/list/", method="HEAD")
    + put("/v1/key/create/k", b"ignored")
    + get("/nowhere%20?x")
    + get("/version", "Connection: close")
    + get("/version"),
    chunked("/v1/key/create/k", b" " * 700) * 2 + put("/v1/key/hmac/k", b"{" * 300) + b"GET / HTTP/1.1\n\n",
    get("/version", version="HTTP/1.0"),
    get("/v1/key/hmac/k", "Transfer-Encoding: chunked", method="PUT") + b"2\r\nxxx\r\n0\r\n\r\n",
    get("/v1/key/hmac/k", "Transfer-Encoding: chunked", method="PUT") + b"2;" + b"x" * 255 + b"\r\n",
    get("/v1/key/hmac/k", "Transfer-Encoding: chunked", method="PUT") + b"2;" + b"x" * 254 + b"\r\n{}\r\n0\r\n\r\n",
    get("/v1/key/hmac/k", "Transfer-Encoding: chunked", method="PUT") + b"0\r\n" + b"A: b\r\n" * 5 + b"c d: e\r\n\r\n",
    get("/version", "A: b\nC: d"),
    get("/version", "A: b\n\nC: d", version="HTTP/9.9"),
]


def converse(house: House, parts: list[bytes], identity: Any = ADMIN) -> tuple[bytes, list[int], bool]:
    """Everything that the server says to `parts`, what it audits, and whether it is done with the connection."""
    house.audit.clear()
    connection = house.connect(identity)
    for part in parts:
        connection.send(part)
    house.reactor.advance(limits.LINGER_TIMEOUT)
    data = connection.read_all()
    closed = connection.closed
    connection.drop()
    house.reactor.turn()
    assert house.at_rest()
    return without_date(data), house.codes, closed


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=range(len(CONVERSATIONS)))
def test_byte_by_byte(house: House, conversation: bytes) -> None:
    """A conversation that comes byte by byte gets, byte for byte, what it gets in one piece."""
    whole = converse(house, [conversation])
    assert whole[0]
    assert converse(house, [conversation[at : at + 1] for at in range(len(conversation))]) == whole


@given(data=st.data())
@settings(max_examples=100)
def test_any_split(shared: House, data: st.DataObject) -> None:
    """However a conversation is cut into reads, the answers are the same bytes."""
    conversation = data.draw(st.sampled_from(CONVERSATIONS))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(conversation) - 1), max_size=12)))
    parts = [conversation[a:b] for a, b in zip([0, *cuts], [*cuts, len(conversation)], strict=True)]
    assert converse(shared, parts) == converse(shared, [conversation])


@pytest.mark.parametrize("over", [0, 1])
def test_header_limits_do_not_depend_on_the_reads(house: House, over: int) -> None:
    """A header of exactly the limit passes and one more byte is 431, in one read as in many."""
    filler = limits.MAX_HEAD + over - len(get("/version", "X: "))
    head = get("/version", "X: " + "x" * filler)
    assert len(head) == limits.MAX_HEAD + over
    expected = [431 if over else 200]
    assert statuses(house, head) == expected
    connection = house.connect()
    connection.send(head[:-3])
    for at in range(len(head) - 3, len(head)):
        connection.send(head[at : at + 1])
    assert [a.status for a in parse_answers(connection.read_all())] == expected


# Hostile bytes


@given(
    conversation=st.sampled_from(CONVERSATIONS),
    at=st.floats(0, 1),
    garbage=st.one_of(
        st.binary(min_size=1, max_size=40),
        st.sampled_from([b"\r", b"\n", b"\r\n", b"\x00", b" ", b":", b"\t", b"\xff", b"0\r\n\r\n", b"\r\n\r\n"]),
    ),
    replace=st.booleans(),
    splits=st.integers(1, 4),
)
@settings(max_examples=300)
def test_garbage(shared: House, conversation: bytes, at: float, garbage: bytes, replace: bool, splits: int) -> None:
    """Garbage anywhere raises nothing, gets whole answers only, each recorded, and leaves nothing behind."""
    position = int(at * len(conversation))
    rest = conversation[position + (len(garbage) if replace else 0) :]
    data = conversation[:position] + garbage + rest
    size = len(data) // splits + 1
    heard, _, _ = converse(shared, [data[a : a + size] for a in range(0, len(data), size)])
    for status in re.findall(rb"^HTTP/1\.1 (\d+)", heard, re.MULTILINE):
        assert int(status) in (100, 200, 400, 403, 404, 405, 408, 413, 417, 431, 501, 505)


@given(st.binary(max_size=400))
@settings(max_examples=200)
def test_pure_garbage_is_never_served(shared: House, data: bytes) -> None:
    """Bytes that are no request get an error or nothing, and cost the connection."""
    heard, codes, closed = converse(shared, [data])
    assert not heard.startswith(b"HTTP/1.1 200")
    assert codes == []
    assert closed or not heard


SMUGGLING = {
    "both lengths": (["Content-Length: 5", "Transfer-Encoding: chunked"], 400),
    "both, the other way round": (["Transfer-Encoding: chunked", "Content-Length: 5"], 400),
    "two equal lengths": (["Content-Length: 5", "Content-Length: 5"], 400),
    "two lengths": (["Content-Length: 5", "Content-Length: 6"], 400),
    "list of lengths": (["Content-Length: 5, 5"], 400),
    "signed": (["Content-Length: +5"], 400),
    "negative": (["Content-Length: -5"], 400),
    "hexadecimal": (["Content-Length: 0x5"], 400),
    "underscore": (["Content-Length: 1_0"], 400),
    "blank inside": (["Content-Length: 5 5"], 400),
    "empty length": (["Content-Length:"], 400),
    "other digits": (["Content-Length: \u0665"], 400),
    "vertical tab": (["Content-Length: \x0b5"], 400),
    "huge": (["Content-Length: 9223372036854775807"], 413),
    "huger": (["Content-Length: 99999999999999999999"], 400),
    "identity": (["Transfer-Encoding: identity"], 501),
    "chunked twice": (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], 501),
    "chunked list": (["Transfer-Encoding: chunked, xchunked"], 501),
    "gzip first": (["Transfer-Encoding: gzip, chunked"], 501),
    "xchunked": (["Transfer-Encoding: xchunked"], 501),
    "no coding": (["Transfer-Encoding:"], 501),
    "coding with a tab in it": (["Transfer-Encoding: chunked\x0b"], 400),
    "folded": (["Transfer-Encoding:\r\n chunked"], 400),
    "folded value": (["X: a", " b"], 400),
    "folded with a tab": (["X: a", "\tContent-Length: 5"], 400),
    "space before the colon": (["Content-Length : 5"], 400),
    "tab before the colon": (["Transfer-Encoding\t: chunked"], 400),
    "no colon": (["Content-Length"], 400),
    "no name": ([": 5"], 400),
    "other name": (["Cont\u00e9nt-Length: 5"], 400),
    "bare line feed": (["X: a\nContent-Length: 5"], 400),
    "bare carriage return": (["X: a\rContent-Length: 5"], 400),
    "NUL": (["X: a\x00b"], 400),
    "NUL in a name": (["X\x00: a"], 400),
    "DEL": (["X: a\x7f"], 400),
    "second Host": (["Host: other"], 400),
    "unknown expectation": (["Expect: 200-maybe"], 417),
}


@pytest.mark.parametrize("name", SMUGGLING)
def test_smuggling(house: House, name: str) -> None:
    """What two parsers could frame in two ways is refused, and the connection with it: the rest is no request."""
    headers, expected = SMUGGLING[name]
    connection = house.connect()
    connection.send(get("/v1/key/create/x", *headers, method="PUT") + b"0\r\n\r\n" + get("/version"))
    (answer,) = parse_answers(connection.read_all())
    assert (answer.status, answer.headers["connection"]) == (expected, "close")
    assert house.ask(get("/v1/key/describe/x"))[0].status == 404


@pytest.mark.parametrize("value", ["5", " 5", "\t5 ", "05"])
def test_lengths_that_are_fine(house: House, value: str) -> None:
    """White space around a value and leading zeros are legal (RFC 9110, sections 5.5 and 8.6)."""
    data = get("/v1/key/hmac/k", f"Content-Length:{value}", method="PUT") + b"null "
    assert statuses(house, data + get("/version")) == [200, 200]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"GET /version HTTP/1.1\r\n\r\n", 400),
        (b"GET /version HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /version HTTP/1.0\r\n\r\n", 200),
        (b"GET /version HTTP/1.1\nHost: kes\n\n", 400),
        (b"\n\n", 400),
        (b"GET /version HTTP/1.1\r\nHost: kes\r\nX: y\n\n", 400),
        (b"GET /version HTTP/1.1\nHost: kes\r\n\r\n", 400),
        (b"GET /version HTTP/2.0\r\nHost: kes\r\n\r\n", 505),
        (b"GET /version HTTP/1.2\r\nHost: kes\r\n\r\n", 505),
        (b"GET /version HTTP/1.10\r\nHost: kes\r\n\r\n", 400),
        (b"GET /version http/1.1\r\nHost: kes\r\n\r\n", 400),
        (b"GET /version\r\nHost: kes\r\n\r\n", 400),
        (b"GET  /version HTTP/1.1\r\nHost: kes\r\n\r\n", 400),
        (b" GET /version HTTP/1.1\r\nHost: kes\r\n\r\n", 400),
        (b"GET /version HTTP/1.1 \r\nHost: kes\r\n\r\n", 400),
        (b"GET\t/version HTTP/1.1\r\nHost: kes\r\n\r\n", 400),
        (b"GET /ver\rsion HTTP/1.1\r\nHost: kes\r\n\r\n", 400),
        (b"GET /ver\x00sion HTTP/1.1\r\nHost: kes\r\n\r\n", 400),
        (b"GET /version\xff HTTP/1.1\r\nHost: kes\r\n\r\n", 400),
        (b"GET /version#x HTTP/1.1\r\nHost: kes\r\n\r\n", 400),
        (b"G(T /version HTTP/1.1\r\nHost: kes\r\n\r\n", 400),
        (b"PUT /v1/key/create/x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n", 400),
    ],
)
def test_malformed_heads(house: House, data: bytes, expected: int) -> None:
    """A request line or header that is not exactly as the RFC has it is refused."""
    assert statuses(house, data) == [expected]


CHUNKS = {
    "no size": b"\r\n{}\r\n0\r\n\r\n",
    "signed size": b"+2\r\n{}\r\n0\r\n\r\n",
    "negative size": b"-2\r\n{}\r\n0\r\n\r\n",
    "prefixed size": b"0x2\r\n{}\r\n0\r\n\r\n",
    "blank before the size": b" 2\r\n{}\r\n0\r\n\r\n",
    "blank after the size": b"2 \r\n{}\r\n0\r\n\r\n",
    "size with an underscore": b"0_2\r\n{}\r\n0\r\n\r\n",
    "no hexadecimal": b"g\r\n{}\r\n0\r\n\r\n",
    "size of nine digits": b"000000002\r\n{}\r\n0\r\n\r\n",
    "size line ends in LF": b"2\n{}\r\n0\r\n\r\n",
    "bare LF in an extension": b"2;a\nb\r\n{}\r\n0\r\n\r\n",
    "bare CR in an extension": b"2;a\rb\r\n{}\r\n0\r\n\r\n",
    "NUL in an extension": b"2;a\x00b\r\n{}\r\n0\r\n\r\n",
    "no CR LF after the data": b"2\r\n{}0\r\n\r\n",
    "LF after the data": b"2\r\n{}\n0\r\n\r\n",
    "data too long": b"2\r\n{} \r\n0\r\n\r\n",
    "long extension": b"2;" + b"x" * limits.MAX_CHUNK_LINE + b"\r\n{}\r\n0\r\n\r\n",
    "endless size line": b"2;" + b"x" * 300,
    "folded trailer": b"2\r\n{}\r\n0\r\nA: b\r\n c\r\n\r\n",
    "bare LF in a trailer": b"2\r\n{}\r\n0\r\nA: b\nC: d\r\n\r\n",
    "trailers end in LF": b"2\r\n{}\r\n0\r\n\n",
    "no trailer": b"2\r\n{}\r\n0\r\nGET / HTTP/1.1\r\n\r\n",
    "long trailers": b"2\r\n{}\r\n0\r\n" + b"A: b\r\n" * (limits.MAX_TRAILERS // 6 + 1) + b"\r\n",
}


@pytest.mark.parametrize("name", CHUNKS)
def test_malformed_chunks(house: House, name: str) -> None:
    """A chunked body that is not exactly as the RFC has it is refused, recorded once, and ends the connection."""
    connection = house.connect()
    connection.send(get("/v1/key/hmac/k", "Transfer-Encoding: chunked", method="PUT") + CHUNKS[name] + get("/version"))
    (answer,) = parse_answers(connection.read_all())
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert house.codes == [400]
    assert house.metrics.active == 0


@pytest.mark.parametrize("over", [0, 1])
def test_trailers_limit(house: House, over: int) -> None:
    """Trailers of the largest size pass, one more byte is 400."""
    line = b"A: ".ljust(126, b"x") + b"\r\n"
    trailers = line * (limits.MAX_TRAILERS // len(line) - 1) + line.replace(b"x", b"x" * (over + 1), 1)
    assert len(trailers) == limits.MAX_TRAILERS + over
    data = get("/v1/key/hmac/k", "Transfer-Encoding: chunked", method="PUT") + b"2\r\n{}\r\n0\r\n" + trailers + b"\r\n"
    assert statuses(house, data) == [400 if over else 200]


@pytest.mark.parametrize(("identity", "target", "expected"), [(STRANGER, "/v1/key/hmac/k", 403), (ADMIN, "/x", 404)])
def test_a_refused_request_with_a_malformed_body(house: House, identity: Any, target: str, expected: int) -> None:
    """What a request is refused for is said even if its body cannot be read to its end."""
    data = get(target, "Transfer-Encoding: chunked", method="PUT") + b"x\r\n"
    assert statuses(house, data, identity) == [expected]
    assert house.codes == [expected]


@pytest.mark.parametrize("over", [0, 1])
def test_header_count(house: House, over: int) -> None:
    """So many header fields pass, one more is 431."""
    headers = [f"X-{i}: {i}" for i in range(limits.MAX_HEADERS - 1 + over)]
    assert statuses(house, get("/version", *headers)) == [431 if over else 200]


@pytest.mark.parametrize("over", [0, 1])
def test_target_length(house: House, over: int) -> None:
    """A target of the longest length is looked up, a longer one is 414."""
    target = "/version?".ljust(limits.MAX_TARGET + over, "x")
    assert statuses(house, get(target)) == [414 if over else 200]


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_parsers_raise_one_error(data: bytes) -> None:
    """The parsers of a head raise nothing but ProtocolError."""
    for parse in (parse_request_line, parse_fields):
        with suppress(ProtocolError):
            parse(data)


# Time


def test_handshake_limit(house: House) -> None:
    """A peer that has not completed the handshake after 10 s is cut off; before that nothing it sends is looked at."""
    connection = house.open(None)
    connection.send(get("/version"))
    house.reactor.advance(limits.HANDSHAKE_TIMEOUT - 0.1)
    assert not connection.aborted
    house.reactor.advance(0.1)
    assert connection.aborted
    house.reactor.turn()
    assert len(house.handshakes_failed) == 1
    assert house.metrics.handshakes_failed[HandshakeFailure.TIMEOUT] == 1
    assert house.at_rest()
    assert connection.unread == 0


def test_a_peer_that_is_not_let_in(house: House) -> None:
    """A handshake whose peer is refused afterwards ends the connection, and is reported as a failed one."""
    before = house.metrics.handshakes
    connection = house.open(None)
    connection.wrappedProtocol.handshakeCompleted()
    assert connection.aborted
    connection.send(get("/version"))
    house.reactor.turn()
    assert connection.unread == 0
    assert len(house.handshakes_failed) == 1
    assert house.metrics.handshakes_failed[HandshakeFailure.CERTIFICATE] == 1
    assert house.metrics.handshakes == before
    assert house.at_rest()


def test_slow_header(house: House) -> None:
    """A header has 5 s from its first byte, however it trickles; then the peer gets 408 and the connection closes."""
    connection = house.connect()
    house.reactor.advance(60)
    for byte in b"GET /":
        connection.send(bytes([byte]))
        house.reactor.advance(limits.HEAD_TIMEOUT / 5)
    (answer,) = parse_answers(connection.read())
    assert (answer.status, answer.headers["connection"]) == (408, "close")
    house.reactor.advance(limits.LINGER_TIMEOUT)
    assert connection.closed
    assert house.codes == []


def test_header_time_starts_anew_with_each_request(house: House) -> None:
    """The header's limit counts for one request: the next begins its own, and idle time counts for none."""
    connection = house.connect()
    for _ in range(3):
        connection.send(get("/version")[:10])
        house.reactor.advance(limits.HEAD_TIMEOUT - 1)
        connection.send(get("/version")[10:])
        house.reactor.advance(limits.HEAD_TIMEOUT + 1)
    assert [a.status for a in parse_answers(connection.read())] == [200] * 3


@pytest.mark.parametrize("how", ["length", "chunks"])
def test_slow_body(house: House, how: str) -> None:
    """A body that is not complete within its route's time is 504, recorded, and the connection closes."""
    connection = house.connect()
    data = put("/v1/key/hmac/k", HMAC) if how == "length" else chunked("/v1/key/hmac/k", b"{}")
    connection.send(data[:-1])
    house.reactor.advance(14)
    assert not connection.unread
    house.reactor.advance(1)
    (answer,) = parse_answers(connection.read())
    assert (answer.status, answer.message) == (504, "request timed out")
    assert house.codes == [504]
    house.reactor.advance(limits.LINGER_TIMEOUT)
    assert connection.closed


def test_a_refused_request_with_a_slow_body(house: House) -> None:
    """What a request is refused for is said also if its body never comes."""
    connection = house.connect(STRANGER)
    connection.send(put("/v1/key/hmac/k", HMAC)[:-1])
    house.reactor.advance(15)
    assert [a.status for a in parse_answers(connection.read())] == [403]


def test_the_limit_is_for_body_and_answer_together(house: House) -> None:
    """A route's time limit covers the whole request: what the body took is not there for the key store."""
    house.ask(put("/v1/key/create/cold"))
    house.audit.clear()
    house.threads.hold()
    connection = house.connect()
    data = put("/v1/key/hmac/cold", HMAC)
    connection.send(data[:-1])
    house.reactor.advance(10)
    connection.send(data[-1:])
    house.reactor.advance(4.9)
    assert not connection.unread
    house.reactor.advance(0.2)
    assert [a.status for a in parse_answers(connection.read())] == [504]
    assert house.codes == [504]


def test_the_config_sets_a_routes_time() -> None:
    """A time limit of the configuration counts for the body too, and not for the idle time after it."""
    house = House(**{"/v1/key/hmac/": 300.0})
    house.make_key("k")
    connection = house.connect()
    data = put("/v1/key/hmac/k", HMAC)
    connection.send(data[:-1])
    house.reactor.advance(200)
    connection.send(data[-1:])
    assert [a.status for a in parse_answers(connection.read())] == [200]
    house.reactor.advance(limits.IDLE_TIMEOUT)
    assert connection.closed


def test_idle(house: House) -> None:
    """A connection is closed after 90 s without a request, each request granting it another 90 s."""
    connection = house.connect()
    for _ in range(3):
        house.reactor.advance(limits.IDLE_TIMEOUT - 1)
        connection.send(get("/version"))
    assert len(parse_answers(connection.read())) == 3
    house.reactor.advance(limits.IDLE_TIMEOUT - 1)
    assert not connection.closed
    house.reactor.advance(1)
    assert connection.closed
    assert connection.read() == b""


def test_a_peer_that_does_not_close(house: House) -> None:
    """A peer that does not play its part in closing is cut off."""
    connection = house.connect()
    connection.send(get("/version", "Connection: close"))
    assert connection.closed
    connection.send(get("/version"))
    house.reactor.advance(limits.CLOSE_TIMEOUT)
    assert connection.aborted
    house.reactor.turn()
    assert house.at_rest()
    assert house.codes == [200]


def test_a_running_request_needs_no_connection_timer(house: House) -> None:
    """A stream may be silent for as long as it likes."""
    connection = house.connect()
    connection.send(get("/v1/log/error"))
    house.reactor.advance(10_000)
    assert not connection.closed
    assert not connection.aborted


# Answers that come later


def test_pipelining_behind_a_later_answer(cold: House) -> None:
    """Requests behind one that takes its time are answered after it, in order and in one write."""
    connection = cold.connect()
    behind = get("/nowhere") + put("/v1/key/hmac/k", HMAC)
    connection.send(get("/version") + put("/v1/key/hmac/cold", HMAC) + behind)
    assert [a.status for a in parse_answers(connection.read())] == [200]
    assert cold.metrics.active == 1
    connection.send(get("/version", method="HEAD") + get("/version", "Connection: close"))
    assert not connection.unread
    writes = connection.writes
    cold.threads.work()
    answers = parse_answers(connection.read(), ["PUT", "GET", "PUT", "HEAD", "GET"])
    assert [a.status for a in answers] == [200, 404, 200, 200, 200]
    assert connection.writes == writes + 1
    assert connection.closed
    assert cold.codes == [200, 200, 404, 200, 200, 200]


def test_reading_pauses_behind_a_later_answer(cold: House) -> None:
    """No more than a bounded number of bytes is read ahead of an answer, and none is lost."""
    connection = cold.connect()
    requests = get("/version", "X: " + "x" * 1000) * 200
    connection.send(put("/v1/key/hmac/cold", HMAC) + requests)
    assert connection.reading_paused
    assert len(connection.wrappedProtocol._buffer) <= limits.MAX_PIPELINED + 32 * 1024
    assert connection.undelivered > 0
    cold.threads.work()
    heard = b""
    while heard.count(b"HTTP/1.1 ") != 201:
        heard += connection.read_all()
        cold.reactor.turn()
    assert len(parse_answers(heard)) == 201
    assert not connection.reading_paused


def test_the_last_answer_goes_out_though_more_was_sent(cold: House) -> None:
    """When the last answer comes late, reading goes on until the peer is done, or its bytes would reset it."""
    connection = cold.connect()
    connection.send(put("/v1/key/hmac/cold", HMAC, "Connection: close") + b"x" * 200_000)
    assert connection.reading_paused
    cold.threads.work()
    cold.reactor.turn()
    assert connection.undelivered == 0
    assert [a.status for a in parse_answers(connection.read())] == [200]


def test_the_store_takes_too_long(cold: House) -> None:
    """An answer that is not there within its route's time is 504; what comes later is dropped, and the connection
    stays."""
    connection = cold.connect()
    connection.send(put("/v1/key/hmac/cold", HMAC))
    cold.reactor.advance(15)
    assert [a.status for a in parse_answers(connection.read())] == [504]
    cold.threads.work()
    connection.send(get("/version"))
    assert [a.status for a in parse_answers(connection.read())] == [200]
    assert cold.codes == [504, 200]
    assert cold.metrics.active == 0


@pytest.mark.parametrize("work", [True, False])
def test_gone_during_a_later_answer(cold: House, work: bool) -> None:
    """A request whose client has gone is recorded once, when its work is over, and is active no more."""
    connection = cold.connect()
    connection.send(put("/v1/key/hmac/cold", HMAC) + get("/version"))
    connection.drop()
    assert connection.wrappedProtocol._buffer == b""
    if work:
        cold.threads.work()
    else:
        cold.reactor.advance(15)
    assert cold.codes == [200 if work else 504]
    cold.threads.work()
    assert cold.at_rest()
    assert connection.unread == 0


@pytest.mark.parametrize(
    ("data", "identity", "expected"),
    [
        (put("/v1/key/hmac/k", HMAC)[:-1], ADMIN, 400),
        (chunked("/v1/key/hmac/k", b"{}")[:-1], ADMIN, 400),
        (put("/v1/key/hmac/k", HMAC)[:-1], STRANGER, 403),
        (put("/nowhere", HMAC)[:-1], ADMIN, 404),
    ],
)
def test_gone_in_the_middle_of_a_body(house: House, data: bytes, identity: Any, expected: int) -> None:
    """A request whose client goes before all of its body is there is in the audit log, once."""
    connection = house.connect(identity)
    connection.send(data)
    assert house.codes == []
    connection.drop()
    assert house.codes == [expected]
    assert house.at_rest()
    assert connection.unread == 0


def test_gone_in_the_middle_of_a_header(house: House) -> None:
    """Half a header is no request: there is nothing to record."""
    connection = house.connect()
    connection.send(get("/version")[:-1])
    connection.drop()
    assert house.codes == []
    assert house.at_rest()


def test_who_waits_for_the_end_of_a_request(cold: House) -> None:
    """A request tells when its answer is out, or that its connection is gone."""
    connection = cold.connect()
    for end in (cold.threads.work, connection.drop):
        connection.send(put("/v1/key/create/cold"))
        heard: list[Any] = []
        connection.wrappedProtocol._request.notifyFinish().addBoth(heard.append)
        assert heard == []
        end()
        assert len(heard) == 1
    assert heard[0].check(ConnectionLost)
    cold.threads.work()


def test_only_the_first_answer_counts(cold: House) -> None:
    """Whatever answers a request a second time is not heard, and not recorded."""
    for target in ("/v1/key/create/cold", "/v1/log/error"):
        connection = cold.connect()
        connection.send(get(target, method="GET" if "log" in target else "PUT"))
        request = connection.wrappedProtocol._request
        request.answer(200)
        request.answer(500)
        request.stream(b"x/y")
        connection.drop()
    assert cold.codes == [200, 200]
    cold.threads.work()
    assert cold.codes == [200, 200]


def test_writes_to_a_stream(house: House) -> None:
    """Writing nothing does not end a stream, and writing after its end does nothing."""
    connection = house.connect()
    connection.send(get("/v1/log/error"))
    connection.read()
    request = connection.wrappedProtocol._request
    request.write(b"")
    request.write(b"x")
    assert connection.read() == b"1\r\nx\r\n"
    connection.drop()
    writes = connection.writes
    request.write(b"y")
    request.finish()
    assert connection.writes == writes


# Peers that do not read


def big(house: House, connection: Transport) -> None:
    """Have an answer of 1.3 MB written, which the client does not read."""
    plaintext = base64.b64encode(b"p" * 700_000).decode()
    connection.send(put("/v1/key/encrypt/k", {"plaintext": plaintext}))
    assert connection.unread > HIGH_WATER


def test_a_peer_that_never_reads(house: House) -> None:
    """Who does not read what it asked for gets no more answers made, is read no further, and is cut off at 90 s."""
    connection = house.connect()
    big(house, connection)
    connection.send(get("/version", "X: " + "x" * 1000) * 200)
    assert house.codes == [200]
    assert connection.reading_paused
    house.reactor.advance(limits.IDLE_TIMEOUT - 1)
    assert not connection.aborted
    house.reactor.advance(1)
    assert connection.aborted
    house.reactor.turn()
    assert house.at_rest()


def test_a_peer_that_reads_late(house: House) -> None:
    """Who reads in the end gets everything, in order."""
    connection = house.connect()
    big(house, connection)
    connection.send(get("/nowhere"))
    assert house.codes == [200]
    house.reactor.advance(limits.IDLE_TIMEOUT - 1)
    assert [a.status for a in parse_answers(connection.read_all())] == [200, 404]
    house.reactor.advance(limits.IDLE_TIMEOUT - 1)
    assert not connection.closed


def test_unwritten_answers_are_bounded(house: House) -> None:
    """Many small requests with large answers are answered only as fast as the client reads."""
    connection = house.connect()
    requests = 900
    connection.send(get("/v1/metrics") * requests)
    size = connection.unread
    heard = connection.read()
    assert size < HIGH_WATER + limits.MAX_UNWRITTEN + 16 * 1024
    while connection.unread:
        heard += connection.read()
    assert len(parse_answers(heard)) == requests


def test_a_body_that_comes_while_the_peer_does_not_read(house: House) -> None:
    """A body whose last bytes came while writing was paused is answered once the peer reads."""
    connection = house.connect()
    big(house, connection)
    data = put("/v1/key/hmac/k", HMAC)
    connection.send(data[:-3])
    connection.send(data[-3:])
    assert [a.status for a in parse_answers(connection.read_all())] == [200, 200]


def test_a_slow_body_after_a_pause(house: House) -> None:
    """A pause in writing does not lift the body's time limit."""
    connection = house.connect()
    requests = get("/v1/metrics") * 100 + put("/v1/key/hmac/k", HMAC)[:-1]
    connection.send(requests)
    heard = connection.read_all()
    house.reactor.advance(15)
    answers = parse_answers(heard + connection.read_all())
    assert [a.status for a in answers] == [200] * 100 + [504]


def test_a_slow_body_during_a_pause(house: House) -> None:
    """A body that was awaited when writing paused has its time limit from when the peer reads again."""
    connection = house.connect()
    connection.send(get("/v1/metrics"))
    count = HIGH_WATER * 3 // 4 // len(connection.read())
    connection.send(get("/v1/metrics") * count)
    connection.send(get("/v1/metrics") * count + put("/v1/key/hmac/k", HMAC)[:-1])
    assert connection.wrappedProtocol._paused
    assert connection.wrappedProtocol._body is not None
    house.reactor.advance(60)
    heard = connection.read()
    house.reactor.advance(15)
    answers = parse_answers(heard + connection.read_all())
    assert [a.status for a in answers] == [200] * 2 * count + [504]


def test_many_small_requests_in_one_read(house: House) -> None:
    """However many requests come at once, answering them takes no deeper stack."""
    connection = house.connect()
    connection.send(get("/x") * 900)
    assert len(parse_answers(connection.read_all())) == 900


def test_a_last_answer_that_is_read_slowly(house: House) -> None:
    """The last answer is given the time that it needs: the connection closes once it is on its way."""
    connection = house.connect()
    plaintext = base64.b64encode(b"p" * 700_000).decode()
    connection.send(put("/v1/key/encrypt/k", {"plaintext": plaintext}, "Connection: close"))
    heard = b""
    while connection.unread:
        assert not connection.closed
        house.reactor.advance(limits.IDLE_TIMEOUT / 10)
        heard += connection.read(200_000)
    assert connection.closed
    assert parse_answers(heard)[0].status == 200


def test_a_refusal_after_answers_that_are_read_slowly(house: House) -> None:
    """Lingering for a peer that still sends begins when it has read what was written."""
    connection = house.connect()
    plaintext = base64.b64encode(b"p" * 700_000).decode()
    connection.send(put("/v1/key/encrypt/k", {"plaintext": plaintext}, "Connection: close") + b"garbage")
    house.reactor.advance(limits.IDLE_TIMEOUT - 1)
    assert parse_answers(connection.read())[0].status == 200
    assert not connection.closed
    house.reactor.advance(limits.LINGER_TIMEOUT)
    assert connection.closed


# The server stops


def test_stop_closes_idle_connections(house: House) -> None:
    """A connection that has had its answer closes at once when the server stops."""
    connection = house.connect()
    assert house.site.connections == {connection.wrappedProtocol}  # those that the service stops
    connection.send(get("/version"))
    connection.wrappedProtocol.stop()
    assert connection.closed
    connection.close()
    assert house.at_rest()


@pytest.mark.parametrize("sent", [0, 5])
def test_stop_waits_for_a_first_request(house: House, sent: int) -> None:
    """A client that was let in before the server stops has a request on its way; it is answered, as the last."""
    connection = house.connect()
    request = get("/version")
    connection.send(request[:sent])
    connection.wrappedProtocol.stop()
    assert not connection.closed
    connection.send(request[sent:])
    (answer,) = parse_answers(connection.read())
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert connection.closed


def test_stop_waits_for_handshakes(house: House) -> None:
    """So it is for a client in the middle of its handshake."""
    connection = house.open(Peer(ADDRESS, ADMIN))
    connection.wrappedProtocol.stop()
    assert not connection.aborted
    connection.wrappedProtocol.handshakeCompleted()
    connection.send(get("/version"))
    (answer,) = parse_answers(connection.read())
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert connection.closed


def test_stop_waits_for_a_running_request(cold: House) -> None:
    """A request under way is answered when the server stops, tells that it is the last, and those behind it are not."""
    connection = cold.connect()
    connection.send(put("/v1/key/hmac/cold", HMAC))
    connection.wrappedProtocol.stop()
    assert not connection.closed
    cold.threads.work()
    (answer,) = parse_answers(connection.read())
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert connection.closed


def test_drain_loses_no_request(cold: House) -> None:
    """A client that is to move to a new connection learns it from its next answer: what is on its way is served."""
    idle, busy = cold.connect(), cold.connect()
    busy.send(put("/v1/key/hmac/cold", HMAC))
    for connection in (idle, busy):
        connection.wrappedProtocol.drain()
        connection.wrappedProtocol.drain()
        assert not connection.closed
        assert not connection.unread
    idle.send(put("/v1/key/hmac/k", HMAC) + get("/version"))
    (answer,) = parse_answers(idle.read_all())
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert cold.codes == [200]
    cold.threads.work()
    busy.send(get("/version"))
    first, second = parse_answers(busy.read_all())
    assert (first.status, first.headers.get("connection")) == (200, None)
    assert (second.status, second.headers["connection"]) == (200, "close")
    assert busy.closed
    cold.reactor.advance(limits.LINGER_TIMEOUT)
    assert idle.closed


def test_drain_of_an_idle_connection(house: House) -> None:
    """A client that asks for nothing more loses its connection as any idle one does."""
    connection = house.connect()
    connection.wrappedProtocol.drain()
    house.reactor.advance(limits.IDLE_TIMEOUT)
    assert connection.closed
    connection.close()
    assert house.at_rest()


def test_drain_during_a_handshake(house: House) -> None:
    """A handshake that is under way ends as it began, and its connection stays."""
    connection = house.open(Peer(ADDRESS, ADMIN))
    connection.wrappedProtocol.drain()
    connection.wrappedProtocol.handshakeCompleted()
    connection.send(get("/version"))
    (answer,) = parse_answers(connection.read())
    assert (answer.status, answer.headers.get("connection")) == (200, None)


def test_too_many_connections(house: House) -> None:
    """Connections above the limit are cut off at once, and the log says so, once a minute."""
    room = limits.MAX_CONNECTIONS - len(house.site.connections)
    others = [house.site.buildProtocol(None) for _ in range(room)]
    house.site.connections.update(others)
    with house.logging():
        for _ in range(2):
            assert all(house.open(None).aborted for _ in range(3))
            house.reactor.advance(30)
        assert len(house.lines) == 1
        assert f'level=WARN msg="new connections are refused: {limits.MAX_CONNECTIONS} are open"' in house.lines[0]
        assert house.open(None).aborted
        assert len(house.lines) == 2
    house.reactor.turn()
    assert house.metrics.connections_refused == 7
    assert not any(house.metrics.handshakes_failed.values())
    assert len(house.site.connections) == limits.MAX_CONNECTIONS
    house.site.connections.discard(others[0])
    assert not house.open(None).aborted


def test_chunk_sizes_of_every_length(house: House) -> None:
    """However small the chunks, the body is their sum."""
    body = json.dumps(HMAC).encode()
    for size in range(1, len(body) + 1):
        parts = [body[at : at + size] for at in range(0, len(body), size)]
        data = get("/v1/key/hmac/k", "Transfer-Encoding: chunked", method="PUT")
        assert statuses(house, data + b"".join(map(chunk, parts)) + b"0\r\n\r\n") == [200]


def test_a_cached_request_of_the_app(house: House) -> None:
    """A policy allows what it says and no more, on one connection."""
    data = put("/v1/key/generate/k") + put("/v1/key/generate/secret") + get("/v1/status")
    assert statuses(house, data, APP) == [200, 403, 403]
