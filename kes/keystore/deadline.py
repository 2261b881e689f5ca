"""Connections on which no wait goes beyond a deadline: neither for a name nor for a peer that sends byte after byte.

For httpcore, whose own timeouts bound each wait, and not all of them together. With `Backend`, the times `connect`,
`read` and `write` of a request's extension `timeout` are no lengths but the deadline, a time of the clock.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from typing import Any

import httpcore

_PIECE = 16 * 1024  # bytes that are sent under one look at the clock: what a TLS record holds


class Backend(httpcore.NetworkBackend):
    """Connects by TCP. An attempt, with one address that a name has, takes at most `connect` seconds, as does TLS."""

    def __init__(self, *, clock: Callable[[], float], connect: float) -> None:
        self._clock = clock
        self._connect = connect
        self._names = _Names()
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        assert timeout is not None
        failure: Exception = httpcore.ConnectTimeout()
        for address in self._addresses(host, timeout):
            rest = timeout - self._clock()
            if rest <= 0:
                break
            try:
                stream = self._plain.connect_tcp(address, port, min(rest, self._connect), local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as e:
                failure = e
            else:
                return _Stream(stream, self._clock, self._connect, timeout)
        raise failure

    def _addresses(self, host: str, deadline: float) -> list[str]:
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            pass
        try:
            return self._names.look_up(host, max(0.0, deadline - self._clock()))
        except TimeoutError as e:
            raise httpcore.ConnectTimeout(f"the name {host} is not resolved in time") from e
        except OSError as e:
            raise httpcore.ConnectError(f"the name {host} is not resolved: {e.strerror}") from e


class _Stream(httpcore.NetworkStream):
    """A connection, and the deadline that holds where none is given."""

    def __init__(
        self, stream: httpcore.NetworkStream, clock: Callable[[], float], handshake: float, deadline: float
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._handshake = handshake
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._rest(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PIECE):
            self._stream.write(buffer[start : start + _PIECE], self._rest(timeout, httpcore.WriteTimeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        rest = min(self._rest(timeout, httpcore.ConnectTimeout), self._handshake)
        stream = self._stream.start_tls(ssl_context, server_hostname, rest)
        return _Stream(stream, self._clock, self._handshake, self._deadline)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def _rest(self, deadline: float | None, late: type[httpcore.TimeoutException]) -> float:
        if deadline is not None:
            self._deadline = deadline
        rest = self._deadline - self._clock()
        if rest <= 0:
            raise late
        return rest


class _Names:
    """Looks names up, which the system does not end in time: in a thread that is left behind then, one for a name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, _LookUp] = {}

    def look_up(self, name: str, seconds: float) -> list[str]:
        """Return the addresses of a name, the best first; OSError if it has none, TimeoutError after `seconds`."""
        with self._lock:
            running = self._running.get(name)
            if running is None:
                running = _LookUp()
                try:
                    threading.Thread(target=self._run, args=(name, running), name="kes-dns", daemon=True).start()
                except RuntimeError as error:
                    raise OSError(errno.EAGAIN, f"no thread can be started to look up the name: {error}") from None
                self._running[name] = running
        if not running.over.wait(seconds):
            raise TimeoutError
        if running.failure is not None:
            raise OSError(running.failure.errno, running.failure.strerror)
        return running.addresses

    def _run(self, name: str, running: _LookUp) -> None:
        try:
            found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            running.addresses = [str(address[0]) for *_, address in found]
        except OSError as e:
            running.failure = e
        except UnicodeError:  # a name that cannot be one, such as a label of 64 characters
            running.failure = OSError(0, "it is no name of a host")
        with self._lock:
            del self._running[name]
        running.over.set()


class _LookUp:
    def __init__(self) -> None:
        self.over = threading.Event()
        self.addresses: list[str] = []
        self.failure: OSError | None = None
