"""Reload under load: whatever changes, and whatever goes wrong with a new configuration, no request fails."""

from __future__ import annotations

import itertools
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kes.identity import APIKey
from tests.support import (
    ADMIN,
    APP,
    OPS,
    STRANGER,
    Client,
    Server,
    client_context,
    make_config,
    require_tool,
    start,
    write_config,
)
from tests.support import write_server_certificate as write_certificate

KEYS = [f"my-app-{number}" for number in range(5)]


class Load:
    """Threads that send requests until they are told to stop, and all that went wrong."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self.failures: list[object] = []
        self.answered: list[int] = []

    def add(self, key: APIKey, session: Callable[[Client], None], *, fresh: bool) -> None:
        """Repeat a session, on one connection or on a fresh one each time."""
        # Trusts any certificate: the server's changes, and it is no part of what is tested here.
        context = client_context(self._server.folder, key)
        index = len(self.answered)
        self.answered.append(0)

        def work() -> None:
            client = Client(self._server.port, context)
            try:
                while not self._over.is_set():
                    session(client)
                    self.answered[index] += 1
                    if fresh:
                        client.close()
                        client = Client(self._server.port, context)
            except Exception as error:  # whatever it is, the test must hear of it
                self.failures.append(error)
            finally:
                client.close()

        self._threads.append(threading.Thread(target=work))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait_for_more(self, sessions: int) -> None:
        """Until each thread has done so many more, or something has gone wrong."""
        wanted = [count + sessions for count in self.answered]
        while any(count < want for count, want in zip(self.answered, wanted, strict=True)) and not self.failures:
            self._over.wait(0.01)

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def succeed(client: Client, method: str, path: str, body: Any = None) -> Any:
    answer = client.request(method, path, body)
    assert answer.status == 200, (method, path, answer)
    return answer.json if answer.body else None


def use_keys(client: Client) -> None:
    for key in KEYS:
        made = succeed(client, "PUT", f"/v1/key/generate/{key}", {"context": "AAAA"})
        again = succeed(client, "PUT", f"/v1/key/decrypt/{key}", {"ciphertext": made["ciphertext"], "context": "AAAA"})
        assert again["plaintext"] == made["plaintext"]


def list_keys(client: Client) -> None:
    assert succeed(client, "GET", "/v1/key/list/my-app")["names"] == KEYS


def presented_certificate(server: Server) -> bytes:
    client = server.client()
    client.request("GET", "/version")
    certificate = client.connection.sock.getpeercert(binary_form=True)
    client.close()
    return certificate


@pytest.mark.parametrize("rounds", [6])
def test_no_request_fails(tmp_path: Path, rounds: int) -> None:
    """While clients send without a pause, over kept and over fresh connections, the configuration changes and changes.

    Policies, certificate, cache and log settings are each in force after the reload that brought them; a broken file
    changes nothing. Not one request fails.
    """
    with start(tmp_path, keys=[{"name": name} for name in KEYS]) as server:
        load = Load(server)
        for key, session in [(APP, use_keys), (ADMIN, use_keys), (APP, list_keys), (OPS, list_keys)]:
            load.add(key, session, fresh=False)
        load.add(APP, use_keys, fresh=True)
        load.add(OPS, list_keys, fresh=True)
        load.start()
        try:
            certificates = {presented_certificate(server)}
            for number in range(1, rounds + 1):
                load.wait_for_more(2)
                write_certificate(tmp_path)
                policy = {
                    "my-app": {"allow": ["/v1/key/*"], "deny": [f"/v1/key/create/{number}"]},
                    "ops": {"allow": ["/v1/key/list/*"]},
                    f"round-{number}": {"allow": ["/v1/status"], "identities": [STRANGER.identity]},
                }
                policy["my-app"]["identities"] = [APP.identity]
                policy["ops"]["identities"] = [OPS.identity]
                write_config(
                    tmp_path,
                    policy=policy,
                    cache={"expiry": {"any": f"{number}s", "unused": "0s" if number % 2 else "5s"}},
                    log={"audit": "on" if number % 2 else "off", "error": "INFO"},
                )
                server.reload()
                assigned = server.client().request("GET", f"/v1/identity/describe/{STRANGER.identity}").json
                assert assigned["policy"] == f"round-{number}"
                certificates.add(presented_certificate(server))
                assert len(certificates) == number + 1, "the new certificate is not in use"
                if number == rounds // 2:
                    (tmp_path / "config.yml").write_text("nonsense: true\n")
                    server.process.send_signal(signal.SIGHUP)
                    server.wait_for("config.yml:1: ", errors=True)
                    load.wait_for_more(2)
                    kept = server.client().request("GET", f"/v1/identity/describe/{STRANGER.identity}").json
                    assert kept["policy"] == f"round-{number}"
            load.wait_for_more(2)
        finally:
            load.stop()
    assert load.failures == []
    assert min(load.answered) >= 2 * rounds
    assert sum("level=ERROR" in line for line in server.err) == 1


def test_signals_in_quick_succession(tmp_path: Path) -> None:
    """Reloads asked for faster than they are made neither pile up nor fail a request; the last file is in force."""
    with start(tmp_path, keys=[{"name": name} for name in KEYS]) as server:
        load = Load(server)
        load.add(APP, use_keys, fresh=False)
        load.add(APP, list_keys, fresh=True)
        load.start()
        try:
            for number in itertools.count():
                write_config(tmp_path, log={"error": f"INFO+{number % 3 + 1}" if number < 30 else "ERROR"})
                server.process.send_signal(signal.SIGHUP)
                if number == 30:
                    break
            server.wait_for("error=stderr level=ERROR")
            load.wait_for_more(2)
        finally:
            load.stop()
    assert load.failures == []


def test_request_with_its_body_to_come(tmp_path: Path) -> None:
    """A request that began before a reload ends on the state that it began with, key store and all."""
    with start(tmp_path, keys=[{"name": "my-app"}]) as server:
        client = server.client(APP)
        client.request("GET", "/version")
        client.connection.putrequest("PUT", "/v1/key/generate/my-app")
        client.connection.putheader("Content-Length", "2")
        client.connection.endheaders()
        # So that the head has arrived.
        assert server.client().request("GET", "/version").status == 200
        write_config(tmp_path, policy={}, keystore={"fs": {"path": str(tmp_path / "other-keys")}})
        server.reload()
        client.connection.send(b"{}")
        response = client.connection.getresponse()
        assert (response.status, response.read()[:13]) == (200, b'{"plaintext":')
        assert client.request("PUT", "/v1/key/generate/my-app").status == 403


def test_connections_move_to_a_new_certificate(tmp_path: Path) -> None:
    """A connection stays over a reload that leaves the TLS settings alone; after others its next answer is its last."""
    with start(tmp_path) as server:
        client = server.client()
        for change, last in [(lambda: None, None), (lambda: write_certificate(tmp_path), "close")]:
            before = client.request("GET", "/version")
            change()
            server.reload()
            after = client.request("GET", "/version")
            assert [answer.headers.get("connection") for answer in (before, after)] == [None, last]
        write_config(tmp_path, tls={**make_config(tmp_path)["tls"], "auth": "on"})
        before = client.request("GET", "/version")
        server.reload()
        assert before.headers.get("connection") is None
        assert client.request("GET", "/version").headers["connection"] == "close"
        with pytest.raises(OSError, match=r"(?i)certificate|unknown ca|reset|pipe|closed"):
            client.request("GET", "/version")


def test_the_sdk_moves_to_a_new_certificate(tmp_path: Path) -> None:
    """While the SDK sends over HTTP/2 without a pause, the certificate changes and changes; not one request fails."""
    program = tmp_path / "load"
    source = Path(__file__).parents[2] / "bench" / "load"
    subprocess.run([require_tool("go"), "build", "-o", program, "."], cwd=source, check=True, timeout=300)
    with start(tmp_path, keys=[{"name": "my-app"}]) as server:
        options = {
            "-server": f"https://127.0.0.1:{server.port}",
            "-ca": str(tmp_path / "server.crt"),
            "-key": str(APP),
            "-name": "my-app",
            "-op": "mixed",
            "-duration": "2s",
        }
        load = subprocess.Popen([program, *itertools.chain(*options.items())], stderr=subprocess.PIPE, text=True)
        reloads = 0
        while load.poll() is None:
            # The same certificate, so that the client trusts it, but a new file.
            certificate = tmp_path / "server.crt"
            new = certificate.with_suffix(".new")
            new.write_bytes(certificate.read_bytes())
            new.replace(certificate)
            server.reload()
            reloads += 1
        assert load.stderr is not None
        errors = load.stderr.read()
        load.stderr.close()
    assert (load.returncode, errors) == (0, "")
    assert reloads > 1
