"""The client for plain code. It blocks, and may be used by several threads at the same time."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import BoundedSemaphore, Event, Lock
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from kes.client import calls
from kes.client.answers import (
    AuditEvent,
    DataKey,
    ErrorEvent,
    IdentityInfo,
    KeyInfo,
    Policy,
    PolicyInfo,
    Route,
    Status,
    Version,
)
from kes.client.calls import Calls, EventStream
from kes.client.network import WORLD, Stream, World, run
from kes.client.settings import Settings
from kes.client.transport import Transport

if TYPE_CHECKING:
    from kes.client.metrics import Metrics

E = TypeVar("E")
T = TypeVar("T")

_READ = 64 * 1024


class SocketStream:
    """What the streams of both clients share: a socket that may be closed while another thread or task reads from it.

    It is then shut down, which ends the read, and the reader closes it: a number of a closed socket may be another's.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lock = Lock()
        self._reading = False
        self._closed = Event()

    @contextmanager
    def reading(self) -> Iterator[socket.socket]:
        """The socket, for a read; OSError if it is closed."""
        with self._lock:
            if self._closed.is_set():
                raise ConnectionAbortedError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED))
            self._reading = True
        try:
            yield self._socket
        finally:
            with self._lock:
                self._reading = False
                if self._closed.is_set():
                    self._socket.close()

    def is_readable(self) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
            if self._reading:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
            else:
                self._socket.close()


class BlockingStream(SocketStream):
    """A TCP connection."""

    async def read(self, timeout: float | None) -> bytes:
        with self.reading() as connection:
            connection.settimeout(_positive(timeout))
            return connection.recv(_READ)

    async def write(self, data: bytes, timeout: float | None) -> None:
        self._socket.settimeout(_positive(timeout))
        self._socket.sendall(data)


def _positive(timeout: float | None) -> float | None:
    """The socket module takes no time to be "do not block", which fails in another way."""
    return timeout if timeout is None else max(timeout, 0.001)


class _Slot:
    """A semaphore in the form that the asyncio client needs."""

    def __init__(self, semaphore: BoundedSemaphore) -> None:
        self._semaphore = semaphore

    async def __aenter__(self) -> None:
        self._semaphore.acquire()

    async def __aexit__(self, *exception: object) -> None:
        self._semaphore.release()


class BlockingNetwork:
    def __init__(self, connections: int, sleep: Callable[[float], None]) -> None:
        self._slot = _Slot(BoundedSemaphore(connections))
        self._sleep = sleep

    async def connect(self, host: str, port: int, timeout: float) -> Stream:
        connection = socket.create_connection((host, port), timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return BlockingStream(connection)

    async def sleep(self, seconds: float) -> None:
        self._sleep(seconds)

    async def block(self, function: Callable[[], T]) -> T:
        return function()

    def slot(self) -> _Slot:
        return self._slot


def warn(text: str) -> None:
    """What a client does with warnings unless it is told otherwise."""
    warnings.warn(text, RuntimeWarning, stacklevel=2)


class LogStream(Generic[E]):
    """The events of a log: a context manager, which subscribes, and an iterator, which ends when the server does.

    `close` may be called by another thread.
    """

    def __init__(self, stream: EventStream[E]) -> None:
        self._stream = stream

    @property
    def endpoint(self) -> str:
        """The endpoint that the events come from."""
        return self._stream.endpoint

    def __enter__(self) -> Self:
        run(self._stream.__aenter__())
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> E:
        try:
            return run(self._stream.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        self._stream.close()


class Client:
    """A client for plain code; a context manager. Its calls are those of `AsyncClient`, which documents them."""

    def __init__(
        self,
        settings: Settings,
        *,
        warn: Callable[[str], None] = warn,
        sleep: Callable[[float], None] = time.sleep,
        world: World = WORLD,
    ) -> None:
        """Raises ConfigurationError. Nothing is sent yet."""
        self._transport = Transport(settings, BlockingNetwork(settings.max_connections, sleep), world)
        self._calls = Calls(self._transport, warn)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. May be called twice."""
        self._transport.close()

    @property
    def endpoints(self) -> tuple[str, ...]:
        return self._calls.endpoints

    @property
    def identity(self) -> str:
        return self._calls.identity

    def version(self) -> Version:
        return run(self._calls.version())

    def ready(self) -> None:
        run(self._calls.ready())

    def status(self) -> Status:
        return run(self._calls.status())

    def routes(self) -> list[Route]:
        return run(self._calls.routes())

    def metrics(self) -> Metrics:
        return run(self._calls.metrics())

    def create_key(self, name: str) -> None:
        run(self._calls.create_key(name))

    def import_key(self, name: str, key: bytes, algorithm: str = "AES256") -> None:
        run(self._calls.import_key(name, key, algorithm))

    def delete_key(self, name: str) -> None:
        run(self._calls.delete_key(name))

    def describe_key(self, name: str) -> KeyInfo:
        return run(self._calls.describe_key(name))

    def list_keys(self, prefix: str = "") -> list[str]:
        return run(self._calls.list_keys(prefix))

    def generate_key(self, name: str, context: bytes = b"") -> DataKey:
        return run(self._calls.generate_key(name, context))

    def encrypt(self, name: str, plaintext: bytes, context: bytes = b"") -> bytes:
        return run(self._calls.encrypt(name, plaintext, context))

    def decrypt(self, name: str, ciphertext: bytes, context: bytes = b"") -> bytes:
        return run(self._calls.decrypt(name, ciphertext, context))

    def hmac(self, name: str, message: bytes) -> bytes:
        return run(self._calls.hmac(name, message))

    def describe_policy(self, name: str) -> PolicyInfo:
        return run(self._calls.describe_policy(name))

    def read_policy(self, name: str) -> Policy:
        return run(self._calls.read_policy(name))

    def list_policies(self, prefix: str = "") -> list[str]:
        return run(self._calls.list_policies(prefix))

    def describe_identity(self, identity: str) -> IdentityInfo:
        return run(self._calls.describe_identity(identity))

    def describe_self(self) -> IdentityInfo:
        return run(self._calls.describe_self())

    def list_identities(self, prefix: str = "") -> list[str]:
        return run(self._calls.list_identities(prefix))

    def audit_log(self) -> LogStream[AuditEvent]:
        return LogStream(calls.audit_log(self._transport))

    def error_log(self) -> LogStream[ErrorEvent]:
        return LogStream(calls.error_log(self._transport))
