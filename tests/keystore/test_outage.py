"""A whole server on a real OpenBao that fails it: what clients see meanwhile, what the log says, and that it recovers.

The server asks its store every 10 s whether it is there, so that a test takes as long for each recovery.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.openbao.relay import Relay
from tests.openbao.server import AppRole, OpenBao, until
from tests.support import Client, Server, require_tool, start

POLL = 25  # seconds; more than two probes of the store are apart
TIMEOUT = 5  # seconds that the routes of these servers may take
DOWN, BACK = "the key store is down", "the key store is back"


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with OpenBao(tmp_path_factory.mktemp("openbao")) as bao:
        yield bao


@dataclass
class Running:
    """A server on the store, and a client of it."""

    server: Server
    client: Client
    role: AppRole

    def answer(self, method: str, path: str) -> int:
        """The status of an answer, which came in time."""
        begun = time.monotonic()
        status = self.client.request(method, path).status
        assert time.monotonic() - begun < TIMEOUT + 2, path
        return status

    def ready(self) -> int:
        return self.answer("GET", "/v1/ready")

    def generate(self, name: str) -> int:
        return self.answer("PUT", f"/v1/key/generate/{name}")

    def create(self, *names: str) -> None:
        for name in names:
            assert self.answer("PUT", f"/v1/key/create/{name}") == 200

    def until_ready(self) -> None:
        """Ask until it is, which the log says once, as it has said once that it was not."""
        until(lambda: self.ready() == 200, "the server is ready", POLL)
        self.server.wait_for(BACK, errors=True)
        assert [self.said(DOWN), self.said(BACK)] == [1, 1]

    def said(self, text: str) -> int:
        """How many lines of the error log have the text."""
        return sum(text in line for line in self.server.err)


@pytest.fixture
def running(bao: OpenBao, tmp_path: Path) -> Iterator[Running]:
    with run(bao, tmp_path) as running:
        yield running


@contextmanager
def run(bao: OpenBao, folder: Path, *, port: int = 0, **settings: object) -> Iterator[Running]:
    """A server whose keys expire after a second, but may be used for an hour while the store is down.

    It looks for OpenBao on another `port` of this machine, if one is given; `settings` are those of its role.
    """
    engine = bao.kv("v2")
    role = bao.app_role(bao.key_policy("v2", engine), **settings)
    vault = {
        "endpoint": f"https://127.0.0.1:{port}" if port else bao.endpoint,
        "engine": engine,
        "version": "v2",
        "approle": {"engine": role.engine, "id": role.id, "secret": role.secret},
        "tls": {"ca": str(bao.ca)},
    }
    routes = ("ready", "key/create/", "key/describe/", "key/generate/", "key/list/")
    api = {f"/v1/{route}": {"timeout": f"{TIMEOUT}s"} for route in routes}
    expiry = {"any": "1s", "unused": "1s", "offline": "1h"}
    with start(folder, keystore={"vault": vault}, cache={"expiry": expiry}, api=api) as server:
        yield Running(server, server.client(), role)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_ended_and_restarted(bao: OpenBao, running: Running, number: signal.Signals) -> None:
    """Gone, however it ended, OpenBao is missed at once, and cached keys go on; restarted, it is found again."""
    running.create("cached", "other")
    assert [running.generate("cached"), running.ready()] == [200, 200]
    bao.end(number)
    assert running.generate("other") == 504
    assert running.ready() == 504
    assert running.answer("GET", "/v1/key/list/") == 504
    assert running.answer("PUT", "/v1/key/create/new") == 504
    status = running.client.request("GET", "/v1/status")
    assert (status.status, status.json["keystore_unreachable"]) == (200, True)
    bao.start()  # sealed
    until(lambda: running.generate("cached") == 200 and running.said("sealed"), "it is known to be sealed", POLL)
    assert [running.generate("other"), running.ready()] == [504, 504]
    bao.unseal()
    running.until_ready()
    assert [running.generate("cached"), running.generate("other")] == [200, 200]
    running.create("new")


def test_sealed_and_unsealed(bao: OpenBao, running: Running) -> None:
    """Sealed, it is as if it were gone, and once it is unsealed the server finds out by itself."""
    running.create("cached", "other")
    assert running.generate("cached") == 200
    bao.seal()
    try:
        assert running.generate("other") == 504
        assert [running.ready(), running.generate("cached")] == [504, 200]
    finally:
        bao.unseal()
    running.until_ready()
    assert running.generate("other") == 200
    assert [running.said('msg="Vault at'), running.said("no longer sealed")] == [2, 1]


def test_paused(bao: OpenBao, running: Running) -> None:
    """Silent, it holds up nobody for longer than the route's timeout, and cached keys not at all once that is known."""
    running.create("cached", "other")
    assert running.generate("cached") == 200
    with bao.paused():
        assert running.generate("other") == 504
        until(lambda: running.ready() == 504, "the server is not ready", POLL)
        for _ in range(50):
            begun = time.monotonic()
            assert running.generate("cached") == 200
            assert time.monotonic() - begun < TIMEOUT
    running.until_ready()
    assert running.generate("other") == 200


def test_slow(bao: OpenBao, tmp_path: Path) -> None:
    """Slow, it answers in its time; slower than a request may take, it is as if it were silent, until it is faster."""
    with Relay(bao.port) as relay, run(bao, tmp_path, port=relay.port) as running:
        running.create("cached", "other")
        relay.delay = 0.5  # a second there and back
        assert [running.generate("other"), running.generate("cached"), running.ready()] == [200, 200, 200]
        assert running.said(DOWN) == 0
        relay.delay = 60
        assert running.generate("other") == 504
        until(lambda: running.said(DOWN), "it is known to be too slow", POLL)
        assert [running.ready(), running.generate("other"), running.generate("cached")] == [504, 200, 200]
        assert running.answer("GET", "/v1/key/describe/missing") == 504
        relay.delay = 0.5
        running.until_ready()
        assert [running.generate("other"), running.answer("GET", "/v1/key/describe/missing")] == [200, 404]


class Host:
    """Another host: a network namespace, with a cable to this one."""

    def __init__(self) -> None:
        self.name = f"kes{os.getpid()}"
        self._net = f"10.213.{os.getpid() % 256}"
        self.address = f"{self._net}.2"
        self.prefix = (require_tool("ip"), "netns", "exec", self.name)

    def __enter__(self) -> Host:
        here, there = f"{self.name}a", f"{self.name}b"
        self._ip("netns", "add", self.name)
        try:
            self._ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", self.name)
            self._ip("addr", "add", f"{self._net}.1/24", "dev", here)
            self._ip("link", "set", here, "up")
            self._ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", there)
            self._ip("-n", self.name, "link", "set", "lo", "up")
            self.plug(True)
        except BaseException:
            self.__exit__()
            raise
        return self

    def plug(self, plugged: bool) -> None:
        """Plug the cable in, or pull it: what is sent then arrives nowhere, and nobody says so."""
        self._ip("-n", self.name, "link", "set", f"{self.name}b", "up" if plugged else "down")

    def __exit__(self, *_: object) -> None:
        self._ip("netns", "delete", self.name)

    @staticmethod
    def _ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)


def test_network_cut(tmp_path: Path) -> None:
    """Cut off from OpenBao, the server is as if it were silent, and is itself again when the network is."""
    require_tool("ip")
    if os.geteuid():
        pytest.skip("only root may make a network namespace")
    (tmp_path / "bao").mkdir()
    with (
        Host() as host,
        OpenBao(tmp_path / "bao", host.address, host.prefix) as bao,
        run(bao, tmp_path) as running,
    ):
        running.create("cached", "other")
        assert running.generate("cached") == 200
        host.plug(False)
        assert running.generate("other") == 504
        until(lambda: running.ready() == 504, "the server is not ready", POLL)
        assert [running.generate("cached"), running.answer("PUT", "/v1/key/create/new")] == [200, 504]
        host.plug(True)
        running.until_ready()
        assert running.generate("other") == 200


def test_token_and_secret_id_revoked(bao: OpenBao, running: Running) -> None:
    """A revoked token costs nothing; without a secret ID there is no new one: the store is down until there is."""
    running.create("cached", "other")
    bao.revoke_tokens(running.role.engine)
    until(lambda: running.generate("cached") == 200, "the server has logged in again")  # once a second at most
    assert [running.ready(), running.said(DOWN)] == [200, 0]
    bao.revoke_secret_id(running.role)
    bao.revoke_tokens(running.role.engine)

    def refused() -> bool:
        assert running.answer("GET", "/v1/key/describe/missing") == 502
        return running.said("Vault refused the login") > 0

    until(refused, "the server has tried to log in")
    assert running.ready() == 502
    until(lambda: running.said(DOWN), "the store is known to be down", POLL)
    assert [running.ready(), running.generate("cached"), running.generate("other")] == [504, 200, 502]
    assert "check keystore.vault.approle.id and .secret" in running.server.wait_for(DOWN, errors=True)
    bao.add_secret_id(running.role)
    running.until_ready()
    assert running.generate("other") == 200
    assert running.said(running.role.secret) == 0


# Tokens that are over after 2 s: one that can be renewed twice, one without end, and one that cannot be renewed.
SHORT = {
    "renewable": {"token_ttl": "2s", "token_max_ttl": "4s"},
    "periodic": {"token_period": "2s"},
    "batch": {"token_ttl": "2s", "token_type": "batch"},
}


@pytest.mark.parametrize("settings", SHORT.values(), ids=SHORT.keys())
def test_tokens_that_expire(bao: OpenBao, tmp_path: Path, settings: dict[str, str]) -> None:
    """Whatever kind of token the role gives, the server always has one: no request fails, and nothing is logged."""
    with run(bao, tmp_path, **settings) as running:
        running.create("my-key")
        end = time.monotonic() + 6
        while time.monotonic() < end:
            assert running.answer("GET", "/v1/key/describe/missing") == 404  # which is never in the cache
            assert running.generate("my-key") == 200
        assert [line for line in running.server.err if "level=error" in line.lower()] == []


def test_token_that_expired_unseen(bao: OpenBao, tmp_path: Path) -> None:
    """A server that was stopped while its token expired logs in anew for the first request, which does not fail."""
    with run(bao, tmp_path, token_ttl="3s", token_max_ttl="3s") as running:
        running.create("my-key")
        running.server.process.send_signal(signal.SIGSTOP)
        try:
            until(lambda: not bao.tokens(running.role.engine), "the token has expired")
        finally:
            running.server.process.send_signal(signal.SIGCONT)
        assert running.answer("GET", "/v1/key/describe/missing") == 404
        assert len(bao.tokens(running.role.engine)) > 0
