"""What the process asks of the system, seen from outside in /proc."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
from pathlib import Path

import pytest

import kes
import twisted
from tests.support import KES, Server, run, start, start_dev


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


def status(pid: int, name: str) -> str:
    return re.search(rf"^{name}:\s+(.*)$", Path(f"/proc/{pid}/status").read_text(), re.M)[1]


def test_no_new_privileges_and_umask(tmp_path: Path) -> None:
    """Nothing that the server executed could gain rights, and what it writes is its own user's."""
    with start(tmp_path) as server:
        assert (status(server.process.pid, "NoNewPrivs"), status(server.process.pid, "Umask")) == ("1", "0077")


def test_a_crash_tells_where(tmp_path: Path) -> None:
    """What ends the server by a crash, or the watchdog's SIGABRT, leaves the stack of each thread, and no core file."""
    server = start(tmp_path)
    assert server.client().request("PUT", "/v1/key/create/k").status == 200
    assert server.stop(signal.SIGABRT) == -signal.SIGABRT
    told = "".join(server.err)
    assert "Fatal Python error: Aborted" in told
    assert "kes/cli/server.py" in told
    assert not list(tmp_path.glob("core*"))


class TestIsolation:
    """What is in the environment and in the current folder cannot put code into the server."""

    @pytest.fixture
    def traps(self, tmp_path: Path) -> Path:
        """A folder of modules that leave a mark when they are run."""
        folder = tmp_path / "traps"
        folder.mkdir()
        mark = f"open({str(tmp_path / 'sprung')!r}, 'a').write(__name__)\n"
        for name in ("sitecustomize", "usercustomize", "yaml", "twisted", "kes", "msgspec"):
            (folder / f"{name}.py").write_text(mark)
        return folder

    def environment(self, traps: Path) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(traps), "PYTHONUSERBASE": str(traps), "PYTHONSTARTUP": str(traps)}

    def test_module(self, tmp_path: Path, traps: Path) -> None:
        """`python -I -m kes`, which the units and the container start, runs none of it."""
        command = [sys.executable, "-I", "-m", "kes", "server", "--dev", "--addr", "127.0.0.1:0"]
        with Server(command, cwd=traps, env=self.environment(traps)):
            pass
        assert not (tmp_path / "sprung").exists()

    def test_the_traps(self, tmp_path: Path, traps: Path) -> None:
        """Without -I they would be."""
        run(sys.executable, "-m", "kes", cwd=traps, env=self.environment(traps))
        assert (tmp_path / "sprung").read_text() == "sitecustomize__main__"

    def test_command(self, tmp_path: Path, traps: Path) -> None:
        """`kes server` starts itself anew in this way: what Python runs before it is run once, and is then gone."""
        for name in ("kes", "sitecustomize", "usercustomize"):
            (traps / f"{name}.py").unlink()
        with Server([KES, "server", "--dev", "--addr", "127.0.0.1:0"], cwd=traps, env=self.environment(traps)):
            pass
        assert not (tmp_path / "sprung").exists()

    def test_installed_for_a_user(self, tmp_path: Path) -> None:
        """A `kes` that only an environment leads to starts all the same, with a warning."""
        places = [Path(kes.__file__).parents[1], Path(twisted.__file__).parents[1]]
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
        command = [sys.executable, "-m", "kes", "server", "--dev", "--addr", "127.0.0.1:0"]
        with Server(command, cwd=tmp_path, env=variables) as server:
            pass
        assert server.err[0].startswith(f"WARNING: kes is installed in {places[0]}, where the current user or ")


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
