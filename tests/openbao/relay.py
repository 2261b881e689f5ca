"""A slow network: a TCP relay that hands everything on later than it came."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress


class Relay:
    """Listens on a free port of 127.0.0.1 until `close`, and relays to the port `target` there.

    What comes is handed on `delay` seconds later, in either direction. The delay may be changed at any time, also for
    what waits already.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._delay = 0.0
        self._closed = False
        self._changed = threading.Condition()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def delay(self) -> float:
        return self._delay

    @delay.setter
    def delay(self, seconds: float) -> None:
        with self._changed:
            self._delay = seconds
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            sockets = [self._listener, *self._sockets]
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket()
                with self._changed:
                    self._sockets += (near, far)
                try:
                    far.connect(("127.0.0.1", self._target))
                except OSError:
                    near.close()
                    continue
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._relay, args=(source, target), daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                came = time.monotonic()
                with self._changed:
                    while not self._closed and (rest := came + self._delay - time.monotonic()) > 0:
                        self._changed.wait(rest)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
