"""What the process asks of the system, seen from outside in /proc."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

from tests.support import run, start, start_dev


def limits(pid: int) -> dict[str, tuple[str, str]]:
    """Soft and hard limit by name."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    return {line[:26].rstrip(): (line[26:47].strip(), line[47:68].strip()) for line in lines}


def locked(pid: int) -> int:
    """Locked memory in kB."""
    return int(re.search(r"^VmLck:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)[1])


def test_no_core_dumps_and_many_files(tmp_path: Path) -> None:
    """A server writes no core file, whatever it was started with, and takes as many descriptors as it may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    server, _ = start_dev(tmp_path)
    with server:
        found = limits(server.process.pid)
        assert found["Max core file size"] == ("0", "0")
        assert found["Max open files"] == (str(hard), str(hard))


def test_not_dumpable(tmp_path: Path) -> None:
    """Where a program takes the core dumps a limit does not count, so the process is marked as well."""
    code = (
        "import ctypes; from kes.server.process import harden; harden();"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"  # PR_GET_DUMPABLE
    )
    assert run(sys.executable, "-c", code, cwd=tmp_path).stdout == "0\n"


def test_memory_lock(tmp_path: Path) -> None:
    """Memory is locked where that is permitted and a config file is given, and the output says whether it is."""
    with start(tmp_path) as server:
        assert (locked(server.process.pid) > 0) == ("MLock       enabled\n" in server.out)
    server, _ = start_dev(tmp_path)
    with server:
        assert locked(server.process.pid) == 0
        assert not [line for line in server.out if line.startswith("MLock")]


def test_memory_lock_refused(tmp_path: Path) -> None:
    """Where it is not permitted nothing is locked: part of the memory would help nobody, and allocations would fail."""
    code = (
        "import ctypes, resource; resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536));"
        "header = (ctypes.c_uint32 * 2)(0x20080522, 0); ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)());"
        "from kes.server.process import lock_memory; print(lock_memory())"
    )
    assert run(sys.executable, "-c", code, cwd=tmp_path).stdout == "False\n"
