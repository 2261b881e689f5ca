"""Tries what the server needs, and what its unit forbids. Prints, as JSON, what became of each: ok or an error."""

import ctypes
import errno
import json
import os
import pwd
import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
SYS_PTRACE, SYS_BPF = 101, 321
MCL_CURRENT = 1
PERSONALITY_32 = 0x0008
PTRACE_SEIZE = 0x4206


def check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")


def write(path: str) -> None:
    file = Path(path)
    file.write_text("probe")
    file.unlink()


def setuid_file() -> None:
    file = Path("/var/lib/kes/probe")
    file.touch()
    try:
        file.chmod(0o4700)
    finally:
        file.unlink()


def set_limit() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))


def mount() -> None:
    check(libc.mount(b"none", b"/mnt", b"tmpfs", 0, None))
    check(libc.umount(b"/mnt"))


def make_group() -> None:
    group = Path("/sys/fs/cgroup/probe")
    group.mkdir()
    group.rmdir()


def write_setting() -> None:
    setting = Path("/proc/sys/vm/overcommit_ratio")
    setting.write_text(setting.read_text())


def open_socket(family: int, kind: int, protocol: int = 0) -> Callable[[], None]:
    return lambda: socket.socket(family, kind, protocol).close()


NEEDED: dict[str, Callable[[], object]] = {
    "write /var/lib/kes": lambda: write("/var/lib/kes/probe"),
    "write /tmp": lambda: write("/tmp/probe"),
    "read /proc/cpuinfo": lambda: Path("/proc/cpuinfo").read_text(),
    "read /proc/self/status": lambda: Path("/proc/self/status").read_text(),
    "mlockall": lambda: check(libc.mlockall(MCL_CURRENT)),
    "resolve localhost": lambda: socket.getaddrinfo("localhost", 443),
    "AF_INET": open_socket(socket.AF_INET, socket.SOCK_STREAM),
    "AF_INET6": open_socket(socket.AF_INET6, socket.SOCK_STREAM),
    "AF_NETLINK": open_socket(socket.AF_NETLINK, socket.SOCK_RAW),
}
FORBIDDEN: dict[str, Callable[[], object]] = {
    "write /etc/kes": lambda: write("/etc/kes/probe"),
    "write /opt/kes": lambda: write("/opt/kes/probe"),
    "write /usr": lambda: write("/usr/probe"),
    "write /var/tmp/shared": lambda: write("/var/tmp/shared/probe"),
    "write /dev/shm": lambda: write("/dev/shm/probe"),
    "write /proc/sys": write_setting,
    "write /sys/fs/cgroup": make_group,
    "read /root": lambda: next(Path("/root").iterdir()),
    "read /proc/1": lambda: Path("/proc/1/status").read_text(),
    "read /dev/nvme0n1": lambda: Path("/dev/nvme0n1").open("rb").close(),
    "read /dev/kmsg": lambda: Path("/dev/kmsg").open("rb").close(),
    "AF_PACKET": open_socket(socket.AF_PACKET, socket.SOCK_RAW),
    "AF_INET raw": open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "unshare mounts": lambda: check(libc.unshare(CLONE_NEWNS)),
    "unshare users": lambda: check(libc.unshare(CLONE_NEWUSER)),
    "mount": mount,
    "chroot": lambda: os.chroot("/"),
    "setuid": lambda: os.setuid(0),
    "setuid file": setuid_file,
    "chown": lambda: os.chown("/var/lib/kes", -1, -1),
    "hostname": lambda: socket.sethostname(socket.gethostname()),
    "clock": lambda: check(libc.settimeofday(None, ctypes.byref((ctypes.c_int * 2)(0, 0)))),
    "personality": lambda: check(libc.personality(PERSONALITY_32)),
    "real-time": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
    "priority": lambda: os.nice(-1),
    "core files": set_limit,
    "port 80": lambda: socket.create_server(("127.0.0.1", 80)).close(),
    "bpf": lambda: check(
        libc.syscall(SYS_BPF, 0, ctypes.create_string_buffer(b"\1\0\0\0\4\0\0\0\4\0\0\0\1", 128), 128)
    ),
    "ptrace": lambda: check(libc.syscall(SYS_PTRACE, PTRACE_SEIZE, os.getppid(), 0, 0)),
}


def attempt(action: Callable[[], object]) -> str:
    """Try it in a process of its own, which it may change or end."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            action()
            outcome = "ok"
        except OSError as error:
            outcome = errno.errorcode.get(error.errno or 0, str(error))
        except ValueError as error:  # of setrlimit
            outcome = str(error)
        os.write(writing, outcome.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        outcome = answer.read()
    os.waitpid(child, 0)
    return outcome or "died"


def writable_folders() -> list[str]:
    """All folders that may be written to, without those in them."""
    found = []
    for folder, below, _ in os.walk("/"):
        if os.access(folder, os.W_OK):
            found.append(folder)
            below.clear()
        elif folder == "/":
            below[:] = sorted(set(below) - {"proc", "sys"})
    return found


lines = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
found = {
    "needed": {name: attempt(action) for name, action in NEEDED.items()},
    "forbidden": {name: attempt(action) for name, action in FORBIDDEN.items()},
    "process": {name: lines[name].strip() for name in ("CapPrm", "CapBnd", "NoNewPrivs", "Seccomp")},
    "user": pwd.getpwuid(os.getuid()).pw_name,
    "writable": writable_folders(),
}
json.dump(found, sys.stdout)
