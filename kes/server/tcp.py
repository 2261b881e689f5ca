"""TCP connections that write at the end of the reactor's turn.

Twisted has a connection's output written when the reactor finds that it can be, which takes another turn and three
system calls, for bytes that the kernel would nearly always have taken at once. Here it is tried once a turn, for all
connections that have something to say, and only what is left over goes that way.
"""

from __future__ import annotations

from typing import ClassVar, cast

from twisted.internet.interfaces import IReactorTime
from twisted.internet.tcp import Server
from zope.interface import implementer_only


# TLS on top of it copies, connection by connection, what interfaces this class has, and nobody asks for any.
@implementer_only()
class PromptServer(Server):
    """The server's side of a connection. What is written in one turn is sent in one piece."""

    _turn: ClassVar[list[PromptServer]] = []  # the connections that have written in this turn

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._written: list[bytes] = []
        self._size = 0  # bytes of it

    def write(self, data: bytes) -> None:
        if self.dataBuffer or self._tempDataBuffer:
            super().write(data)  # type: ignore[no-untyped-call]
            return
        if not self._written:
            if not self._turn:
                cast(IReactorTime, self.reactor).callLater(0, self._end_turn)
            self._turn.append(self)
        self._written.append(data)
        self._size += len(data)
        if self._size > self.bufferSize:
            self._send()  # so that a producer is paused in time

    def loseConnection(self, *args: object) -> None:
        self._send()
        super().loseConnection(*args)  # type: ignore[no-untyped-call]

    @classmethod
    def _end_turn(cls) -> None:
        connections, cls._turn = cls._turn, []
        for connection in connections:
            connection._send()

    def _send(self) -> None:
        if not self._written:
            return
        data = b"".join(self._written)
        self._written.clear()
        self._size = 0
        if self.connected:
            sent = self.writeSomeData(data)
            # An error is met again, and handled, by the reactor.
            data = data[sent:] if isinstance(sent, int) else data
            if data:
                super().write(data)  # type: ignore[no-untyped-call]
