"""What the process uses: the kernel's own files, read as they are and as recorded."""

from __future__ import annotations

import os
import time
from pathlib import Path

from kes.server.usage import max_files, memory, open_files, started_at, usable_cpus


def test_memory(tmp_path: Path) -> None:
    """Memory is read from the kernel's status file, in bytes; where there is none, zeros."""
    status = tmp_path / "status"
    status.write_text("Name:\tkes\nVmRSS:\t   40 kB\nVmData:\t 7 kB\nVmStk:\t  132 kB\n")
    assert memory(status) == (40 * 1024, 132 * 1024)
    assert memory(tmp_path / "none") == (0, 0)


def test_open_files(tmp_path: Path) -> None:
    """A file more that is open is one descriptor more; where the kernel tells nothing, 0."""
    before = open_files()
    with (tmp_path / "file").open("w"):
        assert open_files() == before + 1
    assert before < max_files()
    assert open_files(tmp_path / "none") == 0


def test_start(tmp_path: Path) -> None:
    """The start is read from the kernel's stat file, whatever the program is called, and does not move."""
    assert time.time() - 24 * 3600 < started_at() < time.time()
    assert started_at() == started_at()
    recorded = tmp_path / "stat"
    ago = 60
    ticks = int((time.clock_gettime(time.CLOCK_BOOTTIME) - ago) * os.sysconf("SC_CLK_TCK"))
    recorded.write_text(f"7 (k e) s) S {' '.join(['0'] * 18)} {ticks} 0 0\n")
    assert abs(time.time() - started_at(recorded) - ago) < 30
    assert started_at(tmp_path / "none") == 0


def test_cpus() -> None:
    """The process may use at least one."""
    assert 1 <= usable_cpus() <= (os.cpu_count() or 1)
