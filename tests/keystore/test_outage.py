"""A whole server on a real OpenBao that fails it: what clients see meanwhile, what the log says, and that it recovers.

The server asks its store every 10 s whether it is there, so that a test takes as long for each recovery.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.openbao.server import AppRole, OpenBao, until
from tests.support import Client, Server, start

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
    """Keys expire after a second, but may be used for an hour while the store is down."""
    engine = bao.kv("v2")
    role = bao.app_role(bao.key_policy("v2", engine))
    vault = {
        "endpoint": bao.endpoint,
        "engine": engine,
        "version": "v2",
        "approle": {"engine": role.engine, "id": role.id, "secret": role.secret},
        "tls": {"ca": str(bao.ca)},
    }
    routes = ("ready", "key/create/", "key/describe/", "key/generate/", "key/list/")
    api = {f"/v1/{route}": {"timeout": f"{TIMEOUT}s"} for route in routes}
    expiry = {"any": "1s", "unused": "1s", "offline": "1h"}
    with start(tmp_path, keystore={"vault": vault}, cache={"expiry": expiry}, api=api) as server:
        yield Running(server, server.client(), role)


def test_killed_and_restarted(bao: OpenBao, running: Running) -> None:
    """Gone, OpenBao is missed at once; cached keys are served on; restarted and unsealed, it is found again."""
    running.create("cached", "other")
    assert [running.generate("cached"), running.ready()] == [200, 200]
    bao.kill()
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


def test_token_and_secret_id_revoked(bao: OpenBao, running: Running) -> None:
    """A revoked token costs nothing; without a secret ID there is no new one, until there is one again."""
    running.create("other")
    bao.revoke_tokens(running.role.engine)
    until(lambda: running.generate("other") == 200, "the server has logged in again")  # once in 3 s at most
    bao.revoke_secret_id(running.role)
    bao.revoke_tokens(running.role.engine)

    def refused() -> bool:
        assert running.answer("GET", "/v1/key/describe/missing") == 502
        return running.said("Vault refused the login") > 0

    until(refused, "the server has tried to log in")
    assert running.said(running.role.secret) == 0
    bao.add_secret_id(running.role)
    until(lambda: running.generate("other") == 200, "the server has logged in again", 40)
