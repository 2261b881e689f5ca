"""What servers answer, ours, old and broken ones."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kes import errors as wire
from kes.client import (
    AuditEvent,
    CertificateRequired,
    Client,
    ConnectionFailed,
    DataKey,
    IdentityNotFound,
    InvalidKey,
    InvalidResponse,
    KeyExists,
    KeyNotFound,
    KeyStoreFailed,
    KeyStoreUnreachable,
    LogClosed,
    NoHMAC,
    NotAllowed,
    NotAuthentic,
    PolicyNotFound,
    ServerError,
    Settings,
    TimedOut,
)
from kes.client.aio import AsyncClient
from kes.client.errors import server_error
from kes.client.metrics import parse_metrics
from tests.client.fake import FakeServer, reply
from tests.support import ADMIN, Server

Make = Callable[..., Any]


@pytest.fixture
def answering(connect: Make, fake: Callable[..., FakeServer], certificate: Path) -> Callable[..., Any]:
    """Makes clients of a server that answers everything with one thing."""

    def make(answer: bytes) -> Any:
        return connect(fake(lambda _: answer).address, ca_file=str(certificate))

    return make


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (wire.KeyExists(), KeyExists),
        (wire.KeyNotFound(), KeyNotFound),
        (wire.PolicyNotFound(), PolicyNotFound),
        (wire.IdentityNotFound(), IdentityNotFound),
        (wire.NotAllowed(), NotAllowed),
        (wire.NotAuthentic(), NotAuthentic),
        (wire.NoHMAC(), NoHMAC),
        (wire.CertificateRequired(), CertificateRequired),
        (wire.InvalidKeySize("AES256"), InvalidKey),
        (wire.StoreFailed("failed to read key"), KeyStoreFailed),
        (wire.StoreUnreachable("failed to read key"), KeyStoreUnreachable),
        (wire.TimedOut(), TimedOut),
        (wire.InvalidBody(), ServerError),
        (wire.APIError(), ServerError),
    ],
)
def test_each_error_has_its_class(answer: wire.APIError, kind: type[ServerError]) -> None:
    """Each error of the server becomes its class, with status and text unchanged."""
    error = server_error(answer.status, answer.message, "host:1")
    assert type(error) is kind
    assert (error.status, error.message, str(error), error.endpoint) == (
        answer.status,
        answer.message,
        answer.message,
        "host:1",
    )


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (400, b'{"error":"key does already exist"}', KeyExists, "key already exists"),
        (403, b'{"message":"prohibited by policy"}', NotAllowed, "not authorized: insufficient permissions"),
        (500, b'{"message":"one","error":"two"}', ServerError, "two"),
        (500, b"plain text\n", ServerError, "plain text"),
        (500, b"\xff{", ServerError, "\ufffd{"),
        (500, b"", ServerError, "the server answered with status 500"),
        (500, b'{"message":"a\\nb"}', ServerError, "a b"),
        (204, b"", ServerError, "the server answered with status 204"),
        (302, b"elsewhere", ServerError, "elsewhere"),
    ],
)
def test_error_bodies(
    answering: Callable[..., Any], status: int, body: bytes, kind: type[ServerError], text: str
) -> None:
    """Old texts are understood, JSON's `error` goes before `message`, other bodies are text; only 200 is success."""
    with pytest.raises(ServerError) as caught:
        answering(reply(status, body)).ready()
    assert (type(caught.value), str(caught.value), caught.value.status) == (kind, text, status)


@pytest.mark.parametrize("field", ["keystore_unreachable", "keystore_unavailable"])
def test_either_field_says_that_the_key_store_is_down(answering: Callable[..., Any], field: str) -> None:
    """Old servers send one of the two only (D22); unknown fields are passed over."""
    status = answering(reply(body={"version": "v", field: True, "new": {}})).status()
    assert (status.keystore_unreachable, status.keystore_latency) == (True, 0)


@pytest.mark.parametrize(
    "body",
    [
        {"identity": "i", "policy": "p", "allow": {"/b": {}, "/a": {}}, "deny": {"/c": {}}},
        {"identity": "i", "policy": {"name": "p", "allow": {"/b": {}, "/a": {}}, "deny": {"/c": {}}}},
    ],
    ids=["ours", "reference"],
)
def test_both_forms_of_describe_self(answering: Callable[..., Any], body: Any) -> None:
    """A policy may come as its name beside its rules, or as an object."""
    me = answering(reply(body=body)).describe_self()
    assert (me.identity, me.policy, me.allow, me.deny, me.created_at) == ("i", "p", ("/a", "/b"), ("/c",), None)


def test_unknown_time(answering: Callable[..., Any]) -> None:
    """The zero time means that the time is not known."""
    key = answering(reply(body={"name": "k", "created_at": "0001-01-01T00:00:00Z"})).describe_key("k")
    assert (key.created_at, key.created_by) == (None, "")


@pytest.mark.parametrize(
    "answer",
    [
        reply(body=b"secret text"),
        reply(body={"ciphertext": "?", "plaintext": "?"}),
        reply(body=[]),
        b"secret text\r\n\r\n",
        reply(body=b"[" * 100_000),
    ],
    ids=["no JSON", "no base64", "no object", "no HTTP", "deep"],
)
def test_what_is_no_answer(answering: Callable[..., Any], answer: bytes) -> None:
    """What cannot be understood is InvalidResponse, and is not quoted: it may hold a plaintext."""
    with pytest.raises(InvalidResponse) as caught:
        answering(answer).decrypt("k", b"c")
    assert "secret" not in str(caught.value)


def test_answers_are_bounded(answering: Callable[..., Any]) -> None:
    """An answer with more bytes than any has is not read to its end."""
    with pytest.raises(InvalidResponse, match="larger than 4194304 bytes"):
        answering(reply(body=bytes((4 << 20) + 1))).describe_key("k")
    with pytest.raises(InvalidResponse, match="larger than 1048576 bytes"):
        answering(reply(500, bytes((1 << 20) + 1))).describe_key("k")


def test_an_answer_before_the_request_is_read(
    connect: Make, fake: Callable[..., FakeServer], certificate: Path
) -> None:
    """A server that refuses a body without reading it, and closes, is heard all the same."""
    server = fake(lambda _: reply(413, {"message": "request body is too large"}), once=True, read_bodies=False)
    with pytest.raises(ServerError, match=r"^request body is too large$"):
        connect(server.address, ca_file=str(certificate)).hmac("k", bytes(16 << 20))


def test_long_listings_are_read(answering: Callable[..., Any]) -> None:
    """The bound of a page is far above that of the SDK, 1 MiB."""
    names = [f"{n:080}" for n in range(60_000)]
    assert answering(reply(body={"names": names})).list_keys() == names


@pytest.mark.parametrize("size", [-1, 20], ids=["body", "head"])
def test_half_an_answer(connect: Make, fake: Callable[..., FakeServer], certificate: Path, size: int) -> None:
    """An answer that breaks off is a lost connection, not a short answer."""
    server = fake(lambda _: reply(body={"version": "v"})[:size], once=True)
    with pytest.raises(ConnectionFailed, match="the server closed the connection") as caught:
        connect(server.address, ca_file=str(certificate)).version()
    assert caught.value.sent


def test_closed(server: Server) -> None:
    """A closed client sends nothing; closing it again does nothing."""
    client = Client(Settings(f"127.0.0.1:{server.port}", api_key=str(ADMIN), insecure=True, environ={}))
    client.version()
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.version()


def test_log_events(answering: Callable[..., Any]) -> None:
    """Events come whole, however they are cut; blank lines are passed over; the server's last word is LogClosed."""
    event = b'{"time":"1970-01-01T00:00:01Z","request":{"path":"/a"},"response":{"code":200,"time":5},"x":1}'
    client = answering(reply(body=event + b"\n\n" + event + b'\n{"message":"too slow"}\n'))
    with client.audit_log() as events:
        first = next(events)
        assert (first.time, first.path, first.ip, first.status, first.latency) == (10**9, "/a", "", 200, 5)
        assert first.line == next(events).line == event
        with pytest.raises(LogClosed, match=r"^too slow$"):
            next(events)


def test_log_ends(answering: Callable[..., Any]) -> None:
    """A stream that the server ends is an iterator that ends."""
    with answering(reply(body=b'{"message":"one"}\n')).error_log() as events:
        assert [event.message for event in events] == ["one"]


def test_log_breaks(connect: Make, fake: Callable[..., FakeServer], certificate: Path) -> None:
    """A stream that breaks off is a lost connection."""
    chunk = b'{"message":"one"}\n'
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(chunk), chunk)
    server = fake(lambda _: head)
    with connect(server.address, ca_file=str(certificate)).error_log() as events:
        assert next(events).message == "one"
        server.stop()
        with pytest.raises(ConnectionFailed):
            next(events)


def test_a_log_can_be_closed_by_another_thread(server: Server) -> None:
    """Closing a stream ends the wait for its next event."""
    settings = Settings(f"127.0.0.1:{server.port}", api_key=str(ADMIN), insecure=True, environ={})
    first = threading.Event()

    def read(events: Iterable[AuditEvent]) -> int:
        count = 0
        for _ in events:
            count += 1
            first.set()
        return count

    with Client(settings) as client, ThreadPoolExecutor(1) as threads, client.audit_log() as events:
        waiting = threads.submit(read, events)
        client.version()
        assert first.wait(20)
        events.close()
        assert waiting.result(20) >= 1


def test_a_log_can_be_closed_by_another_task(server: Server) -> None:
    """The same with tasks."""
    settings = Settings(f"127.0.0.1:{server.port}", api_key=str(ADMIN), insecure=True, environ={})

    async def main() -> None:
        async with AsyncClient(settings) as client, client.error_log() as events:
            waiting = asyncio.ensure_future(anext(events, None))
            await asyncio.sleep(0)
            assert not waiting.done()
            events.close()
            assert await asyncio.wait_for(waiting, 20) is None

    asyncio.run(main())


def test_one_client_for_many_threads(server: Server) -> None:
    """Threads may share a client; it opens no more connections than it may."""
    settings = Settings(f"127.0.0.1:{server.port}", api_key=str(ADMIN), insecure=True, environ={}, max_connections=3)
    with Client(settings) as client, ThreadPoolExecutor(8) as threads:
        client.create_key("threads")
        keys = list(threads.map(lambda _: client.generate_key("threads"), range(100)))
        plaintexts = list(threads.map(lambda key: client.decrypt("threads", key.ciphertext), keys))
        client.delete_key("threads")
    assert plaintexts == [key.plaintext for key in keys]


@pytest.mark.parametrize("limit", [1, 5])
def test_one_client_for_many_tasks(fake: Callable[..., FakeServer], certificate: Path, limit: int) -> None:
    """Tasks may share a client; it opens no more connections than it may."""
    server = fake(lambda request: reply(body={"hmac": request.json["message"]}))
    settings = Settings(server.address, api_key=str(ADMIN), ca_file=str(certificate), environ={}, max_connections=limit)

    async def main() -> list[bytes]:
        async with AsyncClient(settings) as client:
            return await asyncio.gather(*(client.hmac("k", b"%d" % n) for n in range(50)))

    assert asyncio.run(main()) == [b"%d" % n for n in range(50)]
    assert server.connections <= limit


def test_a_cancelled_call_leaves_nothing_behind(fake: Callable[..., FakeServer], certificate: Path) -> None:
    """A connection whose answer nobody waits for any more is not used again."""
    answers = iter([b"HTTP/1.1 200 OK\r\n", reply()])
    server = fake(lambda _: next(answers))
    settings = Settings(server.address, api_key=str(ADMIN), ca_file=str(certificate), environ={}, max_connections=1)

    async def main() -> None:
        async with AsyncClient(settings) as client:
            call = asyncio.ensure_future(client.ready())
            while not server.requests:
                await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await client.ready()

    asyncio.run(main())
    assert server.connections == 2


def test_data_keys_are_not_shown() -> None:
    """Neither repr nor str of a data key holds it."""
    key = DataKey(b"hidden", b"sealed")
    assert repr(key) == str(key) == "DataKey(…)"


def test_metrics() -> None:
    """Counters are summed over labels; unknown families, comments and timestamps are passed over."""
    text = b"""# HELP x y
kes_http_request_success{code="200"} 3
kes_http_request_success{code="201",x="a}b\\"c"} 4 1700000000000
kes_http_request_error{code="404"} 1e1
kes_http_response_time_bucket{le="0.01"} 5
kes_http_response_time_bucket{le="+Inf"} 9
kes_system_up_time 1.5
new_family{a="b"} NaN
"""
    metrics = parse_metrics(text)
    assert (metrics.requests_ok, metrics.requests_err, metrics.requests_fail) == (7, 10, 0)
    assert (metrics.latency, metrics.uptime) == ({0.01: 5}, 1.5)


@pytest.mark.parametrize(
    "text",
    [
        b"\xff",
        b"a b c d",
        b"a x",
        b"kes_http_request_success NaN",
        b"kes_system_up_time +Inf",
        b'kes_http_response_time_bucket{le="NaN"} 1',
    ],
)
def test_what_is_no_metrics(text: bytes) -> None:
    """What is no Prometheus text, or no number where one is due, is InvalidResponse."""
    with pytest.raises(InvalidResponse):
        parse_metrics(text)


def test_the_plain_client_is_quick_to_import() -> None:
    """What takes long to import is imported only when it is needed: for a command the import is most of its time."""
    import subprocess
    import sys

    heavy = ("asyncio", "cryptography", "twisted", "ifaddr", "email", "logging", "urllib.request")
    code = f"import sys, kes.client; print([m for m in {heavy!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
