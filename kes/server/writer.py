"""Console output that never blocks the reactor: lines are queued, bounded, and written by a thread of their own."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress

MAX_BACKLOG = 16 * 1024 * 1024  # bytes
GATHER = 0.005  # seconds that lines are gathered before they are written: each round takes the interpreter from others


def to_descriptor(descriptor: int) -> Callable[[bytes], None]:
    """A function that writes all of its argument to a file descriptor, however long that takes."""

    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(descriptor, view) :]
            except BlockingIOError:
                # Another process that has the same pipe or terminal open may have made it so for all.
                select.select((), (descriptor,), ())

    return write


class LineWriter:
    """Writes whole lines, in order. When the reader stalls and `MAX_BACKLOG` bytes wait, further lines are dropped and
    counted: a log that nobody reads must not stop the server. In memory are at most twice as many, those that are being
    written among them.

    `write` may block and is called in the thread; `dropped` is called there too, with the number of lines lost, once
    lines pass again, or with the error that ended all output. `lost` is the number of all lines lost so far.
    """

    def __init__(self, write: Callable[[bytes], None], dropped: Callable[[int, OSError | None], None]) -> None:
        self._write = write
        self._dropped = dropped
        self._condition = threading.Condition()
        self._lines: list[bytes] = []
        self._size = 0
        self._lost = 0
        self.lost = 0
        self._writing = False
        self._broken = False
        self._started = False  # the thread

    def line(self, line: bytes) -> None:
        """Queue a line, which ends in a newline. Never blocks."""
        with self._condition:
            if self._broken:
                self.lost += 1
                return
            if self._size + len(line) > MAX_BACKLOG:
                self._lost += 1
                self.lost += 1
                return
            self._lines.append(line)
            self._size += len(line)
            if not self._started:
                self._start()
            elif not self._writing:
                self._condition.notify_all()

    def _start(self) -> None:
        """Start the thread. Where the system allows no further one, the next line tries again."""
        # A daemon: a reader that has stalled must not keep the process from ending.
        thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        with suppress(RuntimeError):
            thread.start()
            self._started = True

    def flush(self, timeout: float) -> None:
        """Wait until all lines are out, at most `timeout` seconds."""
        with self._condition:
            if self._lines and not self._started:
                self._start()
            self._condition.wait_for(lambda: self._broken or not (self._lines or self._writing), timeout)

    def _run(self) -> None:
        while True:
            with self._condition:
                self._writing = False
                if not self._lines:
                    self._condition.notify_all()
                self._condition.wait_for(lambda: self._lines)
                self._writing = True
            select.select((), (), (), GATHER)  # time.sleep fails under libfaketime, which the tests of the clock use
            with self._condition:
                data, lost = b"".join(self._lines), self._lost
                self._lines.clear()
                self._size = self._lost = 0
            try:
                self._write(data)
            except OSError as error:
                with self._condition:
                    self._broken = True
                    unwritten = data.count(b"\n") + len(self._lines)
                    self.lost += unwritten
                    lost += unwritten + self._lost
                    self._lines.clear()
                    self._condition.notify_all()
                self._dropped(lost, error)
                return
            if lost:
                self._dropped(lost, None)
