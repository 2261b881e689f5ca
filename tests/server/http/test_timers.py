"""The cost of time limits when thousands of connections are open: Twisted's own heap of timers, and a count of the
comparisons that are made in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest
from twisted.internet import base

from kes.server.http import limits
from tests.server.http.h2client import Client
from tests.server.memory import House, get

OPEN: Final = 4000  # idle connections
SHORT: Final = 200  # connections that come and go meanwhile
MOST: Final = 100  # comparisons for each of these: a few times the heap's depth for each of its timers


class CountedCall(base.DelayedCall):
    """A timer that counts how often timers are compared."""

    comparisons = 0

    def __eq__(self, other: object) -> bool:
        CountedCall.comparisons += 1
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __le__(self, other: base.DelayedCall) -> bool:
        CountedCall.comparisons += 1
        return super().__le__(other)

    def __lt__(self, other: base.DelayedCall) -> bool:
        CountedCall.comparisons += 1
        return super().__lt__(other)


class TimersOnly(base.ReactorBase):
    """The timers of Twisted's reactors, on a clock that the test moves. It has no files and no threads."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__()

    def seconds(self) -> float:
        return self._now

    def _initThreads(self) -> None: ...
    def installWaker(self) -> None: ...

    def callFromThread(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.callLater(0, function, *arguments)

    def advance(self, seconds: float) -> None:
        self._now += seconds
        self.runUntilCurrent()

    def turn(self) -> None:
        self.advance(0)


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> House:
    """A server with idle connections of both protocols, all of which have had a request answered."""
    monkeypatch.setattr(base, "DelayedCall", CountedCall)
    house = House(reactor=TimersOnly())
    house.make_key("k")
    for number in range(OPEN):
        house.reactor.advance(0.001)
        if number % 2:
            client = Client(house)
            client.ask(client.get("/version"))
        else:
            house.connect().send(get("/version"))
    # Now every timer is set to the time limit of an idle connection.
    house.reactor.advance(2 * limits.HEAD_TIMEOUT)
    return house


def http1(house: House) -> None:
    """A request in two pieces, which has a time limit of its own, and the end of the connection by the server."""
    connection = house.connect()
    request = get("/version", "Connection: close")
    connection.send(request[:10])
    house.reactor.turn()
    connection.send(request[10:])
    house.reactor.turn()
    assert connection.read_all().startswith(b"HTTP/1.1 200")
    connection.close()


def http2(house: House) -> None:
    """The same over HTTP/2, on a connection that is then closed by the client."""
    client = Client(house)
    request = client.get("/version")
    client.send(request[:10])
    house.reactor.turn()
    assert client.ask(request[10:]).status == 200
    client.connection.close()


def miss(house: House) -> None:
    """A request that waits for the key store, with the time limit of its route."""
    house.threads.hold()
    connection = house.connect()
    connection.send(get("/v1/key/describe/unknown"))
    house.reactor.turn()
    house.threads.work()
    assert connection.read_all().startswith(b"HTTP/1.1 404")
    connection.close()


def unfinished_handshake(house: House) -> None:
    """A connection that ends before its handshake."""
    house.open(None).close()


@pytest.mark.parametrize("live", [http1, http2, miss, unfinished_handshake])
def test_a_connection_does_not_search_the_timers_of_others(crowded: House, live: Callable[[House], None]) -> None:
    """What a connection costs does not grow with the number of other connections."""
    CountedCall.comparisons = 0
    for _ in range(SHORT):
        crowded.reactor.advance(0.001)
        live(crowded)
    assert CountedCall.comparisons / SHORT < MOST


def drain(house: House) -> None:
    """What new TLS files cause."""
    house.site.drain()


def stop(house: House) -> None:
    """What the server's stop causes."""
    for connection in tuple(house.site.connections):
        connection.stop()


@pytest.mark.parametrize("act", [drain, stop])
def test_all_connections_end_at_once(crowded: House, act: Callable[[House], None]) -> None:
    """To end all connections does not take a search for each."""
    CountedCall.comparisons = 0
    act(crowded)
    crowded.reactor.turn()
    assert CountedCall.comparisons / OPEN < MOST


def test_cancelled_timers_are_dropped(crowded: House) -> None:
    """Twisted keeps cancelled timers for a while: at most as many again as there are others, and some."""
    for _ in range(OPEN):
        http1(crowded)
    crowded.reactor.turn()
    assert len(crowded.reactor._pendingTimedCalls) <= 2 * OPEN + 100
