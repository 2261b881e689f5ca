"""Runs the installed `kes` command as people do: in a pipe, and on a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support import KES, TIMEOUT

# The terminal becomes the controlling one, where passwords are asked for.
_ON_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
_VARIABLE = re.compile(
    r"(MINIO_)?(KMS_)?KES_|NO_COLOR|CLICOLOR|COLUMNS|COMP_|SSL_CERT|HTTPS?_PROXY|NO_PROXY", re.IGNORECASE
)


@dataclass(frozen=True)
class Result:
    """What a command left: its exit status, standard output and standard error."""

    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def error(self) -> str:
        """The message of a command that failed as it should: one line, status 1, nothing on standard output."""
        assert (self.status, self.out) == (1, b""), self
        first, *rest = self.err.splitlines()
        assert first.startswith("Error: "), self
        assert all(line.startswith("Hint: ") for line in rest), self
        return first.removeprefix("Error: ")

    @property
    def hints(self) -> list[str]:
        return [line.removeprefix("Hint: ") for line in self.err.splitlines() if line.startswith("Hint: ")]


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The process's environment without what `kes` reads, and with `variables`."""
    kept = {name: value for name, value in os.environ.items() if not _VARIABLE.match(name)}
    return {**kept, "TERM": "xterm-256color", **variables}


def kes(*arguments: str | bytes, cwd: Path, env: Mapping[str, str] = {}, stdin: bytes | None = None) -> Result:
    """Run `kes` to its end, its output in pipes and nothing or `stdin` as its input."""
    result = subprocess.run(
        [KES, *arguments],
        cwd=cwd,
        env=environment(env),
        stdin=subprocess.DEVNULL if stdin is None else None,
        input=stdin,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    return Result(result.returncode, result.stdout, result.stderr.decode())


def on_terminal(
    *command: str,
    cwd: Path,
    env: Mapping[str, str] = {},
    columns: int = 100,
    answers: Mapping[str, str] = {},
) -> tuple[int, str]:
    """Run a program to its end on a terminal; its exit status and what the terminal shows, lines ended by LF.

    Each text of `answers` is typed once its prompt is there.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", _ON_TERMINAL, *command],
        cwd=cwd,
        env=environment(env),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown, waiting = b"", dict(answers)
    try:
        while data := _read(ours):
            shown += data
            for prompt in [prompt for prompt in waiting if prompt.encode() in shown]:
                os.write(ours, waiting.pop(prompt).encode())
        status = process.wait(TIMEOUT)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return status, shown.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""  # EIO: nobody has the other end open any more
