"""What tests share: a real server in a process of its own, and a plain HTTPS client to talk to it.

The server listens on a free port of 127.0.0.1 and says which in its start-up output; nothing sleeps to wait for it.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from kes.certificate import make_client_certificate, make_server_certificate
from kes.identity import APIKey

KES = str(Path(sys.executable).with_name("kes"))
TWISTD = str(Path(sys.executable).with_name("twistd"))
TIMEOUT = 20  # seconds; far more than anything here takes
READY = "=> Server is up and running..."

ADMIN = APIKey.parse("kes:v1:AKqwms5wRWf0p94XmeD0FYJkeVnFeA9uW/tyX6nT8HRk")
APP = APIKey.parse("kes:v1:AOcQ/bjW2J9Y7WPqsTUYv750vaR4kbPMUOFgBzvf14CF")
OPS = APIKey.parse("kes:v1:AHgcocxVM5MvB3o8i6jk77Yl3zoMvC0CvGryKLdzzHAd")
STRANGER = APIKey.parse("kes:v1:ANAkvbKPzhICJTEA7DXNB/UAEhDL/veXpsYh2Z3dkfHY")


def require_tool(name: str) -> str:
    """The path of a program that a test needs. Without it the test is skipped; in CI, where none may be, it fails."""
    path = shutil.which(name)
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"this needs the program {name!r}")
    return path


def run(*command: str, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=TIMEOUT, check=False)


def error_line(result: subprocess.CompletedProcess[str]) -> str:
    """The message of a command that failed as it should: one line `Error: …`, status 1, nothing on standard output."""
    assert (result.returncode, result.stdout) == (1, ""), result
    assert re.fullmatch(r"Error: .+\n", result.stderr), result.stderr
    return result.stderr.removeprefix("Error: ").rstrip("\n")


@dataclass(frozen=True)
class Answer:
    """A response. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return self.json["message"]


def client_context(folder: Path, key: APIKey | None, ca: Path | None = None) -> ssl.SSLContext:
    """A TLS context of a client with `key`'s certificate. It trusts `ca`, or, without one, any server."""
    context = ssl.create_default_context(cafile=ca) if ca else ssl._create_unverified_context()
    if key is not None:
        pem = folder / f"client-{key.identity}.pem"
        if not pem.exists():
            # In one step: another thread may be about to read it.
            new = pem.with_suffix(f".{threading.get_ident()}")
            new.write_bytes(b"".join(make_client_certificate(key, datetime.now(UTC))))
            new.replace(pem)
        context.load_cert_chain(pem)
    return context


class Client:
    """One keep-alive connection."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=TIMEOUT)

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = {}, *, chunked: bool = False
    ) -> Answer:
        """Send a request; a body that is no bytes is sent as JSON."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.connection.request(
            method,
            path,
            iter([body]) if chunked else body,
            {"Transfer-Encoding": "chunked", **headers} if chunked else dict(headers),
            encode_chunked=chunked,
        )
        response = self.connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def close(self) -> None:
        self.connection.close()


class Server:
    """A `kes` process. As a context manager it is stopped at the end, and must have stopped well."""

    def __init__(
        self, command: list[str], *, cwd: Path, env: Mapping[str, str] | None = None, pass_fds: Sequence[int] = ()
    ) -> None:
        self.folder = cwd
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            pass_fds=pass_fds,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._changed = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        self._clients: list[Client] = []
        self._open = len(self._readers)
        for reader in self._readers:
            reader.start()
        try:
            self.wait_for(READY)
        except AssertionError:
            self.stop(signal.SIGKILL)
            raise
        self.port = int(re.search(r"https://\S+:(\d+)/", "".join(self.out))[1])

    def _read(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            with self._changed:
                lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    def wait_for(self, text: str, *, errors: bool = False, count: int = 1) -> str:
        """Wait until `text` has been in `count` lines of standard output (or error); the last of them."""
        lines = self.err if errors else self.out
        with self._changed:
            self._changed.wait_for(lambda: sum(text in line for line in lines) >= count or not self._open, TIMEOUT)
            matching = [line for line in lines if text in line]
        found = len(matching) >= count
        assert found, f"no {text!r} in:\n{''.join(self.out)}{''.join(self.err)}"
        return matching[-1]

    def client(self, key: APIKey | None = ADMIN, ca: Path | None = None) -> Client:
        """A new connection, with `key`'s certificate; it is closed with the server at the latest."""
        client = Client(self.port, client_context(self.folder, key, ca))
        self._clients.append(client)
        return client

    def reload(self) -> None:
        """Send SIGHUP and wait until the new configuration is in force."""
        before = sum("after SIGHUP signal completed" in line for line in self.out)
        self.process.send_signal(signal.SIGHUP)
        self.wait_for("after SIGHUP signal completed", count=before + 1)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit status."""
        for client in self._clients:
            client.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(TIMEOUT)
        for reader in self._readers:
            reader.join(TIMEOUT)
        self.process.stdout.close()
        self.process.stderr.close()
        return status

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        status = self.stop()
        if exception[0] is None:
            assert status == 0, "".join(self.err)


def write_server_certificate(folder: Path, *hosts: str) -> tuple[Path, Path]:
    """A self-signed server certificate for this machine and other `hosts`, and its key."""
    cert, key = folder / "server.crt", folder / "server.key"
    cert_pem, key_pem = make_server_certificate(hosts, datetime.now(UTC))
    cert.write_bytes(cert_pem)
    key.touch(0o600)
    key.write_bytes(key_pem)
    return cert, key


def write_client_certificate(folder: Path, key: APIKey) -> tuple[Path, Path]:
    """The client certificate of an API key, and its private key."""
    cert, private = folder / "client.crt", folder / "client.key"
    for file, pem in zip((cert, private), make_client_certificate(key, datetime.now(UTC)), strict=True):
        file.write_bytes(pem)
    return cert, private


def make_config(folder: Path, **sections: Any) -> dict[str, Any]:
    """A config with `ADMIN` as admin, the transcript's policies, keys in `folder`/keys; `sections` replace its own."""
    cert, key = folder / "server.crt", folder / "server.key"
    if not cert.exists():
        write_server_certificate(folder)
    policy = {
        "my-app": {
            "allow": [
                "/v1/key/create/my-app*",
                "/v1/key/generate/my-app*",
                "/v1/key/encrypt/my-app*",
                "/v1/key/decrypt/my-app*",
                "/v1/key/list/my-app*",
                "/v1/status",
            ],
            "deny": ["/v1/key/generate/my-app-internal*", "/v1/key/decrypt/my-app-internal*"],
            "identities": [APP.identity],
        },
        "ops": {
            "allow": [
                "/v1/key/describe/*",
                "/v1/key/list/*",
                "/v1/policy/list/*",
                "/v1/identity/list/*",
                "/v1/metrics",
            ],
            "identities": [OPS.identity],
        },
        "empty": {},
    }
    return {
        "version": "v1",
        "admin": {"identity": ADMIN.identity},
        "tls": {"key": str(key), "cert": str(cert), "auth": "off"},
        "policy": policy,
        "keystore": {"fs": {"path": str(folder / "keys")}},
        **sections,
    }


def write_config(folder: Path, **sections: Any) -> Path:
    """`make_config` as a file; the same file each time, replaced in one step."""
    path = folder / "config.yml"
    new = folder / "config.yml.new"
    new.write_text(yaml.safe_dump(make_config(folder, **sections)))
    new.replace(path)
    return path


def start(folder: Path, *options: str, env: Mapping[str, str] | None = None, **sections: Any) -> Server:
    """`kes server` on a config made by `write_config`."""
    config = write_config(folder, **sections)
    return Server([KES, "server", "--addr", "127.0.0.1:0", "--config", str(config), *options], cwd=folder, env=env)


def start_dev(folder: Path, env: Mapping[str, str] | None = None) -> tuple[Server, APIKey]:
    """`kes server --dev`, and the API key that it made."""
    server = Server([KES, "server", "--dev", "--addr", "127.0.0.1:0"], cwd=folder, env=env)
    return server, APIKey.parse(re.search(r"kes:v1:\S+", "".join(server.out))[0])
