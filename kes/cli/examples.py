"""What the examples of the table print, for docs/cli.md: `python -m kes.cli.examples` runs them and records it anew.

Each runs as on a terminal, in a folder with the files that it names, against a server of its own. What differs from run
to run or from machine to machine (times, random keys, ports, figures) is replaced by values that stand for it, so that
two recordings are equal as long as nothing has changed that a reader can see.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from kes.certificate import make_client_certificate, make_server_certificate
from kes.cli.table import ROOT
from kes.client import Client, Settings
from kes.identity import APIKey

RECORDED: Final = Path(__file__).parents[2] / "docs" / "examples.json"

# These go on until they are ended, and what they show is figures, or nothing; or it depends on the machine.
_NOT_RUN: Final = ("kes metric", "kes log --json --follow > audit.log", "kes install --dry-run")

# Known to everyone, and good for nothing but this.
_ADMIN: Final = APIKey.parse("kes:v1:ADsGCjJoWziQ82wPUG6oHbqhhlbkajaRGP+3+JSfx5Wq")
_APP: Final = APIKey.parse("kes:v1:ACQpoGqx3rHHjT938Hfu5hVVQJHZWSqVI2Xp1KlYxFVw")
_READY: Final = "=> Server is up and running..."
_PORT: Final = "7373"
_KEYS: Final = ("my-key", "my-app-key", "my-old-key")  # there before each example that does not make them
_TIMEOUT: Final = 30  # seconds, for an example
_CONFIG: Final = """\
version: v1
address: 127.0.0.1:0
admin:
  identity: {admin}
tls:
  key: server.key
  cert: server.crt
policy:
  my-app:
    allow:
    - /v1/key/create/my-app*
    - /v1/key/generate/my-app*
    - /v1/key/decrypt/my-app*
    deny:
    - /v1/key/create/my-app-internal*
    identities:
    - {app}
keystore:
  fs:
    path: {keys}
"""
_HEX64: Final = re.compile(r"\b[0-9a-f]{64}\b")
_KNOWN: Final = (_ADMIN.identity, _APP.identity)
_REPLACED: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"\x1b\[[0-9;?]*[A-Za-z]"), ""),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z"), "2026-01-02T03:04:05.123456789Z"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "2026-01-02 03:04:05"),
    (re.compile(r"(?m)^\d\d:\d\d:\d\d "), "03:04:05 "),
    (re.compile(r"(?m)^Version {5}\S+ +commit=\S+$"), f"Version     {'1.0.0':<28}commit=0123456789abcdef"),
    (re.compile(r"(?m)^(  Version  )\S+$"), r"\g<1>1.0.0"),
    (re.compile(r"(?m)^Runtime {5}.*$"), f"Runtime     {'CPython 3.11.7 linux/amd64':<28}compiler=GCC 12.2.0"),
    (re.compile(r"(?m)^(  Uptime   ).*$"), r"\g<1>3 minutes"),
    (re.compile(r"(?m)^(  Latency  ).*$"), r"\g<1>3ms"),
    (re.compile(r"(?m)^(  CPUs     ).*$"), r"\g<1>2 amd64"),
    (re.compile(r"(?m)^(  Keystore ).*$"), r"\g<1>1ms"),
    (re.compile(r"(?m)^(  · Heap   ).*$"), r"\g<1>57.9MB"),
    (re.compile(r"(?m)^(  · Stack  ).*$"), r"\g<1>135.2KB"),
    (re.compile(r"(?m)^(03:04:05 .*?)\S+s$"), r"\g<1>142µs"),
    (re.compile(r"(?m)^(Algorithm +)\S+$"), r"\1AES256"),
    (re.compile(r"(?m)^(Copyright .*)\d{4}$"), r"\g<1>2026"),
    (re.compile(r"(?m)^(MLock +).*\n"), ""),
)


def recorded() -> dict[str, str]:
    """What each example printed when it was recorded."""
    found: dict[str, str] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return found


def run_all() -> dict[str, str]:
    """What each example of the table prints now."""
    with tempfile.TemporaryDirectory() as name, _scene(Path(name)) as scene:
        lines = [line for command in ROOT.tree() for _, line in command.examples if line not in _NOT_RUN]
        return {line: scene.run(line) for line in lines}


class Scene:
    """The folder, the server and the environment in which examples run."""

    def __init__(self, folder: Path, port: str, environ: dict[str, str]) -> None:
        self._folder = folder
        self._port = port
        self._environ = environ
        self._client = Client(Settings(f"127.0.0.1:{port}", api_key=str(_ADMIN), ca_file=str(folder / "server.crt")))

    def close(self) -> None:
        self._client.close()

    def run(self, line: str) -> str:
        """What an example shows on a terminal, with what is random or measured replaced."""
        self._set(line)
        words = line.split()
        if words[:2] == ["kes", "server"]:
            # On any free port: the usual one may be taken.
            return self._plain(self._show(f"{line} --addr 127.0.0.1:0", until=_READY))
        if words[:2] == ["kes", "log"]:
            return self._plain(self._show(line, "Latency", self._provoke, until="/v1/key/describe/"))
        return self._plain(self._show(line))

    def _set(self, line: str) -> None:
        """Make the keys and files what the example expects them to be."""
        made = [name for name in _KEYS if re.search(rf"key (create|import).* {name}\b", line)]
        there = self._client.list_keys()
        for name in there:
            if name in made or name not in _KEYS:
                self._client.delete_key(name)
        for name in _KEYS:
            if name not in made and name not in there:
                self._client.create_key(name)
        shutil.rmtree(self._folder / "new-keys", ignore_errors=True)
        if "$CIPHERTEXT" in line:
            self._environ["CIPHERTEXT"] = base64.b64encode(self._client.encrypt("my-key", b"Hello World")).decode()

    def _provoke(self) -> None:
        self._client.describe_key("my-key")

    def _show(self, line: str, first: str = "", then: Callable[[], None] | None = None, until: str = "") -> str:
        """What `line` shows. When `first` is there, `then` is called; when `until` is there, Ctrl-C is typed."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen(  # noqa: S603
            ["/bin/bash", "-c", line],
            cwd=self._folder,
            env=self._environ,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        shown = ""
        try:
            for part in _parts(ours):
                shown += part
                if then is not None and first in shown:
                    then()
                    then = None
                elif until and until in shown and then is None and shown.endswith("\n"):
                    until = ""
                    os.killpg(process.pid, signal.SIGINT)
            process.wait(_TIMEOUT)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(ours)
        return shown.replace("\r\n", "\n")

    def _plain(self, shown: str) -> str:
        for pattern, replacement in _REPLACED:
            shown = pattern.sub(replacement, shown)
        shown = shown.replace(str(self._folder), ".")  # first: a path may look like base64
        shown = shown.replace(f"127.0.0.1:{self._port}", f"127.0.0.1:{_PORT}")
        shown = re.sub(r"(https://127\.0\.0\.1):\d+/", rf"\1:{_PORT}/", shown)
        shown = _HEX64.sub(lambda m: m[0] if m[0] in _KNOWN else _ADMIN.identity, shown)
        shown = re.sub(r"kes:v1:[A-Za-z0-9+/]{44}", str(_ADMIN), shown)
        return re.sub(r"(?<![A-Za-z0-9+/:])(?![0-9a-f]{64}\b)[A-Za-z0-9+/]{43,}=*", _stand_in, shown)


def _stand_in(found: re.Match[str]) -> str:
    """Base64 of as many bytes, always the same."""
    if found[0] == str(_ADMIN).removeprefix("kes:v1:"):
        return found[0]
    size = len(base64.b64decode(found[0]))
    return base64.b64encode(hashlib.shake_256(b"kes %d" % size).digest(size)).decode()


def _parts(terminal: int) -> Iterator[str]:
    decode = getincrementaldecoder("utf-8")().decode
    while True:
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:
            return  # EIO: nobody has the other end open any more
        yield decode(data)


@contextmanager
def _scene(folder: Path) -> Iterator[Scene]:
    """A folder with the files that the examples name, and a server."""
    now = datetime.now(UTC)
    for names, pems in (
        (("server.crt", "server.key"), make_server_certificate([], now)),
        (("client.crt", "client.key"), make_client_certificate(_APP, now)),
    ):
        for name, pem in zip(names, pems, strict=True):
            (folder / name).touch(mode=0o600)  # a server warns of a key that everybody may read
            (folder / name).write_bytes(pem)
    for name, keys in (("config.yml", "keys"), ("old.yml", "keys"), ("new.yml", "new-keys")):
        (folder / name).write_text(_CONFIG.format(admin=_ADMIN.identity, app=_APP.identity, keys=keys))
    (folder / "key.b64").write_bytes(base64.b64encode(bytes(range(32))) + b"\n")
    (folder / "message.txt").write_text("Hello World\n")
    kes = Path(sys.executable).parent
    environ = {
        "PATH": f"{kes}:{os.environ['PATH']}",
        "HOME": str(folder),
        "SHELL": "/bin/bash",
        "TERM": "dumb",
        "LANG": "C.UTF-8",
        "COLUMNS": "100",
    }
    process = subprocess.Popen(  # noqa: S603
        [kes / "kes", "server", "--config", "config.yml"],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = ""
        for line in process.stdout:
            found = re.search(r"https://127\.0\.0\.1:(\d+)/", line)
            port = found[1] if found else port
            if _READY in line:
                break
        environ |= {
            "KES_SERVER": f"127.0.0.1:{port}",
            "KES_API_KEY": str(_ADMIN),
            "SSL_CERT_FILE": str(folder / "server.crt"),
        }
        scene = Scene(folder, port, environ)
        try:
            yield scene
        finally:
            scene.close()
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


if __name__ == "__main__":
    RECORDED.write_text(json.dumps(run_all(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
