"""What the process uses of the machine, as the kernel tells it. Where the kernel does not, the figure is 0."""

from __future__ import annotations

import os
import resource
import time
from functools import cache
from pathlib import Path

_SELF = Path("/proc/self")
_STARTTIME = 19  # place of the start time among the fields behind the program's name (proc(5): 22nd of all)


def usable_cpus() -> int:
    """How many CPUs the process may run on."""
    return len(os.sched_getaffinity(0))


def memory(status: Path = _SELF / "status") -> tuple[int, int]:
    """Bytes of memory that the process holds (resident), and those of its main stack."""
    values = {"VmRSS": 0, "VmStk": 0}
    try:
        for line in status.read_text().splitlines():
            name, _, value = line.partition(":")
            if name in values:
                values[name] = int(value.split()[0]) * 1024
    except OSError:
        pass
    return values["VmRSS"], values["VmStk"]


def open_files(folder: Path = _SELF / "fd") -> int:
    """How many file descriptors are open, less the one that looks."""
    try:
        return max(0, len(os.listdir(folder)) - 1)  # noqa: PTH208 - names are enough, thousands of them
    except OSError:
        return 0


def max_files() -> int:
    """How many file descriptors may be open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@cache
def started_at(stat: Path = _SELF / "stat") -> float:
    """When the process was started, in seconds since the epoch.

    Computed once, so that it does not move with corrections of the clock: monitoring takes a change for a restart.
    """
    try:
        # The program's name, in parentheses, may have blanks and parentheses in it.
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[_STARTTIME]) / os.sysconf("SC_CLK_TCK")
    return time.time() - age
