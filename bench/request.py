"""Where the CPU time of one generate request goes, layer by layer, as a table: `python bench/request.py`.

All of it runs in this process and thread, without sockets: what a client sent, as it came off the network, is given to
the server's TLS layer, its connection, its resource and its key, each without those around it. A layer's share is the
difference. The requests are as the official SDK makes them: over HTTP/2 three frames, each in a TLS record of its own.
"""

from __future__ import annotations

import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from hpack import Encoder
from twisted.internet.testing import StringTransport

sys.path.insert(0, str(Path(__file__).parent.parent))

from kes.certificate import make_server_certificate
from kes.config import level
from kes.server.http import frames
from kes.server.tls import Context, ServerTLS, Settings, TLSFactory
from tests.server.memory import POLICY, House, chunked, put
from tests.support import APP, client_context

ROUNDS = 400
AT_ONCE = 12  # requests that one read brings over HTTP/2 when 32 are under way
KEY = "k"
CONTEXT = b"bucket/object"
BODY = b'{"context":"YnVja2V0L29iamVjdA=="}'
TARGET = f"/v1/key/generate/{KEY}"


class Transport(StringTransport):
    """TCP, less the network."""

    def setTcpNoDelay(self, enabled: bool) -> None: ...
    def setTcpKeepAlive(self, enabled: bool) -> None: ...


class Client:
    """The SDK's side of a connection in memory: what it sends, in TLS records or in the clear."""

    def __init__(self, http2: bool) -> None:
        self._http2 = http2
        self._encoder = Encoder()
        self._stream = -1

    def hello(self) -> list[bytes]:
        return [frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 22})] if self._http2 else []

    def requests(self, count: int) -> list[bytes]:
        """`count` requests, in the pieces in which they are written."""
        if not self._http2:
            head, _, rest = chunked(TARGET, BODY, method="POST").partition(b"\r\n\r\n")
            fields = b"User-Agent: Go-http-client/1.1\r\nContent-Type: application/json\r\nAccept-Encoding: gzip"
            last = b"0\r\n\r\n"
            return [head + b"\r\n" + fields + b"\r\n\r\n", rest.removesuffix(last), last] * count
        pieces = []
        for _ in range(count):
            self._stream += 2
            block = self._encoder.encode(
                [
                    (":authority", "127.0.0.1:7373"),
                    (":method", "POST"),
                    (":path", TARGET),
                    (":scheme", "https"),
                    ("content-type", "application/json"),
                    ("accept-encoding", "gzip"),
                    ("user-agent", "Go-http-client/2.0"),
                ]
            )
            pieces += [
                frames.header(len(block), frames.HEADERS, frames.END_HEADERS, self._stream) + block,
                frames.header(len(BODY), frames.DATA, 0, self._stream) + BODY,
                frames.header(0, frames.DATA, frames.END_STREAM, self._stream),
            ]
        return [*pieces, frames.window_update(0, count * 256)]


def timed(work: Callable[[bytes], object], inputs: list[bytes], count: int) -> float:
    """Microseconds of CPU time by request: the median over `inputs`, each of `count` requests."""
    times = []
    for data in inputs:
        begun = time.process_time_ns()
        work(data)
        times.append((time.process_time_ns() - begun) / count / 1000)
    return statistics.median(times)


def make_house() -> House:
    """A server with its policies, and console audit off."""
    house = House()
    house.make_key(KEY)
    house.audit_log.level = level.OFF
    house.site.state = replace(house.site.state, assigned={APP.identity: POLICY})
    return house


def over_tls(http2: bool, count: int, folder: Path) -> float:
    """A request, from TLS records to TLS records."""
    house = make_house()
    settings = Settings("cert", "key", auth=False)
    tls = ServerTLS(Context(settings, *make_server_certificate(["127.0.0.1"], datetime.now(UTC))))
    house.site._peer_of = tls.peer
    protocol = TLSFactory(tls, False, house.site, house.reactor).buildProtocol(None)
    transport = Transport()
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = client_context(folder, APP)
    context.set_alpn_protocols(["h2" if http2 else "http/1.1"])
    client = context.wrap_bio(received, sent)
    protocol.makeConnection(transport)
    done = False
    while not done:
        try:
            client.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            pass
        protocol.dataReceived(sent.read() or b"")
        received.write(transport.value())
        transport.clear()

    def records(pieces: list[bytes]) -> bytes:
        for piece in pieces:
            client.write(piece)
        return sent.read()

    sender = Client(http2)
    for hello in sender.hello():
        protocol.dataReceived(records([hello]))

    def work(data: bytes) -> None:
        protocol.dataReceived(data)
        transport.clear()

    return timed(work, [records(sender.requests(count)) for _ in range(ROUNDS)], count)


def in_clear(http2: bool, count: int) -> float:
    """A request, from bytes to bytes."""
    connection = make_house().connect(APP.identity, speaks=b"h2" if http2 else None)
    sender = Client(http2)
    for hello in sender.hello():
        connection.send(hello)

    def work(data: bytes) -> None:
        connection.wrappedProtocol.dataReceived(data)
        connection.read()

    return timed(work, [b"".join(sender.requests(count)) for _ in range(ROUNDS)], count)


def handling() -> tuple[float, float]:
    """What the resource does, from the request's body to the answer's, and what of that is cryptography."""
    house = make_house()
    resource, path, name = house.site.locate(TARGET.encode())
    connection = house.connect(APP.identity)
    connection.send(put(TARGET, BODY)[:-1])
    request = connection.wrappedProtocol._request
    assert request is not None
    request.path, request.argument, request.state = path, name, house.site.state
    key = house.keys.peek(KEY)
    assert key is not None
    secret = key.secret

    def handle(body: bytes) -> None:
        request.body = body
        for _ in range(100):
            resource.handle(request)

    def encrypt(_: bytes) -> None:
        for _ in range(100):
            secret.generate_data_key(CONTEXT)

    return timed(handle, [BODY] * ROUNDS, 100), timed(encrypt, [BODY] * ROUNDS, 100)


def main() -> None:
    handler, cryptography = handling()
    print(f"{'µs of CPU by request':<32}{'total':>7}{'TLS':>7}{'HTTP':>7}{'handler':>9}{'cryptography':>14}")
    with tempfile.TemporaryDirectory() as folder:
        for title, http2, count in (
            ("HTTP/2, one in a read", True, 1),
            (f"HTTP/2, {AT_ONCE} in a read", True, AT_ONCE),
            ("HTTP/1.1, one in a read", False, 1),
        ):
            total, clear = over_tls(http2, count, Path(folder)), in_clear(http2, count)
            http, rest = clear - handler, handler - cryptography
            print(f"{title:<32}{total:7.1f}{total - clear:7.1f}{http:7.1f}{rest:9.1f}{cryptography:14.1f}")


if __name__ == "__main__":
    main()
