"""Runs commands that go on until they are ended, and a server that sends what a test wants. Nothing sleeps."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import ssl
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import create_server
from typing import Self

from tests.cli.run import environment
from tests.support import ADMIN, KES, TIMEOUT, write_server_certificate

# Makes the terminal the controlling one, whose Ctrl-C and changes of size are signals.
_ON_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
_SEQUENCE = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")


class Running:
    """A `kes` command that runs; a context manager, after which it does not. Its output is collected as it comes."""

    def __init__(self, process: subprocess.Popen[bytes], *descriptors: int) -> None:
        self.process = process
        self._collected = [b"" for _ in descriptors]
        self._open = len(descriptors)
        self._changed = threading.Condition()
        self._descriptors = descriptors
        self._readers = [threading.Thread(target=self._read, args=(i,), daemon=True) for i in range(len(descriptors))]
        for reader in self._readers:
            reader.start()

    def _read(self, index: int) -> None:
        while True:
            try:
                data = os.read(self._descriptors[index], 1 << 16)
            except OSError:
                data = b""  # EIO: nobody has the other end of the terminal open any more
            with self._changed:
                self._collected[index] += data
                self._open -= not data
                self._changed.notify_all()
            if not data:
                return

    @property
    def out(self) -> str:
        return self._collected[0].decode()

    @property
    def err(self) -> str:
        """Standard error; with a terminal it is with the output."""
        return self._collected[1].decode()

    @property
    def lines(self) -> list[str]:
        """The complete lines of the output."""
        return self.out.replace("\r\n", "\n").split("\n")[:-1]

    def wait_for(self, condition: Callable[[Self], bool]) -> None:
        """Wait until what has come meets a condition."""
        with self._changed:
            self._changed.wait_for(lambda: condition(self) or not self._open, TIMEOUT)
        assert condition(self), self._collected

    def wait_for_lines(self, count: int) -> list[str]:
        self.wait_for(lambda running: len(running.lines) >= count)
        return self.lines

    def signal(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end; the exit status."""
        self.process.send_signal(number)
        return self.end()

    def press(self, key: bytes) -> None:
        os.write(self._descriptors[0], key)

    def resize(self, columns: int, rows: int = 30) -> None:
        _set_size(self._descriptors[0], columns, rows)

    def end(self) -> int:
        """Wait for the end; the exit status."""
        status = self.process.wait(TIMEOUT)
        for reader in self._readers:
            reader.join(TIMEOUT)
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.end()
        for descriptor in self._descriptors:
            os.close(descriptor)


def in_pipe(*arguments: str, cwd: Path, env: Mapping[str, str]) -> Running:
    """`kes` with its output in pipes."""
    (out, its_out), (err, its_err) = os.pipe(), os.pipe()
    process = subprocess.Popen(
        [KES, *arguments], cwd=cwd, env=environment(env), stdin=subprocess.DEVNULL, stdout=its_out, stderr=its_err
    )
    os.close(its_out)
    os.close(its_err)
    return Running(process, out, err)


def in_terminal(*arguments: str, cwd: Path, env: Mapping[str, str], columns: int = 120, rows: int = 30) -> Running:
    """`kes` on a terminal of its own."""
    ours, theirs = pty.openpty()
    _set_size(theirs, columns, rows)
    process = subprocess.Popen(
        [sys.executable, "-c", _ON_TERMINAL, KES, *arguments],
        cwd=cwd,
        env=environment(env),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    return Running(process, ours)


def _set_size(terminal: int, columns: int, rows: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def screen(text: str) -> list[str]:
    """What a terminal, tall and wide enough, shows after `text`: its lines, without styles and empty ones at the end.

    A sequence that `kes` has no reason to send is an error.
    """
    lines, row, column = [""], 0, 0
    for match in _SEQUENCE.finditer(text):
        private, number, final = match.groups()
        match match[0], final:
            case "\r", _:
                column = 0
            case "\n", _:
                row += 1
                lines += [""] * (row + 1 - len(lines))
            case _, "A":
                row -= int(number)
                assert row >= 0, "above the beginning"
            case _, "J" | "K" if not number:
                lines[row] = lines[row][:column]
                if final == "J":
                    del lines[row + 1 :]
            case _, "m":
                pass
            case _, "h" | "l":
                assert (private, number) == ("?", "25")
            case plain, None:
                lines[row] = lines[row][:column].ljust(column) + plain + lines[row][column + len(plain) :]
                column += len(plain)
            case other, _:
                raise AssertionError(f"unexpected {other!r}")
    while lines and not lines[-1]:
        lines.pop()
    return lines


@contextmanager
def fake_server(
    folder: Path, *streams: bytes, hold: bool = False, asked: threading.Event | None = None
) -> Iterator[dict[str, str]]:
    """What finds a server that answers its connections in turn with status 200 and `streams`, and ends each after it.

    With `hold` the last one stays open. After that it answers nobody. An empty stream is no answer at all. `asked` is
    set with each request.
    """
    cert, key = write_server_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    done = threading.Event()

    def serve() -> None:
        with suppress(OSError):
            for number, stream in enumerate(streams):
                raw, _ = listener.accept()
                with raw, context.wrap_socket(raw, server_side=True) as connection:
                    head = b""
                    while b"\r\n\r\n" not in head:
                        head += connection.recv(4096)
                    if asked is not None:
                        asked.set()
                    if stream:
                        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
                        connection.sendall(b"%b%x\r\n%b\r\n" % (head, len(stream), stream))
                    if hold and number == len(streams) - 1:
                        done.wait(TIMEOUT)
                    else:
                        connection.sendall(b"0\r\n\r\n")
            listener.close()

    listener = create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield {"KES_SERVER": f"127.0.0.1:{port}", "KES_API_KEY": str(ADMIN)}
    finally:
        done.set()
        listener.close()
        thread.join(TIMEOUT)
