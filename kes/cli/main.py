"""The entry point of the `kes` command: runs what the arguments name, and ends the process as cli.md 1.3 has it.

Whatever happens, standard error gets one line at most that is no warning or hint, and no traceback.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from importlib import import_module
from types import FrameType
from typing import Final, TextIO

from kes.cli.command import Given, NothingToDo, find, parse
from kes.cli.errors import CommandError
from kes.cli.table import ROOT
from kes.cli.terminal import OutputClosedError, Terminal

_SIGNALLED: Final = 128  # plus the signal's number: the exit status of what a signal has ended


class _Terminated(BaseException):
    """SIGTERM, as KeyboardInterrupt is SIGINT."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command that `arguments` (default: the process's) name; the exit status."""
    try:
        # `kes server` has a reactor that takes both signals; Twisted leaves SIGINT to whoever has changed it before.
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _terminate)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # what a narrow locale cannot write is no reason to fail
        return _run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        return _SIGNALLED + signal.SIGINT
    except _Terminated:
        return _SIGNALLED + signal.SIGTERM
    except OutputClosedError:
        return _SIGNALLED + signal.SIGPIPE
    finally:
        for stream in (sys.stdout, sys.stderr):
            _settle(stream)


def _run(arguments: list[str]) -> int:
    terminal = Terminal(sys.stdout, sys.stderr, os.environ)
    try:
        if "COMP_LINE" in os.environ:
            from kes.cli.completion import answer

            answer(os.environ, arguments, terminal)
            return 0
        given = parse(ROOT, arguments)
        terminal = _terminal(given)
        status = _call(given, terminal)
        terminal.flush()
        return status
    except NothingToDo as error:
        from kes.cli.usage import render

        path, _, _ = find(ROOT, arguments)
        terminal.complain(render(path, terminal.error_style, terminal.width))
        if str(error):
            terminal.error(str(error))
        return 2
    except CommandError as error:
        terminal.error(str(error))
        for hint in error.hints:
            terminal.hint(hint)
        return _error_status()
    except OutputClosedError:
        raise
    except OSError as error:
        # Whatever a command did not foresee, such as a disk that fails: it has a name and a reason.
        reason = error.strerror or type(error).__name__
        terminal.error(f"{reason}: {error.filename!r}" if error.filename else reason)
    return 1


def _terminal(given: Given) -> Terminal:
    """The terminal as the command's options want it."""
    color = given.values.get("color", "auto")
    assert isinstance(color, str)
    return Terminal(sys.stdout, sys.stderr, os.environ, color, json=given.values.get("json") is True)


def _call(given: Given, terminal: Terminal) -> int:
    if given.help:
        from kes.cli.usage import render

        terminal.write(render(given.path, terminal.style, terminal.width))
        return 0
    # Each command imports what it needs only when it runs: `kes --version` is instant.
    module, _, function = given.command.run.partition(":")
    status: int | None = getattr(import_module(module), function)(given, terminal)
    return status or 0


def _error_status() -> int:
    """The status of a command that was not given what it needs. A service manager is not to try the same again."""
    from kes.server.systemd import REFUSED, is_manager

    return REFUSED if is_manager(os.environ) else 1


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise _Terminated


def _settle(stream: TextIO | None) -> None:
    """Leave nothing in a stream's buffer that the interpreter would complain about when it cannot write it at exit."""
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
