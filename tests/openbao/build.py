"""The program `bao`: the one that is installed, or else one that Go builds, at the versions that go.mod and go.sum pin.

The build takes minutes, so it is kept below the user's cache folder, under a name that its sources make. `python -m
tests.openbao.build` makes it beforehand, so that it does not take the CPUs from tests that run at the same time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support import require_tool

SOURCE = Path(__file__).parent
PACKAGE = "github.com/openbao/openbao"
TIMEOUT = 1500  # seconds of a build on a machine that has nothing


def cache() -> Path:
    """The folder that keeps builds."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "kes-tests"


def bao() -> Path:
    """The path of the program. However many processes ask for it, one builds it, once, and the others wait."""
    beside_python = str(Path(sys.executable).parent)
    installed = shutil.which("bao", path=os.pathsep.join((beside_python, os.environ.get("PATH", ""))))
    if installed is not None:
        return Path(installed)
    sources = b"".join((SOURCE / name).read_bytes() for name in ("go.mod", "go.sum"))
    program = cache() / f"bao-{hashlib.sha256(sources).hexdigest()[:16]}"
    if program.exists():
        return program
    go = require_tool("go")
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "bao.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            new = program.with_suffix(".new")
            command = [go, "build", "-ldflags", "-s -w", "-o", new, PACKAGE]
            subprocess.run(command, cwd=SOURCE, env={**os.environ, "CGO_ENABLED": "0"}, check=True, timeout=TIMEOUT)
            new.replace(program)
    return program


if __name__ == "__main__" and shutil.which("go"):
    print(bao())
