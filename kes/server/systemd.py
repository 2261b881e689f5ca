"""What passes between the server and the service manager that has started it: systemd, or what speaks its protocol.

The manager is told what the service does and that its reactor turns (sd_notify(3), sd_watchdog_enabled(3)), may have
opened the port already (sd_listen_fds(3)), and takes log lines with a priority (sd-daemon(3)). All of it is announced
in the environment; without that, nothing here does anything.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

from kes.config import level as levels

REFUSED: Final = os.EX_CONFIG
"""The exit status, under a service manager, of a server that would fail again until its configuration is changed."""

_FIRST_DESCRIPTOR: Final = 3  # SD_LISTEN_FDS_START
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
_PRIORITIES: Final = ((levels.ERROR, 3), (levels.WARN, 4), (levels.INFO, 6))


class SocketError(Exception):
    """What the manager has passed is not the one listening TCP socket that the server can use."""


def is_manager(environ: Mapping[str, str]) -> bool:
    """Whether the process is a service whose manager waits to hear from it."""
    return bool(environ.get("NOTIFY_SOCKET"))


class Manager:
    """The receiving end of the service's messages. `warn` is told, in one line, what keeps them from being delivered.

    A message has some hundred bytes at most and is never waited for: the manager's socket has room for thousands.
    """

    def __init__(self, environ: Mapping[str, str], warn: Callable[[str], object]) -> None:
        self._environ = environ
        self._path = environ.get("NOTIFY_SOCKET", "")
        self._warn = warn
        self._failed = False

    def watchdog(self, pid: int) -> float:
        """Seconds within which the manager wants a sign of life of this process; 0 if it wants none."""
        if self._environ.get("WATCHDOG_PID", str(pid)) != str(pid):
            return 0  # meant for the process that has started this one
        text = self._environ.get("WATCHDOG_USEC", "")
        if not text:
            return 0
        if not (text.isascii() and text.isdigit() and int(text)):
            self._warn(f"WATCHDOG_USEC is {text[:32]!r}, no number of microseconds: the watchdog is not fed")
            return 0
        if not self._path:
            self._warn(
                "there is a watchdog (WATCHDOG_USEC), but no NOTIFY_SOCKET to feed it by: in the unit, set Type=notify "
                "or remove WatchdogSec"
            )
            return 0
        return int(text) / 1e6

    def ready(self, status: str) -> None:
        """The service has started, or has ended a reload; `status` is a line for people."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it, also one that has failed."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=Reading the configuration")

    def stopping(self) -> None:
        self._send("STOPPING=1", "STATUS=Stopping")

    def alive(self) -> None:
        """Keep the watchdog quiet for another while."""
        self._send("WATCHDOG=1")

    def _send(self, *assignments: str) -> None:
        if not self._path:
            return
        # A name that begins with @ is one in the abstract namespace (unix(7)).
        address = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        try:
            if not self._path.startswith(("/", "@")):
                raise OSError(0, "neither a path nor an abstract name")
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(assignments).encode(), address)
        except OSError as error:
            if not self._failed:
                reason = error.strerror or error
                self._warn(
                    f"the service manager cannot be told that {assignments[0]}, and may end the server: NOTIFY_SOCKET "
                    f"{self._path!r}: {reason}. In the unit, set Type=notify"
                )
            self._failed = True
        else:
            self._failed = False


def listening_socket(environ: Mapping[str, str], pid: int) -> socket.socket | None:
    """Take over the listening socket that the manager has passed to this process; None if it has passed none.

    It is TCP over IPv4 or IPv6, non-blocking and not inherited further. Raises SocketError.
    """
    if environ.get("LISTEN_PID") != str(pid) or "LISTEN_FDS" not in environ:
        return None
    count, names = environ["LISTEN_FDS"], environ.get("LISTEN_FDNAMES", "")
    if count == "0":
        return None
    if count != "1":
        raise SocketError(
            f"the service manager has passed {count[:32]} sockets ({names[:256] or 'without names'}), and the server "
            "takes one: write one ListenStream in one socket unit"
        )
    what = f"the socket that the service manager has passed ({names[:256] or 'without a name'})"
    try:
        taken = socket.socket(fileno=_FIRST_DESCRIPTOR)
    except OSError as error:
        raise SocketError(f"{what} is none: {error.strerror}") from None
    if taken.family not in _FAMILIES or taken.type != socket.SOCK_STREAM:
        kind = " ".join(getattr(part, "name", str(part)) for part in (taken.family, taken.type))
        problem = f"is {kind}: in its unit, write ListenStream with a TCP port"
    elif not taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        problem = "does not listen: in its unit, set Accept=no"
    else:
        taken.setblocking(False)
        taken.set_inheritable(False)
        return taken
    taken.close()
    raise SocketError(f"{what} {problem}")


def is_journal(descriptor: int, environ: Mapping[str, str]) -> bool:
    """Whether a file descriptor leads to the journal, which takes priorities (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def priority(level: int) -> str:
    """What stands before a line for the journal: the syslog priority of a log level (sd-daemon(3))."""
    return next((f"<{number}>" for lowest, number in _PRIORITIES if level >= lowest), "<7>")
