"""What the client's tests share: both clients behind one face, real servers, and fake ones for what those cannot do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kes.certificate import make_client_certificate, make_server_certificate
from kes.client import Client, Settings, World
from kes.client.aio import AsyncClient
from tests.client.fake import FakeServer, Handler
from tests.support import ADMIN, Server, start

NO_PROXY: dict[str, str] = {}


class Plain:
    """The asyncio client with the face of the plain one: each call runs the loop until it is done."""

    def __init__(self, settings: Settings, *, sleep: Callable[[float], None], **options: Any) -> None:
        async def fall_asleep(seconds: float) -> None:
            sleep(seconds)

        self._runner = asyncio.Runner()
        try:
            self._client = AsyncClient(settings, sleep=fall_asleep, **options)
        except BaseException:
            self._runner.close()
            raise

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            async def run() -> Any:
                return await getattr(self._client, name)(*arguments)

            return self._runner.run(run())

        return call

    @property
    def identity(self) -> str:
        return self._client.identity

    @contextmanager
    def _log(self, stream: Any) -> Iterator[Iterator[Any]]:
        self._runner.run(stream.__aenter__())

        def events() -> Iterator[Any]:
            while True:
                try:
                    yield self._runner.run(stream.__anext__())
                except StopAsyncIteration:
                    return

        try:
            yield events()
        finally:
            self._runner.run(stream.__aexit__())

    def audit_log(self) -> Any:
        return self._log(self._client.audit_log())

    def error_log(self) -> Any:
        return self._log(self._client.error_log())

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


class Sleeps:
    """A clock that only sleeping moves on, and the times slept."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def sleeps() -> Sleeps:
    return Sleeps()


Connect = Callable[..., Any]


@pytest.fixture(params=[Client, Plain], ids=["plain", "asyncio"])
def connect(request: pytest.FixtureRequest, sleeps: Sleeps) -> Iterator[Connect]:
    """Makes clients, with the admin's API key unless told otherwise; they are closed at the end."""
    with ExitStack() as stack:

        def make(server: str, *, warn: Callable[[str], None] = pytest.fail, **settings: Any) -> Any:
            if "cert_file" not in settings:
                settings.setdefault("api_key", str(ADMIN))
            settings.setdefault("environ", NO_PROXY)
            world = World(clock=lambda: sleeps.now, random=lambda: 0.5)
            client = request.param(Settings(server, **settings), warn=warn, sleep=sleeps, world=world)
            stack.callback(client.close)
            return client

        yield make


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("client")


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[Server]:
    """A real server with the policies of `tests.support`."""
    with start(folder) as running:
        yield running


@pytest.fixture
def real(connect: Connect, server: Server) -> Connect:
    """Makes clients of the real server, whose certificate they verify."""

    def make(**settings: Any) -> Any:
        return connect(f"127.0.0.1:{server.port}", ca_file=str(server.folder / "server.crt"), **settings)

    return make


@pytest.fixture
def admin(real: Connect) -> Any:
    return real()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of fake servers for this machine, and its key, in one file."""
    path = tmp_path_factory.mktemp("fake") / "server.pem"
    path.write_bytes(b"".join(make_server_certificate([], datetime.now(UTC))))
    return path


@pytest.fixture
def fake(certificate: Path) -> Iterator[Callable[..., FakeServer]]:
    """Starts fake servers; they are stopped at the end."""
    with ExitStack() as stack:

        def make(handler: Handler, **options: Any) -> FakeServer:
            return stack.enter_context(FakeServer(handler, certificate, **options))

        yield make


@pytest.fixture
def client_files(tmp_path: Path) -> tuple[Path, Path]:
    """The admin's certificate and its key."""
    cert, key = make_client_certificate(ADMIN, datetime.now(UTC))
    (tmp_path / "client.crt").write_bytes(cert)
    (tmp_path / "client.key").write_bytes(key)
    return tmp_path / "client.crt", tmp_path / "client.key"
