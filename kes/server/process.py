"""What the process asks of the operating system at start: no core dumps, no swapped keys, no rights to come, room for
connections.

Everything here is best effort: a container or an unprivileged user may be refused any of it.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import sys
from pathlib import Path

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_UMASK = 0o077
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


def harden() -> None:
    """Take from the process what it has no use for, and an attacker would have."""
    _forbid_core_dumps()
    _forbid_new_privileges()
    # What it writes is for its own user, whatever it was started with.
    os.umask(_UMASK)
    if sys.stderr is not None:
        # A crash, or the watchdog's SIGABRT, leaves no core file: where each thread stood is said here instead. It is
        # names and lines of code, never a value.
        faulthandler.enable()


def _forbid_new_privileges() -> None:
    """Nothing that the process may ever execute gains a right, such as by a setuid bit (prctl(2))."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _forbid_core_dumps() -> None:
    """Keep memory, and the keys in it, out of core files and away from debuggers of the same user."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # Where a program takes the dumps, the limit alone does not count (core(5)).
        _libc().prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def raise_file_limit() -> None:
    """Take as many file descriptors as are granted: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def lock_memory() -> bool:
    """Keep all memory out of swap. Whether that was permitted.

    Pages are locked as they are touched: to lock the untouched part of every thread's stack as well would multiply
    the memory in use. With a limit on locked memory nothing is locked: an allocation past it would fail later.
    """
    if sys.platform != "linux":
        return False
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != resource.RLIM_INFINITY and not _may_lock():
        return False
    return bool(_libc().mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0)


def _may_lock() -> bool:
    """Whether the process has CAP_IPC_LOCK (bit 14), which no limit binds."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        effective = next(line.split()[1] for line in lines if line.startswith("CapEff:"))
    except (OSError, StopIteration):
        return False
    return bool(int(effective, 16) >> 14 & 1)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
