"""Connections that write at the end of a turn, on real sockets: whatever the peer does, nothing is lost."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from kes.server.tcp import Turn

MIB = 1024 * 1024


class Producer:
    """What a transport tells its producer."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def pauseProducing(self) -> None:
        self.heard.append("pause")

    def resumeProducing(self) -> None:
        self.heard.append("resume")

    def stopProducing(self) -> None:
        self.heard.append("stop")


class Pair:
    """A connection: the server's transport, and the client's socket, which does not block."""

    def __init__(self, reactor: MemoryReactorClock | None = None, turn: Turn | None = None) -> None:
        self.reactor = reactor or MemoryReactorClock()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.client = socket.create_connection(listening.getsockname())
            self._accepted, address = listening.accept()
        self._accepted.setblocking(False)
        self.client.setblocking(False)
        turn = turn or Turn(self.reactor)
        self.server = turn.connect(self._accepted, Protocol(), address, None, 0, self.reactor)

    def turn(self) -> object:
        """End the reactor's turn, and write once where it waits for that; what `doWrite` says of it."""
        self.reactor.advance(0)
        return self.server.doWrite() if self.server in self.reactor.getWriters() else None

    def read(self) -> bytes:
        try:
            return self.client.recv(MIB)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        self.client.close()
        self._accepted.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


def test_one_turn_is_one_piece(pair: Pair) -> None:
    """What is written in one turn goes out when it ends, at once, and the reactor is not asked to write."""
    pair.server.write(b"one ")
    pair.server.write(b"two ")
    assert pair.read() == b""
    pair.reactor.advance(0)
    assert pair.read() == b"one two "
    assert not pair.reactor.getWriters()
    pair.server.write(b"three")
    pair.turn()
    assert pair.read() == b"three"


def test_every_connection_has_its_turn() -> None:
    """Connections that write in the same turn each send their own, also when one of them is gone by then."""
    reactor = MemoryReactorClock()
    turn = Turn(reactor)
    pairs = [Pair(reactor, turn) for _ in range(3)]
    for number, pair in enumerate(pairs):
        pair.server.write(b"%d" % number)
    pairs[1].server.connectionLost(Failure(ConnectionLost()))
    reactor.advance(0)
    assert [pair.read() for pair in pairs] == [b"0", b"", b"2"]
    for pair in pairs:
        pair.close()


def test_a_slow_peer_gets_all_in_order(pair: Pair) -> None:
    """What the kernel does not take waits for the reactor, later writes behind it, and the producer is told."""
    producer = Producer()
    pair.server.registerProducer(producer, True)
    sent = b"".join(b"%08d" % number for number in range(MIB))
    at = received = 0
    content = bytearray()
    while received < len(sent):
        if at < len(sent) and producer.heard[-1:] != ["pause"]:
            pair.server.write(sent[at : at + 300_000])
            pair.server.write(sent[at + 300_000 : at + 400_000])
            at += 400_000
        else:
            content += pair.read()
            received = len(content)
        pair.turn()
    assert content == sent
    assert "pause" in producer.heard
    assert producer.heard[-1] == "resume"
    assert not pair.reactor.getWriters()


def test_much_in_one_turn_pauses_within_it(pair: Pair) -> None:
    """A producer that writes on and on in one turn is paused when what waits is more than the transport's buffer."""
    producer = Producer()
    pair.server.registerProducer(producer, True)
    written = 0
    while not producer.heard and written < 64 * MIB:
        pair.server.write(bytes(64 * 1024))
        written += 64 * 1024
    assert producer.heard == ["pause"]


def test_a_last_word_is_sent(pair: Pair) -> None:
    """What was written before the connection is closed arrives, and then its end."""
    pair.server.write(b"the last word")
    pair.server.loseConnection()
    assert pair.read() == b"the last word"
    reason = pair.turn()
    assert isinstance(reason, ConnectionDone)
    pair.server.connectionLost(Failure(reason))
    assert pair.client.recv(1) == b""


def test_a_peer_that_is_gone(pair: Pair) -> None:
    """An error is left for the reactor, which meets it at its own try, and ends the connection as always."""
    pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    pair.client.close()
    pair.server.write(b"is anybody there?")
    assert isinstance(pair.turn(), ConnectionLost)
