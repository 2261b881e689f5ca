"""A machine to install on: this one's programs, with copies of its own of the folders that are written to.

Each script runs in namespaces of its own: what it writes is in the upper layers of overlays, and gone with them, as is
what it has started; its ports are on a loopback interface that nobody else has.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.run import Result, environment
from tests.support import KES, require_tool

_WRITTEN = ("/etc", "/opt", "/usr/local", "/var/lib")
# What an installation makes first of all in each of these. If it is there on this machine, it is not on the other.
_INSTALLED = ("/etc/kes", "/opt/kes", "/usr/local/lib/systemd", "/var/lib/kes")
_ACCOUNTS = ("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow")
_TIMEOUT = 120  # seconds; far more than a script takes


class Machine:
    """Where scripts run as root. `folder` is empty, and for it alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, script: str, *, cwd: Path = Path("/"), env: Mapping[str, str] = {}) -> Result:
        """Run a shell script, with `kes` in its PATH."""
        lines = ["set -eu", f"mount -t tmpfs none {shlex.quote(str(self._folder))}"]
        for place in _WRITTEN:
            upper, work = (shlex.quote(f"{self._folder}{place}.{layer}") for layer in ("upper", "work"))
            lines.append(f"mkdir -p {upper} {work}")
            lines.append(f"mount -t overlay none -o lowerdir={place},upperdir={upper},workdir={work} {place}")
        lines += [f"rm -rf {path}" for path in _INSTALLED]
        lines += [f"sed -i /^kes:/d {path}" for path in _ACCOUNTS]
        lines += ["mount -t tmpfs none /run", f"{shlex.quote(require_tool('ip'))} link set lo up", script]
        result = subprocess.run(
            [
                require_tool("unshare"),
                "--mount",
                "--net",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-c",
                "\n".join(lines),
            ],
            cwd=cwd,
            env=environment({"PATH": f"{Path(KES).parent}:{os.environ['PATH']}", **env}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            check=False,
        )
        return Result(result.returncode, result.stdout, result.stderr.decode())


@contextmanager
def own_machine(folder: Path) -> Iterator[Machine]:
    """A machine that lives in `folder`. The test is skipped, or fails in CI, where there can be none."""
    if os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("this needs root, for namespaces")
    for tool in ("systemd-sysusers", "systemd-tmpfiles"):
        require_tool(tool)
    before = [Path(path).exists() for path in _INSTALLED]
    place = folder / "machine"
    place.mkdir()
    yield Machine(place)
    assert [Path(path).exists() for path in _INSTALLED] == before
