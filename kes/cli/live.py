"""What `kes log` and `kes metric` share: they run until somebody ends them, and leave the terminal as it was.

Whatever ends them, nothing of theirs stays behind: no hidden cursor, and no process that waits to write to a reader who
has gone or stalled.
"""

from __future__ import annotations

import os
import re
import select
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from time import monotonic
from types import FrameType
from typing import Final

from kes.cli.terminal import OutputClosedError, Terminal

_HIDE_CURSOR: Final = "\x1b[?25l"
_SHOW_CURSOR: Final = "\x1b[?25h"
_ERASE_LINE: Final = "\r\x1b[K"
_ERASE_BELOW: Final = "\x1b[J"
_STYLE: Final = re.compile(r"\x1b\[[0-9;]*m")
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class _Stop(KeyboardInterrupt):
    """SIGINT or SIGTERM has come."""


class _ReaderGone(BaseException):
    """Nobody reads standard output any more. No OSError, which whoever reads from the server would take for its own."""


@contextmanager
def endless() -> Iterator[None]:
    """A block that SIGINT and SIGTERM end, at once and as its normal end.

    When nobody reads standard output any more, the block gets OutputClosedError even while it has nothing to write: who
    runs `kes log | head -1` would otherwise wait for the next event.
    """
    active = True

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # a second one must not cut short what the first has begun
        # It may come when the client has made a coroutine and not yet begun with it, of which Python would tell.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        raise _Stop

    def lost(_number: int, _frame: FrameType | None) -> None:
        if active:
            raise _ReaderGone

    # A signal that whoever started us had ignored stays so, as under nohup.
    before = {n: signal.getsignal(n) for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN}
    # This one stays: it may come late, and is of no interest then.
    signal.signal(signal.SIGPIPE, lost)
    with suppress(RuntimeError):  # the system allows no further thread: the next write finds that the reader has gone
        threading.Thread(target=_watch_reader, args=(threading.get_ident(),), daemon=True).start()
    try:
        for number in before:
            signal.signal(number, stop)
        yield
    except _Stop:
        _forget_stalled_reader()
    except _ReaderGone:
        raise OutputClosedError from None
    finally:
        active = False
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch_reader(thread: int) -> None:
    """Send SIGPIPE to `thread` once nobody reads standard output."""
    # Signals are for the thread that waits in a system call, to wake it.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    poll = select.poll()
    poll.register(1, 0)
    if any(event & select.POLLERR for _, event in poll.poll()):
        signal.pthread_kill(thread, signal.SIGPIPE)


def _forget_stalled_reader() -> None:
    """Give up on output that nobody takes, for which the process would wait at its end."""
    poll = select.poll()
    poll.register(1, select.POLLOUT)
    if not poll.poll(0):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)


def terminal_size() -> tuple[int, int]:
    """Columns and lines of the terminal; what terminals once had, if it does not tell."""
    try:
        columns, lines = os.get_terminal_size(1)
    except OSError:
        columns = lines = 0
    return columns or 80, lines or 24


class Screen:
    """Some lines of a terminal that are replaced in place: a context manager, in which the cursor is hidden.

    Nothing else may write to the terminal in it. Where the terminal cannot do that, or nobody wants it (`redraw`), the
    lines come one below the other, without any escape sequence.
    """

    def __init__(self, terminal: Terminal, *, redraw: bool) -> None:
        self._terminal = terminal
        self._redraw = redraw
        self._widths: list[int] = []  # of the lines that are shown
        self._resized = False  # since the last wait

    def __enter__(self) -> Screen:
        self._write(_HIDE_CURSOR)
        # A signal that comes just before a wait would not end it. Python writes each signal to this pipe at once.
        self._signalled, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGWINCH, self._resize)
        return self

    def _resize(self, _number: int, _frame: FrameType | None) -> None:
        self._resized = True

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGWINCH, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.close(self._signalled)
        os.close(self._write_end)
        # The line below is erased because the terminal has put `^C` there.
        self._write(_ERASE_LINE + _SHOW_CURSOR)

    def _write(self, text: str) -> None:
        if self._redraw:
            self._terminal.write(text, flush=True)

    def draw(self, lines: Sequence[str]) -> None:
        """Show `lines`, none of which is wider than the terminal, in place of those before."""
        columns, rows = terminal_size()
        # The cursor is in the line below, and can only go back to what has not scrolled away.
        shown = lines[: max(1, rows - 1)] if self._redraw else lines
        # A terminal that has become narrower has broken the lines that were there.
        height = sum(max(1, -(-width // columns)) for width in self._widths)
        up = f"\r\x1b[{height}A" if height else "\r"
        start = f"{up}{_ERASE_BELOW}" if self._redraw else ""
        self._terminal.write(start + "".join(f"{line}\n" for line in shown), flush=True)
        self._widths = [len(_STYLE.sub("", line)) for line in shown]

    def wait(self, time: float) -> bool:
        """Wait until a time of the monotonic clock; whether that ended early, as the terminal has another size."""
        while not self._resized:
            readable, _, _ = select.select((self._signalled,), (), (), max(0.0, time - monotonic()))
            if not readable:
                return False
            os.read(self._signalled, 1024)  # then the signal's handler runs
        self._resized = False
        return True
