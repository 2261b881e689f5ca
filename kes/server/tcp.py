"""TCP connections that write at the end of the reactor's turn.

Twisted has a connection's output written when the reactor finds that it can be, which takes another turn and three
system calls, for bytes that the kernel would nearly always have taken at once. Here it is tried once a turn, for all
connections that have something to say, and only what is left over goes that way.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.tcp import Server


class Turn:
    """The connections that have written in this turn of the reactor. `connect` may be a port's `transport`."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._connections: list[PromptServer] = []

    def connect(self, *arguments: Any) -> PromptServer:
        """A connection; the arguments are those of Twisted's `Server`."""
        return PromptServer(self, *arguments)

    def add(self, connection: PromptServer) -> None:
        """Have what a connection writes sent when the turn ends."""
        if not self._connections:
            self._reactor.callLater(0, self._end)
        self._connections.append(connection)

    def _end(self) -> None:
        connections, self._connections = self._connections, []
        for connection in connections:
            connection.send()


class PromptServer(Server):
    """The server's side of a connection. What is written in one turn is sent in one piece."""

    def __init__(self, turn: Turn, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._turn = turn
        self._written: list[bytes] = []
        self._size = 0  # bytes of it

    def write(self, data: bytes) -> None:
        if self.dataBuffer or self._tempDataBuffer:
            super().write(data)  # type: ignore[no-untyped-call]
            return
        if not self._written:
            self._turn.add(self)
        self._written.append(data)
        self._size += len(data)
        if self._size > self.bufferSize:
            self.send()  # so that a producer is paused in time

    def loseConnection(self, *arguments: Any) -> None:
        self.send()
        super().loseConnection(*arguments)  # type: ignore[no-untyped-call]

    def send(self) -> None:
        """Give to the kernel what was written, and what it does not take to the reactor."""
        if not self._written:
            return
        data = b"".join(self._written)
        self._written.clear()
        self._size = 0
        if self.connected:
            sent = self.writeSomeData(data)
            # The reactor meets an error again, and handles it.
            data = data[sent:] if isinstance(sent, int) else data
            if data:
                super().write(data)  # type: ignore[no-untyped-call]
