"""`kes log` (cli.md 5.7): a server's audit or error log, from now on, line by line until somebody ends it.

What is in an event was often written by whoever sent a request. None of it reaches a terminal as anything but text.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from time import sleep
from typing import Final

import msgspec

from kes.cli.client import attempt, connect
from kes.cli.command import Given, NothingToDo
from kes.cli.errors import CommandError
from kes.cli.live import endless
from kes.cli.terminal import Terminal, one_line
from kes.cli.text import UNKNOWN
from kes.client import (
    AuditEvent,
    Client,
    ConnectionFailed,
    ErrorEvent,
    InvalidResponse,
    KESError,
    LogClosed,
    LogStream,
    ServerError,
)
from kes.config.duration import render

_PAUSE: Final = 1.0  # seconds before the stream is opened again; twice as long after each failure, up to
_LONGEST_PAUSE: Final = 30.0
_COLUMNS: Final = (("Time", 8, 4), ("Status", 5, 5), ("Identity", 20, 4), ("IP", 15, 4), ("API", 30, 4))
_MAX_IDENTITY: Final = 20  # characters
_ROUNDING: Final = (  # nanoseconds: from which latency on, to what it is rounded
    (1_000_000_000, 100_000_000),
    (10_000_000, 1_000_000),
    (1_000_000, 100_000),
    (10_000, 1_000),
)

Event = AuditEvent | ErrorEvent
Log = LogStream[AuditEvent] | LogStream[ErrorEvent]


def run(given: Given, terminal: Terminal) -> None:
    """Print events until SIGINT or SIGTERM. Raises CommandError when the stream ends, unless it is to be followed."""
    error = given.flag("error")
    audit = given.flag("audit") if given.is_set("audit") else not error
    if audit and error:
        raise CommandError("--audit and --error exclude each other")
    if not audit and not error:
        raise NothingToDo
    with connect(given, terminal) as client:

        def subscribe() -> Log:
            return client.error_log().__enter__() if error else client.audit_log().__enter__()

        with attempt(client):
            log = subscribe()
        with endless():
            if audit and not terminal.wants_json:
                terminal.print(_header(terminal), flush=True)
            while True:
                failure = _print(log, terminal)
                if not given.flag("follow"):
                    with attempt(client):
                        raise failure
                terminal.warning(f"{failure}; connecting again")
                log = _again(client, subscribe, terminal)
                terminal.warning(f"connected to {log.endpoint} again; events may be missing")


def _print(log: Log, terminal: Terminal) -> KESError:
    """Print the events up to the stream's end; why it has ended."""
    with closing(log):
        try:
            for event in log:
                terminal.print(_line(event, terminal), flush=True)
        except KESError as error:
            return error
    return LogClosed("the server has ended the log stream")


def _again(client: Client, subscribe: Callable[[], Log], terminal: Terminal) -> Log:
    """The log, once the server can be reached. Raises CommandError for what does not pass with time."""
    pause, told = _PAUSE, ""
    while True:
        sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
        try:
            return subscribe()
        except KESError as error:
            if not isinstance(error, ConnectionFailed | InvalidResponse) and not (
                isinstance(error, ServerError) and error.status >= 500
            ):
                with attempt(client):
                    raise
            if str(error) != told:
                told = str(error)
                terminal.warning(told)


def _line(event: Event, terminal: Terminal) -> str:
    if terminal.wants_json:
        return _compact(event.line)
    return _row(event, terminal) if isinstance(event, AuditEvent) else one_line(event.message)


def _compact(line: bytes) -> str:
    """A JSON text on one line, with all its fields as they are, and nothing in it that a terminal would act on."""
    text = msgspec.json.format(line, indent=-1).decode()
    # Such characters are inside of strings; elsewhere JSON has none.
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def _header(terminal: Terminal) -> str:
    cells = [terminal.style.bold_header(name) + " " * (width + gap - len(name)) for name, width, gap in _COLUMNS]
    return "".join(cells) + terminal.style.bold_header("Latency")


def _row(event: AuditEvent, terminal: Terminal) -> str:
    style = terminal.style.allow if event.status == 200 else terminal.style.deny
    status = str(event.status)
    values = (
        _time(event.time),
        status,
        one_line(event.identity)[:_MAX_IDENTITY],
        one_line(event.ip) or UNKNOWN,
        one_line(event.path),
    )
    cells = [_cell(value, width + gap) for value, (_, width, gap) in zip(values, _COLUMNS, strict=True)]
    cells[1] = style(status) + cells[1].removeprefix(status)
    return "".join(cells) + render(rounded(event.latency) / 10**9)


def _cell(text: str, width: int) -> str:
    """`text` as wide as its column; what is longer keeps two spaces to the next."""
    return f"{text}  ".ljust(width)


def _time(nanoseconds: int) -> str:
    seconds = nanoseconds // 10**9 % 86400
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def rounded(nanoseconds: int) -> int:
    """A latency with the digits that matter."""
    unit = next((unit for least, unit in _ROUNDING if nanoseconds >= least), 1)
    return (nanoseconds + unit // 2) // unit * unit
