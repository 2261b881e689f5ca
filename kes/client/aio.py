"""The client for asyncio. It may be used by several tasks of one event loop at the same time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Self, TypeVar

from kes.client import calls
from kes.client.answers import AuditEvent, ErrorEvent
from kes.client.calls import Calls, EventStream
from kes.client.network import WORLD, Stream, World
from kes.client.settings import Settings
from kes.client.sync import SocketStream, warn
from kes.client.transport import Transport

T = TypeVar("T")

_READ = 64 * 1024


class AsyncioStream(SocketStream):
    """A TCP connection."""

    async def read(self, timeout: float | None) -> bytes:
        with self.reading() as connection:
            async with asyncio.timeout(timeout):
                return await asyncio.get_running_loop().sock_recv(connection, _READ)

    async def write(self, data: bytes, timeout: float | None) -> None:
        async with asyncio.timeout(timeout):
            await asyncio.get_running_loop().sock_sendall(self._socket, data)


class AsyncioNetwork:
    def __init__(self, connections: int, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._semaphore = asyncio.Semaphore(connections)
        self._sleep = sleep

    async def connect(self, host: str, port: int, timeout: float) -> Stream:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout):
            addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        failure: OSError = OSError("the name has no address")
        for family, kind, protocol, _, address in addresses:
            connection = socket.socket(family, kind, protocol)
            try:
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                async with asyncio.timeout(timeout):
                    await loop.sock_connect(connection, address)
            except OSError as error:
                connection.close()
                failure = error
            except BaseException:
                connection.close()
                raise
            else:
                return AsyncioStream(connection)
        raise failure

    async def sleep(self, seconds: float) -> None:
        await self._sleep(seconds)

    async def block(self, function: Callable[[], T]) -> T:
        return await asyncio.to_thread(function)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        async with self._semaphore:
            yield


class AsyncClient(Calls):
    """A client for asyncio; an asynchronous context manager."""

    def __init__(
        self,
        settings: Settings,
        *,
        warn: Callable[[str], None] = warn,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        world: World = WORLD,
    ) -> None:
        """Raises ConfigurationError. Nothing is sent yet."""
        super().__init__(Transport(settings, AsyncioNetwork(settings.max_connections, sleep), world), warn)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. May be called twice."""
        self._transport.close()

    def audit_log(self) -> EventStream[AuditEvent]:
        """The audit log: `async with client.audit_log() as events: async for event in events: …`."""
        return calls.audit_log(self._transport)

    def error_log(self) -> EventStream[ErrorEvent]:
        """The error log, as `audit_log`."""
        return calls.error_log(self._transport)
