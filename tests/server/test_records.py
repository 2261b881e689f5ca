"""Reading records, both ways that it can be done: what is whole is there, and what else has come is found after it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from cryptography import x509
from OpenSSL import SSL

from kes.certificate import load_private_key, make_server_certificate
from kes.server import records
from kes.server.records import RECORD, read_records

Read = Callable[[SSL.Connection], tuple[bytes, bool]]


@pytest.fixture(params=[read_records, records._read_one_by_one], ids=["at once", "one by one"])
def read(request: pytest.FixtureRequest) -> Read:
    return request.param


class Ends:
    """The two ends of a connection in memory, their handshake done."""

    def __init__(self) -> None:
        cert, key = make_server_certificate(["127.0.0.1"], datetime.now(UTC))
        context = SSL.Context(SSL.TLS_METHOD)
        context.use_certificate(x509.load_pem_x509_certificate(cert))
        context.use_privatekey(load_private_key(key, None))
        self.server, self.client = SSL.Connection(context, None), SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
        self.server.set_accept_state()
        self.client.set_connect_state()
        done: set[SSL.Connection] = set()
        while len(done) < 2:
            for end, other in ((self.client, self.server), (self.server, self.client)):
                try:
                    end.do_handshake()
                    done.add(end)
                except SSL.WantReadError:
                    pass
                self._carry(end, other)
        with pytest.raises(SSL.WantReadError):
            self.client.recv(1)  # what comes right after the handshake

    @staticmethod
    def _carry(end: SSL.Connection, other: SSL.Connection) -> None:
        try:
            while True:
                other.bio_write(end.bio_read(RECORD))
        except SSL.WantReadError:
            pass

    def sent(self, *contents: bytes) -> bytes:
        """The records of a client that sends each of `contents` by itself."""
        data = b""
        for content in contents:
            while content:
                content = content[self.client.send(content) :]
                data += self._taken()
        return data

    def _taken(self) -> bytes:
        data = b""
        try:
            while True:
                data += self.client.bio_read(RECORD)
        except SSL.WantReadError:
            return data


def test_the_library_is_called_in_a_loop() -> None:
    """With the pyOpenSSL that is installed, records are read the fast way."""
    assert records._buffer is not None


def test_many_at_once(read: Read) -> None:
    """Records that have come together are read together, in their order; then there is nothing."""
    ends = Ends()
    parts = [b"%d " % number for number in range(1000)]
    ends.server.bio_write(ends.sent(*parts))
    assert read(ends.server) == (b"".join(parts), True)
    assert read(ends.server) == (b"", True)


def test_a_part_waits(read: Read) -> None:
    """A record that is not all there is left until it is."""
    ends = Ends()
    data = ends.sent(b"whole", b"part")
    ends.server.bio_write(data[:-1])
    assert read(ends.server) == (b"whole", True)
    ends.server.bio_write(data[-1:])
    assert read(ends.server) == (b"part", True)


def test_more_than_fits(read: Read) -> None:
    """However much has come, all of it is read in the end."""
    ends = Ends()
    content = bytes(range(256)) * 4096
    ends.server.bio_write(ends.sent(content))
    received = b""
    complete = False
    while not complete:
        part, complete = read(ends.server)
        received += part
    assert received == content


def test_the_end_is_found_after_what_came_before(read: Read) -> None:
    """The peer's closing the connection is told by the next call, as it would have been without."""
    ends = Ends()
    data = ends.sent(b"goodbye")
    ends.client.shutdown()
    ends.server.bio_write(data + ends._taken())
    assert read(ends.server) == (b"goodbye", False)
    with pytest.raises(SSL.ZeroReturnError):
        ends.server.recv(RECORD)


def test_damage_is_found_after_what_came_before(read: Read) -> None:
    """A record that was tampered with ends the connection, not what came before it."""
    ends = Ends()
    data = bytearray(ends.sent(b"good", b"bad"))
    data[-1] ^= 1
    ends.server.bio_write(bytes(data))
    assert read(ends.server) == (b"good", False)
    with pytest.raises(SSL.Error) as caught:
        ends.server.recv(RECORD)
    assert not isinstance(caught.value, SSL.WantReadError | SSL.ZeroReturnError)
