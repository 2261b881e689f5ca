"""What only real TLS on real sockets shows: what reaches a client that does not play by the rules."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from twisted.internet.testing import StringTransport

from kes.certificate import make_server_certificate
from kes.server.http import limits
from kes.server.tls import Context, ServerTLS, Settings, TLSFactory
from tests.server.memory import House, get, put
from tests.support import ADMIN, READY, TIMEOUT, Server, client_context, start


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start(tmp_path_factory.mktemp("sockets"), log={"audit": "on"}) as server:
        yield server


@pytest.fixture
def connection(server: Server) -> Iterator[ssl.SSLSocket]:
    with connect(server) as connection:
        yield connection


def connect(server: Server) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", server.port), TIMEOUT)
    return client_context(server.folder, ADMIN).wrap_socket(raw)


def read_answers(connection: ssl.SSLSocket, count: int) -> list[int]:
    """The statuses of the next `count` answers."""
    statuses = []
    with connection.makefile("rb") as stream:
        for _ in range(count):
            statuses.append(int(stream.readline().split()[1]))
            headers = http.client.parse_headers(stream)
            stream.read(int(headers["Content-Length"]))
    return statuses


def test_pipelined_requests(connection: ssl.SSLSocket) -> None:
    """Requests that are sent at once are answered in their order, with store calls among them."""
    requests = [
        (get("/version"), 200),
        (put("/v1/key/create/pipelined"), 200),
        (get("/nowhere"), 404),
        (put("/v1/key/generate/pipelined"), 200),
        (put("/v1/key/create/pipelined"), 400),
        (put("/v1/key/generate/pipelined", {}), 200),
        (get("/v1/status", method="DELETE"), 405),
    ]
    connection.sendall(b"".join(data for data, _ in requests))
    assert read_answers(connection, len(requests)) == [status for _, status in requests]


def test_a_truncated_request(server: Server, connection: ssl.SSLSocket) -> None:
    """A client that goes in the middle of its body leaves one audit event, and the server in order."""
    connection.sendall(put("/v1/key/encrypt/truncated", b"{}")[:-1])
    connection.unwrap().close()
    event = json.loads(server.wait_for("/v1/key/encrypt/truncated"))
    assert event["response"]["code"] == 400
    metrics = server.client().request("GET", "/v1/metrics").body
    assert b"\nkes_http_request_active 0\n" in metrics
    assert sum("/v1/key/encrypt/truncated" in line for line in server.out) == 1


def test_a_reset_connection(server: Server, connection: ssl.SSLSocket) -> None:
    """A client that vanishes without a word does no harm either."""
    connection.sendall(put("/v1/key/encrypt/reset", b"{}", "Expect: 100-continue")[:-2])
    assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
    # Close by a reset.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    connection.close()
    assert json.loads(server.wait_for("/v1/key/encrypt/reset"))["response"]["code"] == 400


@pytest.mark.parametrize("chunked", [False, True])
def test_the_answer_to_a_body_that_is_too_large(server: Server, chunked: bool) -> None:
    """A client that sends all of 2 MiB before it reads gets the 413: no reset takes it away."""
    answer = server.client().request("PUT", "/v1/key/encrypt/k", b" " * (2 * limits.MAX_BODY), chunked=chunked)
    assert (answer.status, answer.message) == (413, "request body is too large")


def test_a_client_that_does_not_read(server: Server) -> None:
    """A client that sends and does not read holds up nobody, and finds every answer when it reads."""
    count = 3000
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context(server.folder, ADMIN).wrap_bio(incoming, outgoing)
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as raw:
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                raw.sendall(outgoing.read())
                incoming.write(raw.recv(65536))
            else:
                break
        # All is encrypted now: one TLS object must not be used by two threads.
        tls.write(get("/v1/api", "X: " + "x" * 1000) * count)
        sender = threading.Thread(target=raw.sendall, args=(outgoing.read(),), daemon=True)
        sender.start()
        assert server.client().request("GET", "/version").status == 200
        heard = b""
        while heard.count(b"HTTP/1.1 200 OK\r\n") < count:
            incoming.write(raw.recv(65536))
            with suppress(ssl.SSLWantReadError):
                while part := tls.read(65536):
                    heard += part
        sender.join(TIMEOUT)
    assert heard.count(b"HTTP/1.1 ") == count


def test_plain_text_is_no_handshake(server: Server) -> None:
    """HTTP without TLS ends the connection and nothing else."""
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as raw:
        raw.sendall(get("/version"))
        heard = b""
        while part := raw.recv(4096):
            heard += part
    assert b"HTTP" not in heard
    assert server.client().request("GET", "/version").status == 200


def test_a_stream_until_the_server_stops(tmp_path: Path) -> None:
    """A log stream begins at once, brings events, and ends in order when the server stops."""
    with start(tmp_path) as server:
        client = server.client()
        client.connection.request("GET", "/v1/log/audit")
        response = client.connection.getresponse()
        assert json.loads(response.readline())["request"]["path"] == "/v1/log/audit"
        other = server.client()
        other.request("GET", "/version")
        other.close()
        assert json.loads(response.readline())["request"]["path"] == "/version"
        server.process.terminate()
        assert response.read() == b""  # IncompleteRead if the end were cut off
        client.close()
        assert server.process.wait(TIMEOUT) == 0
    assert READY in "".join(server.out)


def test_too_many_connections_under_tls() -> None:
    """A connection above the limit is cut off before its handshake, with nothing raised into Twisted's accept loop."""
    house = House()
    house.site.connections.update(house.site.buildProtocol(None) for _ in range(limits.MAX_CONNECTIONS))
    cert, key = make_server_certificate([], datetime.now(UTC))
    tls = ServerTLS(Context(Settings(cert="cert", key="key", auth=False), cert, key))
    factory = TLSFactory(tls, False, house.site, house.reactor)
    transport = StringTransport()
    factory.buildProtocol(transport.getPeer()).makeConnection(transport)
    assert transport.disconnected
    assert transport.value() == b""
