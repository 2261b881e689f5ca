"""The wall clock is set back and forward under load, and no interval that the server measures changes.

The clock is libfaketime's. On a whole machine: tests/boot.
"""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import pytest

from tests.server.test_reload import Load, succeed
from tests.server.test_systemd import NotifySocket, environment
from tests.support import (
    ADMIN,
    KES,
    TIMEOUT,
    TWISTD,
    Client,
    Server,
    client_context,
    require_tool,
    write_config,
    write_server_certificate,
)

WATCHDOG: Final = 500_000  # microseconds
HOUR: Final = 3600  # seconds


@pytest.fixture(params=[(KES, "server"), (TWISTD, "-n", "kes")], ids=["kes", "twistd"])
def command(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Each way to start the server."""
    return request.param


class Clocked:
    """A server with clients that send requests all the time, a watchdog, and a wall clock that the test sets."""

    def __init__(self, server: Server, load: Load, notify: NotifySocket, offset: Path) -> None:
        self.server = server
        self.load = load
        self.client = server.client()
        self._notify = notify
        self._offset = offset

    def set_clock(self, seconds: int) -> None:
        """Set the wall clock to so many seconds after the true time."""
        write_offset(self._offset, seconds)
        date = parsedate_to_datetime(self.client.request("GET", "/version").headers["date"])
        assert abs((date - datetime.now(UTC)).total_seconds() - seconds) < TIMEOUT

    def check_answers(self) -> None:
        """Clients on open and on new connections get answers."""
        self.load.wait_for_more(10)
        assert self.load.failures == []

    def check_watchdog(self) -> None:
        """The watchdog still gets its pings."""
        while self._notify.waiting:
            self._notify.next()
        assert [self._notify.next() for _ in range(3)] == [{"WATCHDOG": "1"}] * 3

    def cache_key(self, name: str) -> None:
        """Have a key in the cache that the key store no longer has."""
        succeed(self.client, "PUT", f"/v1/key/create/{name}")
        succeed(self.client, "GET", f"/v1/key/describe/{name}")
        (self.server.folder / "keys" / name).unlink()

    def begin_request(self) -> ssl.SSLSocket:
        """A connection on which a request is begun but not completed."""
        context = client_context(self.server.folder, ADMIN)
        connection = context.wrap_socket(socket.create_connection(("127.0.0.1", self.server.port), TIMEOUT))
        connection.sendall(b"GET /version HTTP/1.1\r\n")
        return connection

    def has_key(self, name: str) -> bool:
        return self.client.request("GET", f"/v1/key/describe/{name}").status == 200


def write_offset(path: Path, seconds: int) -> None:
    new = path.with_suffix(".new")
    new.write_text(f"{seconds:+d}\n")
    new.replace(path)


def use_key(client: Client) -> None:
    succeed(client, "PUT", "/v1/key/generate/my-key")


@contextmanager
def started(command: Sequence[str], folder: Path, expiry: str) -> Iterator[Clocked]:
    """The server, whose cached keys expire after `expiry`."""
    require_tool("faketime")
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    write_offset(offset := folder / "offset", 0)
    config = write_config(
        folder,
        log={"audit": "on"},
        keys=[{"name": "my-key"}],
        cache={"expiry": {"any": expiry, "unused": expiry}},
    )
    with closing(NotifySocket(str(folder / "notify"))) as notify:
        server = Server(
            [*command, "--addr", "127.0.0.1:0", "--config", str(config)],
            cwd=folder,
            env=environment(
                LD_PRELOAD=library,
                FAKETIME_TIMESTAMP_FILE=offset,
                FAKETIME_NO_CACHE=1,
                FAKETIME_DONT_FAKE_MONOTONIC=1,
                NOTIFY_SOCKET=notify.variable,
                WATCHDOG_USEC=WATCHDOG,
            ),
        )
        with server:
            load = Load(server)
            load.add(ADMIN, use_key, fresh=False)
            load.add(ADMIN, use_key, fresh=True)
            load.start()
            try:
                yield Clocked(server, load, notify, offset)
            finally:
                load.stop()
    assert load.failures == []
    durations = [json.loads(line)["response"]["time"] for line in server.out if line.startswith('{"time":')]
    assert durations
    assert 0 < min(durations) <= max(durations) < TIMEOUT * 10**9


def test_set_back(tmp_path: Path, command: tuple[str, ...]) -> None:
    """After the clock was set back no client waits, the watchdog is fed, keys expire, and new TLS files are noticed."""
    with started(command, tmp_path, expiry="1s") as clocked:
        for count, seconds in enumerate((-8, -HOUR), 1):
            clocked.cache_key(f"cached-{count}")
            slow = clocked.begin_request()
            clocked.set_clock(seconds)
            clocked.check_answers()
            clocked.check_watchdog()
            deadline = time.monotonic() + TIMEOUT
            while clocked.has_key(f"cached-{count}"):
                assert time.monotonic() < deadline, "the cached key does not expire"
            with closing(slow):
                assert slow.recv(1024).startswith(b"HTTP/1.1 408 ")
            write_server_certificate(tmp_path)
            clocked.server.wait_for("using the changed TLS files", errors=True, count=count)


def test_set_forward(tmp_path: Path, command: tuple[str, ...]) -> None:
    """After the clock was set forward, and back again, idle connections are still open and keys still cached."""
    with started(command, tmp_path, expiry="5m") as clocked:
        clocked.cache_key("cached")
        idle = clocked.server.client()
        succeed(idle, "GET", "/version")
        for seconds in (HOUR, 0):
            clocked.set_clock(seconds)
            clocked.check_answers()
            clocked.check_watchdog()
            assert clocked.has_key("cached")
            succeed(idle, "GET", "/version")
        metrics = clocked.client.request("GET", "/v1/metrics").body.decode()
        uptime = next(line for line in metrics.splitlines() if line.startswith("kes_system_up_time "))
        assert 0 < float(uptime.split()[1]) < HOUR
