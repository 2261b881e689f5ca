"""What the client needs of the world outside: the one thing that its plain and its asyncio form do in their own way.

Everything above is written once, in coroutines. Those of a plain client never wait in an event loop: its network blocks
instead, so that a coroutine runs to its end in one step, and no asyncio is imported.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import msgspec

from kes.client import endpoint

if TYPE_CHECKING:
    from ipaddress import IPv4Interface, IPv6Interface

T = TypeVar("T")


class Stream(Protocol):
    """A TCP connection. What fails raises OSError, TimeoutError after `timeout` seconds (None: never)."""

    async def read(self, timeout: float | None) -> bytes:
        """Some bytes, none at the end."""
        ...

    async def write(self, data: bytes, timeout: float | None) -> None: ...

    def is_readable(self) -> bool:
        """Whether there is something to read now, be it the end."""
        ...

    def close(self) -> None:
        """Close the connection; one that another thread or task reads from ends there. May be called twice."""
        ...


class Network(Protocol):
    async def connect(self, host: str, port: int, timeout: float) -> Stream:
        """Raises OSError."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    async def block(self, function: Callable[[], T]) -> T:
        """The result of a function that blocks."""
        ...

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Room for one more connection; waits until there is."""
        ...


def _random() -> float:
    return int.from_bytes(os.urandom(6), "big") / (1 << 48)


class World(msgspec.Struct, frozen=True):
    """Time, chance and names. Tests put their own in."""

    clock: Callable[[], float] = time.monotonic  # seconds
    random: Callable[[], float] = _random  # from [0, 1)
    resolve: Callable[[str], str | None] = endpoint.resolve
    interfaces: Callable[[], list[IPv4Interface | IPv6Interface]] = endpoint.interfaces


WORLD: Final = World()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine whose network blocks."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise AssertionError("a blocking network waited")
