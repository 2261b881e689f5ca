"""Connections that end in time, on their own; `test_vault.py` has them under a key store.

Times are those of a clock that stands still, so that what is waited for in real time is what a test leaves.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpcore
import pytest

from kes.keystore.deadline import Backend

NOW = 1000.0


@pytest.fixture
def backend() -> Backend:
    return Backend(clock=lambda: NOW, connect=3.0)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def port(listener: socket.socket) -> int:
    return listener.getsockname()[1]


def test_names_are_looked_up_once(backend: Backend, listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask for a name that is not resolved, one thread waits for it; whoever still does gets the answer."""
    asked: list[str] = []
    over = threading.Event()

    def look_up(name: str, *_arguments: Any, **_options: Any) -> Any:
        asked.append(name)
        over.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    before = threading.active_count()
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", look_up)
        for _ in range(10):
            with pytest.raises(httpcore.ConnectTimeout, match="the name vault is not resolved in time"):
                backend.connect_tcp("vault", port(listener), NOW + 0.01)
    assert asked == ["vault"]
    assert threading.active_count() == before + 1
    waiting = threading.Timer(0.05, over.set)
    waiting.start()
    backend.connect_tcp("vault", port(listener), NOW + 10).close()
    waiting.join()
    assert asked == ["vault"]


def test_all_addresses(backend: Backend, listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name's addresses are tried one after the other until one connects; if none does, the last failure is told."""
    system = socket.getaddrinfo
    addresses = ["127.0.0.2", "127.0.0.1"]  # nothing listens at the first

    def look_up(name: str, *arguments: Any, **options: Any) -> Any:
        names = addresses if name == "vault" else [name]
        return [found for address in names for found in system(address, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    backend.connect_tcp("vault", port(listener), NOW + 10).close()
    addresses.pop()
    with pytest.raises(httpcore.ConnectError, match="refused"):
        backend.connect_tcp("vault", port(listener), NOW + 10)


def test_no_time_left(backend: Backend, listener: socket.socket) -> None:
    """Nothing is begun once the deadline is there, and a wait ends with it; without one of its own, the last holds."""
    with pytest.raises(httpcore.ConnectTimeout):
        backend.connect_tcp("127.0.0.1", port(listener), NOW)
    stream = backend.connect_tcp("127.0.0.1", port(listener), NOW + 0.05)
    peer, _ = listener.accept()
    peer.sendall(b"ab")
    with peer:
        assert stream.read(1, NOW + 10) == b"a"
        for deadline in (NOW, NOW - 1):
            with pytest.raises(httpcore.ReadTimeout):
                stream.read(1, deadline)
            with pytest.raises(httpcore.ReadTimeout):
                stream.read(1)
            with pytest.raises(httpcore.WriteTimeout):
                stream.write(b"x", deadline)
        assert stream.read(1, NOW + 10) == b"b"
        with pytest.raises(httpcore.ReadTimeout):
            stream.read(1, NOW + 0.05)
    stream.close()
