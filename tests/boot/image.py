"""The disk and the kernel of the machine: Debian, with Python and what kes depends on in /opt/kes, but not kes itself.

They are made of packages from Debian and PyPI, in a minute or two, and kept below the user's cache folder, under a name
that this file and the list of dependencies make. `python -m tests.boot.image` makes them beforehand.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.openbao.build import cache
from tests.support import require_tool

ROOT = Path(__file__).parents[2]
RELEASE = "bookworm"
PYTHON = "3.11"  # the release's
TIMEOUT = 900  # seconds of a build
KERNEL = "linux-image-cloud-amd64"
PACKAGES = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "libpam-systemd",
    "openssl",
    "procps",
    "python3-venv",
    "systemd",
    "systemd-sysv",
)
# The service that takes the tests' commands: what it runs comes with each start, on the second disk.
AGENT = """\
[Unit]
Description=Runs the commands of the tests

[Service]
ExecStartPre=/usr/bin/mkdir -p /payload
ExecStartPre=/usr/bin/mount -o ro /dev/nvme1n1 /payload
ExecStart=/usr/bin/python3 /payload/agent.py

[Install]
WantedBy=multi-user.target
"""
# Run when the packages are in place: $1 is the root, `out` a folder outside.
FINISH = """\
set -eu
cd {out}
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
kernel=$(apt-cache depends --important {kernel} | sed -n 's/.*Depends: \\(linux-image-\\)/\\1/p')
apt-get download -o APT::Sandbox::User=root "$kernel"
dpkg-deb --fsys-tarfile "$kernel"_*.deb | tar -x --strip-components=2 --wildcards './boot/vmlinuz-*'
mv vmlinuz-* kernel
cp -r wheels "$1/wheels"
chroot "$1" python3 -m venv /opt/kes
chroot "$1" sh -c '/opt/kes/bin/pip install --quiet --no-index --no-deps --compile /wheels/*.whl'
rm -r "$1/wheels"
cp agent.service "$1/etc/systemd/system/agent.service"
chroot "$1" systemctl enable agent.service
chroot "$1" systemctl mask getty@tty1.service serial-getty@ttyS0.service
echo kes-test > "$1/etc/hostname"
echo '127.0.0.1 localhost kes-test' > "$1/etc/hosts"
: > "$1/etc/resolv.conf"
: > "$1/etc/machine-id"
# A copy, without what is mounted now: /proc, /sys and the devices.
mkdir root
tar -c -C "$1" --one-file-system --exclude='./dev/*' . | tar -x -C root
mke2fs -q -q -t ext4 -d root root.ext4 1G
"""


@dataclass(frozen=True)
class Image:
    """The two files that a machine starts from. Neither is written to."""

    kernel: Path
    disk: Path


def image() -> Image:
    """The image. However many processes ask for it, one builds it, once, and the others wait."""
    requirements = dependencies()
    name = hashlib.sha256(Path(__file__).read_bytes() + "\n".join(requirements).encode()).hexdigest()[:16]
    folder = cache() / f"boot-{name}"
    if not folder.exists():
        if os.geteuid() != 0:
            (pytest.fail if os.environ.get("CI") else pytest.skip)("the machine's disk can be made by root alone")
        for tool in ("mmdebstrap", "mke2fs"):
            require_tool(tool)
        cache().mkdir(parents=True, exist_ok=True)
        with (cache() / "boot.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                build(folder, requirements)
    return Image(folder / "kernel", folder / "root.ext4")


def dependencies() -> list[str]:
    """What the server needs from PyPI, with the Vault store."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["vault"]]


def build(folder: Path, requirements: list[str]) -> None:
    """Make kernel and disk, in `folder`."""
    with tempfile.TemporaryDirectory(prefix="kes-boot-") as temporary:
        out = Path(temporary)
        download(requirements, out / "wheels")
        (out / "agent.service").write_text(AGENT)
        (out / "finish").write_text(FINISH.format(out=out, kernel=KERNEL))
        command = [
            *("mmdebstrap", "--variant=apt", f"--include={','.join(PACKAGES)}"),
            f'--customize-hook=sh {out}/finish "$1"',
            # No archive of the root is wanted: the hook has made the disk.
            *("--format=null", RELEASE),
        ]
        subprocess.run(command, cwd=out, stdin=subprocess.DEVNULL, check=True, timeout=TIMEOUT)
        new = folder.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        for name in ("kernel", "root.ext4"):
            subprocess.run(["cp", "--sparse=always", out / name, new / name], check=True)
        new.rename(folder)


def download(requirements: list[str], folder: Path) -> None:
    """Wheels for the machine's Python, of the requirements and all that they require."""
    platforms = [f"--platform=manylinux{version}_x86_64" for version in ("_2_28", "_2_17", "2014")]
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", str(folder)),
        *("--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp", *platforms),
        *requirements,
    ]
    subprocess.run(command, check=True, timeout=TIMEOUT)


if __name__ == "__main__" and shutil.which("mmdebstrap") and os.geteuid() == 0:
    print(image().disk)
