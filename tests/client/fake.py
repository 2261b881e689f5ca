"""A small TLS server for what the real one cannot do: old paging, failures, lost answers, peers that break off."""

from __future__ import annotations

import contextlib
import http
import json
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

TIMEOUT = 20  # seconds; far more than anything here takes


@dataclass
class Request:
    method: str
    path: str
    body: bytes
    connection: int  # counts the connections

    @property
    def json(self) -> Any:
        return json.loads(self.body)


DROP = b""  # close the connection instead of an answer

Handler = Callable[[Request], bytes]


def reply(status: int = 200, body: Any = b"", content_type: str = "application/json") -> bytes:
    """The bytes of an answer; a body that is no bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\nContent-Type: {content_type}\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data


def fail(status: int, message: str) -> bytes:
    return reply(status, {"message": message})


class FakeServer:
    """Answers each request with what `handler` says, or closes the connection when that is nothing.

    `tls` False: it speaks plain HTTP. `once`: it closes each connection after one answer. `tunnel`: it is a proxy,
    which connects to itself whoever is asked for. `read_bodies` False: it leaves the bodies of requests unread.
    """

    def __init__(
        self,
        handler: Handler,
        certificate: Path,
        *,
        tls: bool = True,
        once: bool = False,
        tunnel: bool = False,
        read_bodies: bool = True,
    ) -> None:
        self.requests: list[Request] = []
        self._handler = handler
        self._once = once
        self._tunnel = tunnel
        self._read_bodies = read_bodies
        self._context: ssl.SSLContext | None = None
        if tls:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        return len(self._connections)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(TIMEOUT)
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join(TIMEOUT)
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(TIMEOUT)
            self._connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection, len(self._connections)))
            self._threads.append(thread)
            thread.start()

    def _serve(self, raw: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            if self._context is None:
                with raw:
                    self._talk(raw, number)
                return
            if self._tunnel:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += raw.recv(1)
                method, path, _ = head.decode().split(" ", 2)
                self.requests.append(Request(method, path, head, number))
                raw.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            duplicate = raw.dup()
            with duplicate, self._context.wrap_socket(duplicate, server_side=True) as connection:
                self._talk(connection, number)
        raw.close()

    def _talk(self, connection: socket.socket, number: int) -> None:
        with connection.makefile("rb") as lines:
            while True:
                request = self._read(lines, number)
                if request is None:
                    return
                self.requests.append(request)
                answer = self._handler(request)
                if not answer:
                    return
                connection.sendall(answer)
                if self._once:
                    return

    def _read(self, lines: Any, number: int) -> Request | None:
        first = lines.readline()
        if not first.startswith((b"GET", b"POST", b"DELETE", b"CONNECT")):
            if self._context is None and first:
                return Request("?", "", b"", number)
            return None
        method, path, _ = first.decode().split(" ")
        length = 0
        while (line := lines.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return Request(method, path, lines.read(length) if self._read_bodies else b"", number)
