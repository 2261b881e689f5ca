"""nginx and HAProxy as processes, in front of a server: on the very files that `etc/` has, with other paths and ports.

Nothing sleeps for a fixed time: what is waited for is asked for until it is there.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from tests.documents import ROOT, blocks, type_in
from tests.openbao.server import free_ports, until
from tests.support import TIMEOUT, require_tool

DOCUMENT = (ROOT / "docs" / "tls-proxy.md").read_text()

# Everything that a distribution's own nginx.conf settles. The worker must reach the test's folder, which is root's.
NGINX = """
daemon off;
user root;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/nginx;
    proxy_temp_path {folder}/nginx;
    fastcgi_temp_path {folder}/nginx;
    uwsgi_temp_path {folder}/nginx;
    scgi_temp_path {folder}/nginx;
    include {folder}/kes.conf;
}}
"""


def make_identities(folder: Path) -> dict[str, Any]:
    """Make the keys and certificates as the document says, in `folder`; the `tls` section of the server's config."""
    make, join = blocks(DOCUMENT, "sh")
    assert "--dns kes.example.com" in make
    told = type_in(make.replace("--dns kes.example.com", "--ip 127.0.0.1,::1"), folder)
    type_in(join, folder)
    (config,) = blocks(DOCUMENT, "yaml")
    identity = told.splitlines()[-1]
    tls: dict[str, Any] = yaml.safe_load(
        config.replace("/etc/kes/", f"{folder}/").replace("${PROXY_IDENTITY}", identity)
    )["tls"]
    return tls


def substitute(sample: Path, changes: dict[str, str]) -> str:
    """A sample config with `changes`, each of which must be possible."""
    text = sample.read_text()
    for old, new in changes.items():
        assert old in text, f"{sample}: no {old!r}"
        text = text.replace(old, new)
    return text


class Proxy:
    """A proxy that listens on `port` of 127.0.0.1 and ::1 and forwards to 127.0.0.1:`to`, with its files in `folder`.

    As a context manager it is stopped at the end, and must have stopped well.
    """

    def __init__(self, folder: Path, to: int) -> None:
        self.folder = folder
        (self.port,) = free_ports(1)
        command = self.configure(to)
        self.log = folder / f"{type(self).__name__.lower()}.err"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            until(self.listens, "the proxy takes connections")
        except AssertionError as error:
            self.process.kill()
            self.process.wait(TIMEOUT)
            raise AssertionError(f"{error}: {self.log.read_text()}") from None

    def configure(self, to: int) -> list[str]:
        """Write the files; the command that starts it."""
        raise NotImplementedError

    def reload(self) -> None:
        """Have it read its files again, and wait until new processes serve."""
        raise NotImplementedError

    def listens(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with suppress(ConnectionRefusedError):
            for address in ("127.0.0.1", "::1"):
                socket.create_connection((address, self.port), TIMEOUT).close()
            return True
        return False

    def children(self) -> set[str]:
        """The ids of the processes that serve."""
        return set(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split())

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(TIMEOUT)


class Nginx(Proxy):
    """`etc/nginx/kes.conf`."""

    def configure(self, to: int) -> list[str]:
        changes = {
            "listen 7373 ssl": f"listen 127.0.0.1:{self.port} ssl",
            "listen [::]:7373 ssl": f"listen [::1]:{self.port} ssl",
            "127.0.0.1:7374": f"127.0.0.1:{to}",
            "/etc/nginx/kes/": f"{self.folder}/",
        }
        (self.folder / "kes.conf").write_text(substitute(ROOT / "etc/nginx/kes.conf", changes))
        (self.folder / "nginx.conf").write_text(NGINX.format(folder=self.folder))
        return [require_tool("nginx"), "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")]

    def reload(self) -> None:
        before = self.children()
        self.process.send_signal(signal.SIGHUP)
        until(lambda: self.children() - before, "new workers")


class HAProxy(Proxy):
    """`etc/haproxy/haproxy.cfg`: HTTP/1.1 to the server."""

    @property
    def further(self) -> dict[str, str]:
        """More to substitute."""
        return {}

    def configure(self, to: int) -> list[str]:
        changes = {
            "bind :7373 ": f"bind 127.0.0.1:{self.port} ",
            "bind [::]:7373 ": f"bind [::1]:{self.port} ",
            "127.0.0.1:7374": f"127.0.0.1:{to}",
            "/etc/haproxy/kes/": f"{self.folder}/",
            **self.further,
        }
        if os.geteuid():  # only root can change to another user
            changes |= {"    user haproxy\n    group haproxy\n    chroot /var/lib/haproxy\n": ""}
        (self.folder / "haproxy.cfg").write_text(substitute(ROOT / "etc/haproxy/haproxy.cfg", changes))
        return [require_tool("haproxy"), "-W", "-f", str(self.folder / "haproxy.cfg")]

    def reload(self) -> None:
        before = self.children()
        self.process.send_signal(signal.SIGUSR2)
        until(lambda: self.children() - before, "a new worker")


class HAProxy2(HAProxy):
    """The same with HTTP/2 to the server."""

    @property
    def further(self) -> dict[str, str]:
        return {"verifyhost kes.internal": "verifyhost kes.internal alpn h2"}


class OptionalHAProxy(HAProxy):
    """HAProxy as the document has it for clients without a certificate as well."""

    @property
    def further(self) -> dict[str, str]:
        sample, optional = blocks(DOCUMENT, "haproxy")
        (line,) = (line for line in sample.splitlines(keepends=True) if "set-header X-Tls-Client-Cert" in line)
        return {"verify required ca-verify-file": "verify optional ca-verify-file", line: optional}
