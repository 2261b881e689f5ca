"""A machine that starts from the image: emulated by QEMU, so that it needs no rights here and has a kernel of its own.

It has no network but its loopback. What it writes to its disk is there until it is closed, also after a reboot.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.boot.image import Image
from tests.support import require_tool

TIMEOUT = 180.0  # seconds of starting up, and of one command: all is some 10 times slower, and the CPUs may be shared
GUEST = Path(__file__).with_name("guest")
MAX_REQUEST = 4000  # bytes: the kernel's buffer of the line, which has no flow control


@dataclass(frozen=True)
class Done:
    """What came of a command."""

    argv: tuple[str, ...]
    status: int
    out: str
    err: str


class BootedMachine:
    """A started machine, which finds the folder `payload` as /payload. In `folder` are its files here."""

    def __init__(self, image: Image, folder: Path, payload: Path) -> None:
        qemu, mke2fs = require_tool("qemu-system-x86_64"), require_tool("mke2fs")
        self.console = folder / "console.log"
        shutil.copytree(GUEST, payload, dirs_exist_ok=True)
        disk = folder / "payload.ext4"
        size = sum(path.stat().st_size for path in payload.rglob("*")) // (1 << 20) + 16
        subprocess.run([mke2fs, "-q", "-q", "-t", "ext4", "-d", payload, disk, f"{size}M"], check=True)
        here, there = socket.socketpair()
        command = [
            *(qemu, "-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg,thread=multi", "-smp", "2"),
            # A CPU with AES, and without the wide registers whose emulation costs most.
            *("-cpu", "Westmere", "-m", "1024", "-kernel", str(image.kernel)),
            *("-append", "root=/dev/nvme0n1 rw console=ttyS0 quiet mitigations=off panic=-1"),
            *("-drive", f"file={image.disk},if=none,id=root,format=raw,snapshot=on"),
            *("-device", "nvme,drive=root,serial=root"),
            *("-drive", f"file={disk},if=none,id=payload,format=raw,readonly=on"),
            *("-device", "nvme,drive=payload,serial=payload"),
            *("-serial", f"file:{self.console}"),
            *("-chardev", f"socket,id=agent,fd={there.fileno()}", "-serial", "chardev:agent"),
        ]
        self._process = subprocess.Popen(command, pass_fds=[there.fileno()], stdin=subprocess.DEVNULL)
        there.close()
        self._line, self._lines = here, here.makefile("rb")
        try:
            self._wait_for_agent()
        except BaseException:
            self.close()
            raise

    def _read(self, timeout: float) -> bytes:
        self._line.settimeout(timeout)
        try:
            line = self._lines.readline()
        except TimeoutError:
            line = b""
        assert line, f"the machine has ended, or is silent for {timeout} s: {self.console.read_text(errors='replace')}"
        return line

    def _wait_for_agent(self) -> None:
        while self._read(TIMEOUT) != b"ready\n":
            pass

    def execute(self, *argv: str, stdin: str = "", timeout: float = TIMEOUT) -> Done:
        """Run a command as root, to its end."""
        request = json.dumps({"argv": argv, "input": stdin, "timeout": timeout}).encode() + b"\n"
        assert len(request) <= MAX_REQUEST, "too long for the line: put it into the payload"
        self._line.sendall(request)
        answer = json.loads(self._read(timeout + TIMEOUT))
        return Done(argv, answer["status"], answer["out"], answer["err"])

    def run(self, *argv: str, stdin: str = "") -> str:
        """The output of a command, which must end well."""
        done = self.execute(*argv, stdin=stdin)
        assert done.status == 0, done
        return done.out

    def shell(self, script: str) -> str:
        """The output of a shell script, which must end well."""
        return self.run("sh", "-euc", script)

    def write(self, path: str, text: str) -> None:
        """Write a file, and the folders above it. A new one has mode 0644."""
        self.run("sh", "-euc", 'mkdir -p "$(dirname "$1")"; cat > "$1"', "sh", path, stdin=text)

    def reboot(self) -> None:
        """Shut it down in its own time, and start it again."""
        self._line.sendall(
            json.dumps({"argv": ["systemctl", "reboot"], "input": "", "timeout": TIMEOUT}).encode() + b"\n"
        )
        self._wait_for_agent()

    def close(self) -> None:
        """Pull the plug."""
        self._process.kill()
        self._process.wait()
        self._lines.close()
        self._line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
