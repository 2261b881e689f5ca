"""The Vault key store on a fake: the shared suite, and all that goes wrong between a server and its Vault.

What needs the real thing is in `test_openbao.py`. Contract: keystores.md 3 and 11.3.
"""

from __future__ import annotations

import base64
import math
import socket
import socketserver
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import capturedLogs, formatEvent

from kes.keystore import KeyExists, KeyStore, KeyStoreError, Unreachable, connect
from kes.keystore.settings import AppRoleSettings, KubernetesSettings, TransitSettings, VaultSettings
from kes.keystore.vault import VaultStore
from kes.keystore.vaultclient import MAX_ANSWER, OPERATION, join
from tests.keystore.fakevault import FakeVault, Versioned
from tests.keystore.test_every_store import *  # noqa: F403 - the suite, on the fixtures of this module
from tests.keystore.test_every_store import CURRENT, LEGACY, Plant, Traits
from tests.support import APP, write_client_certificate, write_server_certificate

VALUE = CURRENT.decode()
SECRET = "9b2c6a4e-5a1f-4c1b-8a39-secret"
LOGIN = AppRoleSettings("role-id", SECRET)
HTML = b"<html>a login page</html>"


class Clock:
    """Time that passes when someone sleeps, or a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


Open = Callable[..., VaultStore]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxy the machine has, it is not for these servers."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def vault(clock: Clock) -> Iterator[FakeVault]:
    """A Vault with an engine of either version, `kv` and `kv2`, and a transit engine with a key."""
    vault = FakeVault(clock)
    set_up(vault, "")
    yield vault
    vault.close()


def set_up(vault: FakeVault, namespace: str) -> None:
    vault.namespaces.add(namespace)
    vault.v1[namespace, "kv"] = {}
    vault.v2[namespace, "kv2"] = {}
    vault.transit[namespace, "transit"] = {"wrap": 1}
    vault.logins[namespace, "approle"] = {"role_id": "role-id", "secret_id": SECRET}


@pytest.fixture
def open_store(vault: FakeVault, clock: Clock) -> Iterator[Open]:
    """A function that opens a store on the fake; `v` is the version, anything else a setting."""
    opened: list[VaultStore] = []

    def open_store(v: int = 1, **settings: Any) -> VaultStore:
        settings = {"engine": "kv" if v == 1 else "kv2", "version": v, "endpoint": vault.endpoint, **settings}
        store = VaultStore(
            VaultSettings(login=settings.pop("login", LOGIN), **settings),
            clock=clock,
            sleep=clock.sleep,
            uniform=lambda low, high: low,
        )
        opened.append(store)
        return store

    yield open_store
    for store in opened:
        store.close()


# The shared suite

KINDS: dict[str, dict[str, Any]] = {
    "v1": {"v": 1},
    "v1 prefix transit": {"v": 1, "prefix": "some/folder", "transit": TransitSettings("wrap")},
    "v2": {"v": 2},
    "v2 prefix transit": {"v": 2, "prefix": "some/folder", "transit": TransitSettings("wrap")},
}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


@pytest.fixture
def store(open_store: Open, kind: dict[str, Any]) -> KeyStore:
    return open_store(**kind)


@pytest.fixture
def plant(vault: FakeVault, kind: dict[str, Any]) -> Plant:
    def plant(name: str, value: bytes) -> None:
        path = f"{kind.get('prefix', '')}/{name}".lstrip("/")
        if kind["v"] == 1:
            vault.v1["", "kv"][path] = {name: value.decode()}
        else:
            vault.v2["", "kv2"][path] = Versioned([{name: value.decode()}])

    return plant


@pytest.fixture
def traits() -> Traits:
    return Traits(binary=False, tells_of_missing=False)


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def v(request: pytest.FixtureRequest) -> int:
    return request.param


def put(vault: FakeVault, v: int, name: str, fields: dict[str, Any]) -> None:
    """Write an entry as another program would."""
    if v == 1:
        vault.v1["", "kv"][name] = fields
    else:
        vault.v2["", "kv2"][name] = Versioned([fields])


def entry(vault: FakeVault, v: int, name: str) -> Any:
    """The fields of an entry, None if there is none."""
    if v == 1:
        return vault.v1["", "kv"].get(name)
    found = vault.v2["", "kv2"].get(name)
    return found.versions[0] if found else None


def path(v: int, name: str) -> str:
    return f"kv/{name}" if v == 1 else f"kv2/data/{name}"


def error(call: Callable[[], object]) -> KeyStoreError:
    with pytest.raises(KeyStoreError) as caught:
        call()
    return caught.value


def plain(call: Callable[[], object]) -> str:
    """The text of an error that is of no particular class, so a 502."""
    caught = error(call)
    assert type(caught) is KeyStoreError, repr(caught)
    return str(caught)


# Opening


def test_connect(vault: FakeVault) -> None:
    """The settings lead to this store, whose start-up line names the endpoint as operators know it."""
    store = connect(VaultSettings(vault.endpoint, LOGIN))
    assert store.kms == f"Hashicorp Vault: {vault.endpoint}"
    store.close()


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without httpcore, the error says how to get it."""
    monkeypatch.setitem(sys.modules, "httpcore", None)
    with pytest.raises(
        KeyStoreError, match=r"^the Vault key store needs the package httpcore: pip install 'kes\[vault\]'$"
    ):
        connect(VaultSettings("http://127.0.0.1:1", LOGIN))


def test_opening_writes_nothing(vault: FakeVault, open_store: Open, v: int) -> None:
    """Checking the settings leaves no entry behind."""
    open_store(v, transit=TransitSettings("wrap"))
    assert (vault.v1["", "kv"], vault.v2["", "kv2"]) == ({}, {})


@pytest.mark.parametrize("state", ["sealed", "initialized"])
def test_opening_a_sealed_vault(vault: FakeVault, open_store: Open, state: str) -> None:
    """A Vault that is sealed or not initialised is unreachable, and no login is tried."""
    setattr(vault, state, state == "sealed")
    assert isinstance(error(open_store), Unreachable)
    assert vault.count("PUT auth/") == 0


def test_opening_on_a_standby(vault: FakeVault, open_store: Open) -> None:
    """A standby is healthy."""
    vault.standby = True
    assert open_store().status() >= 0


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"endpoint": "http://127.0.0.1:1"}, "keystore.vault.endpoint"),
        ({"login": AppRoleSettings("other", SECRET)}, "keystore.vault.approle.id and .secret"),
        ({"login": AppRoleSettings("role-id", "other")}, "keystore.vault.approle.id and .secret"),
        ({"login": AppRoleSettings("role-id", SECRET, engine="other")}, "is enabled at .engine"),
        ({"login": KubernetesSettings("other", "jwt")}, "keystore.vault.kubernetes.role and .jwt"),
        ({"engine": "other"}, "keystore.vault.engine"),
        ({"engine": "transit"}, "keystore.vault.engine"),
        ({"namespace": "other"}, ".namespace"),
        ({"v": 2, "engine": "kv"}, "write keystore.vault.version: v1"),
        ({"v": 1, "engine": "kv2"}, "write keystore.vault.version: v2"),
        ({"transit": TransitSettings("other")}, "keystore.vault.transit.key"),
        ({"transit": TransitSettings("wrap", engine="other")}, r"keystore.vault.transit.key and .engine"),
    ],
)
def test_wrong_settings(open_store: Open, settings: dict[str, Any], setting: str) -> None:
    """A setting that is wrong is an error when the store is opened, which names it."""
    assert setting in str(error(lambda: open_store(**settings)))


def test_hidden_mounts(vault: FakeVault, open_store: Open) -> None:
    """Where Vault does not tell of its mounts, a read shows the same; one that is denied names what to check."""
    vault.mounts_hidden = True
    open_store(1)
    open_store(2)
    assert "check keystore.vault.version" in plain(lambda: open_store(1, engine="kv2"))
    vault.denied = ["GET kv/"]
    assert "the login's policies allow `read` of kv/*, and keystore.vault.engine" in plain(lambda: open_store(1))


def test_transit_that_cannot_decrypt(vault: FakeVault, open_store: Open) -> None:
    """A login that may encrypt and not decrypt would make keys that nobody can read: it is refused."""
    vault.denied = ["POST transit/decrypt"]
    assert "allow `update` of transit/decrypt/wrap" in plain(lambda: open_store(transit=TransitSettings("wrap")))


def test_no_vault_at_the_endpoint(vault: FakeVault, open_store: Open) -> None:
    """Something else that speaks HTTP is told from Vault."""
    vault.fail("GET sys/health", status=200, content=HTML, content_type="text/html")
    assert "check keystore.vault.endpoint" in plain(open_store)


@pytest.mark.parametrize("answer", [b"{}", b'{"auth": {}}', b'{"auth": null}', b'{"auth": {"client_token": ""}}'])
def test_login_without_a_token(vault: FakeVault, open_store: Open, answer: bytes) -> None:
    """A login's answer without a token is a failed login."""
    vault.fail("PUT auth/approle/login", status=200, content=answer)
    assert "no token in the answer" in plain(open_store)


def test_a_failed_opening_gives_the_token_back(vault: FakeVault, open_store: Open) -> None:
    """Whoever tries settings until they are right leaves no tokens behind."""
    error(lambda: open_store(engine="other"))
    assert vault.tokens == {}


@pytest.mark.parametrize("may_update", [False, True])
def test_warning_of_update(vault: FakeVault, open_store: Open, v: int, may_update: bool) -> None:
    """With version 1, a policy that grants `update` lets a server overwrite another's key: a warning says so."""
    vault.may_update = may_update
    warnings = open_store(v).warnings
    assert len(warnings) == (v == 1 and may_update)
    assert all("`update`" in warning for warning in warnings)


# TLS


@pytest.fixture
def tls_vault(clock: Clock, tmp_path: Path) -> Iterator[FakeVault]:
    """A Vault that has a certificate, `server.crt`, and takes no client without one that it signed: itself."""
    cert, key = write_server_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    vault = FakeVault(clock, context)
    set_up(vault, "")
    yield vault
    vault.close()


def test_tls(tls_vault: FakeVault, open_store: Open, tmp_path: Path) -> None:
    """Authorities come from a file, or from the files of a directory; without the right one there is no connection."""
    cert = tmp_path / "server.crt"
    folder = tmp_path / "authorities"
    folder.mkdir()
    (folder / "ca.pem").write_bytes(cert.read_bytes())
    (folder / "sub").mkdir()
    for ca in (cert, folder):
        open_store(endpoint=tls_vault.endpoint, tls_ca=str(ca))
    caught = error(lambda: open_store(endpoint=tls_vault.endpoint))
    assert isinstance(caught, Unreachable)
    assert "not trusted" in str(caught)
    assert "check keystore.vault.tls.ca" in str(caught)


def test_http_and_https_mixed_up(tls_vault: FakeVault, vault: FakeVault, open_store: Open) -> None:
    """The wrong scheme is an error that points to the endpoint."""
    plain_to_tls = error(lambda: open_store(endpoint=tls_vault.endpoint.replace("https", "http")))
    tls_to_plain = error(lambda: open_store(endpoint=vault.endpoint.replace("http", "https")))
    for caught in (plain_to_tls, tls_to_plain):
        assert ".endpoint" in str(caught)


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"\xff"])
def test_unusable_authorities(open_store: Open, tmp_path: Path, content: bytes | None) -> None:
    """Authorities that cannot be read are an error, also where TLS is not used: the system's never step in."""
    ca = tmp_path / "ca.pem"
    if content is not None:
        ca.write_bytes(content)
    assert f"keystore.vault.tls.ca {ca}" in plain(lambda: open_store(tls_ca=str(ca)))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no file" in plain(lambda: open_store(tls_ca=str(empty)))


def test_client_certificate(clock: Clock, open_store: Open, tmp_path: Path) -> None:
    """A client certificate is shown to a Vault that wants one; without it, the error points to the TLS settings."""
    cert, key = write_server_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    own, own_key = write_client_certificate(tmp_path, APP)
    context.load_verify_locations(own)
    context.verify_mode = ssl.CERT_REQUIRED
    vault = FakeVault(clock, context)
    set_up(vault, "")
    try:
        open_store(endpoint=vault.endpoint, tls_ca=str(cert), tls_cert=str(own), tls_key=str(own_key))
        caught = error(lambda: open_store(endpoint=vault.endpoint, tls_ca=str(cert)))
        assert isinstance(caught, Unreachable)
        assert "wants a client certificate; set keystore.vault.tls.cert and .key" in str(caught)
    finally:
        vault.close()


@pytest.mark.parametrize("broken", ["cert", "key"])
def test_unusable_client_certificate(open_store: Open, tmp_path: Path, broken: str) -> None:
    """A client certificate that cannot be loaded is an error, never left out."""
    cert, key = write_server_certificate(tmp_path)
    {"cert": cert, "key": key}[broken].write_bytes(b"x")
    assert "keystore.vault.tls.cert" in plain(lambda: open_store(tls_cert=str(cert), tls_key=str(key)))
    (tmp_path / "server.crt").unlink()
    assert "No such file" in plain(lambda: open_store(tls_cert=str(cert), tls_key=str(key)))


# Requests


def test_layout_v1(vault: FakeVault, open_store: Open) -> None:
    """Version 1: every request of a create, a read, a listing and a delete, as the contract has it (3.4)."""
    store = open_store(1, prefix="/some//folder/")
    vault.seen.clear()
    store.create("my-key", CURRENT)
    assert store.get("my-key") == CURRENT
    store.list("", "", 0)
    store.delete("my-key")
    assert [(seen.line, seen.query, seen.body) for seen in vault.seen] == [
        ("GET kv/some/folder/my-key", "", None),
        ("PUT kv/some/folder/my-key", "", {"my-key": VALUE}),
        ("GET kv/some/folder/my-key", "", None),
        ("GET kv/some/folder/my-key", "", None),
        ("GET kv/some/folder", "list=true", None),
        ("DELETE kv/some/folder/my-key", "", None),
    ]


def test_layout_v2(vault: FakeVault, open_store: Open) -> None:
    """Version 2: the check is of the latest version, the read of version 1, the write has CAS, the delete takes all."""
    store = open_store(2, prefix="folder")
    vault.seen.clear()
    store.create("my-key", CURRENT)
    assert store.get("my-key") == CURRENT
    store.list("", "", 0)
    store.delete("my-key")
    assert [(seen.line, seen.query, seen.body) for seen in vault.seen] == [
        ("GET kv2/data/folder/my-key", "", None),
        ("PUT kv2/data/folder/my-key", "", {"options": {"cas": 0}, "data": {"my-key": VALUE}}),
        ("GET kv2/data/folder/my-key", "version=1", None),
        ("GET kv2/metadata/folder", "list=true", None),
        ("DELETE kv2/metadata/folder/my-key", "", None),
    ]


def test_headers(vault: FakeVault, open_store: Open) -> None:
    """Each request says that it is meant for Vault; each but login and health has the token, none is compressed."""
    store = open_store()
    store.list("", "", 0)
    (token,) = vault.tokens
    for seen in vault.seen:
        assert seen.headers["x-vault-request"] == "true"
        assert "x-vault-namespace" not in seen.headers
        bare = seen.path in ("sys/health", "auth/approle/login")
        assert seen.headers.get("x-vault-token") == (None if bare else token)
    assert [(seen.line, seen.body) for seen in vault.seen if "login" in seen.path] == [
        ("PUT auth/approle/login", {"role_id": "role-id", "secret_id": SECRET})
    ]
    assert vault.seen[0].query == (
        "uninitcode=299&sealedcode=299&standbycode=299&drsecondarycode=299&performancestandbycode=299"
    )


@pytest.mark.parametrize(("own", "of_login"), [("", "team"), ("/", ""), ("admins", "admins")])
def test_namespaces(clock: Clock, vault: FakeVault, open_store: Open, own: str, of_login: str) -> None:
    """Logins go to their own namespace, `/` is the root, the default the store's; a token is kept up where issued."""
    for namespace in ("team", "admins"):
        set_up(vault, namespace)
    store = open_store(namespace="team", login=replace(LOGIN, namespace=own))
    store.create("my-key", CURRENT)
    assert vault.v1["team", "kv"] == {"my-key": {"my-key": VALUE}}
    clock.now += 10
    vault.revoke_all()
    assert store.get("my-key") == CURRENT
    for seen in vault.seen:
        expected = "" if seen.path == "sys/health" else of_login if seen.path.startswith("auth/") else "team"
        assert seen.headers.get("x-vault-namespace", "") == expected, seen.line


def test_kubernetes(vault: FakeVault, open_store: Open, tmp_path: Path) -> None:
    """The token comes from its file, without the newline there, anew at each login; or from the config file itself."""
    vault.logins["", "kubernetes"] = {"role": "kes", "jwt": "first"}
    file = tmp_path / "token"
    file.write_text("first\n")
    store = open_store(login=KubernetesSettings("kes", str(file)))
    vault.revoke_all()
    file.write_text("second\n")
    vault.logins["", "kubernetes"] = {"role": "kes", "jwt": "second"}
    store._clock.now += 10  # type: ignore[attr-defined]
    assert store.list("", "", 0) == ([], "")
    open_store(login=KubernetesSettings("kes", "second"))
    file.unlink()
    assert "keystore.vault.kubernetes.jwt" in plain(lambda: open_store(login=KubernetesSettings("kes", str(file))))
    file.write_text("\n")
    assert "the file is empty" in plain(lambda: open_store(login=KubernetesSettings("kes", str(file))))


def test_redirect(clock: Clock, vault: FakeVault, open_store: Open) -> None:
    """One redirect of a standby is followed with method, body and headers; a second one is an error."""
    store = open_store()
    active = vault.endpoint.replace("127.0.0.1", "localhost")
    vault.fail("PUT kv/my-key", status=307, location=f"{active}/v1/kv/my-key")
    store.create("my-key", CURRENT)
    first, second = [seen for seen in vault.seen if seen.line == "PUT kv/my-key"]
    assert (first.body, first.headers["x-vault-token"]) == (second.body, second.headers["x-vault-token"])
    assert second.headers["host"].startswith("localhost:")
    vault.fail("GET kv/my-key", times=2, status=307, location=f"{active}/v1/kv/my-key")
    assert "answered with a redirect, 307" in plain(lambda: store.get("my-key"))
    for location in ("ftp://127.0.0.1/", ""):
        vault.fail("GET kv/my-key", status=307, location=location)
        assert "redirect" in plain(lambda: store.get("my-key"))


def test_redirect_to_less(tls_vault: FakeVault, vault: FakeVault, open_store: Open, tmp_path: Path) -> None:
    """No redirect leads from https to http, where anyone could read the token."""
    store = open_store(endpoint=tls_vault.endpoint, tls_ca=str(tmp_path / "server.crt"))
    tls_vault.fail("GET kv/my-key", status=307, location=f"{vault.endpoint}/v1/kv/my-key")
    assert "in the clear" in plain(lambda: store.get("my-key"))
    assert vault.seen == []


def test_proxy(vault: FakeVault, open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment's proxy is used; one that cannot be is an error. No variable of Vault's own is looked at."""
    monkeypatch.setenv("VAULT_TOKEN", "another")
    monkeypatch.setenv("VAULT_NAMESPACE", "another")
    monkeypatch.setenv("HTTP_PROXY", vault.endpoint)
    open_store(endpoint="http://vault.invalid:8200").create("my-key", CURRENT)
    assert {seen.headers["host"] for seen in vault.seen} == {"vault.invalid:8200"}
    assert all(seen.headers.get("x-vault-token") != "another" for seen in vault.seen)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    open_store()
    assert vault.seen[-1].headers["host"] == vault.endpoint.removeprefix("http://")
    monkeypatch.setenv("ALL_PROXY", "nonsense://127.0.0.1")
    assert "the proxy in the environment cannot be used: nonsense is not supported" in plain(open_store)


def test_proxy_of_https(
    tls_vault: FakeVault, open_store: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS goes through the proxy to Vault, whose certificate is what is checked; the proxy gets its password."""
    heads: list[bytes] = []

    class Proxy(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            heads.append(b"".join(iter(self.rfile.readline, b"\r\n")))
            port = int(heads[-1].split()[1].rpartition(b":")[2])
            with socket.create_connection(("127.0.0.1", port)) as vault:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                threading.Thread(target=pipe, args=(vault, self.connection), daemon=True).start()
                pipe(self.connection, vault)

    def pipe(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Proxy) as proxy:
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{proxy.server_address[1]}")
        ca = str(tmp_path / "server.crt")
        open_store(endpoint=tls_vault.endpoint, tls_ca=ca).create("my-key", CURRENT)
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:p%40ss@127.0.0.1:{proxy.server_address[1]}")
        store = open_store(endpoint=tls_vault.endpoint, tls_ca=ca)
        assert store.get("my-key") == CURRENT
        assert "check keystore.vault.tls.ca" in str(error(lambda: open_store(endpoint=tls_vault.endpoint)))
        proxy.shutdown()
    assert all(head.startswith(b"CONNECT " + tls_vault.endpoint.removeprefix("https://").encode()) for head in heads)
    assert b"Authorization" not in heads[0]
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"me:p@ss") in heads[-1]


def test_paths() -> None:
    """Paths are joined as the reference does."""
    assert join("kv", "", "/a//b/", "./c", "../d") == "kv/a/b/d"
    assert join("/kv/", "") == "kv"
    assert join("", "..", "x") == "x"


@pytest.mark.parametrize("name", ["", "_", "a/b", "..", "../kv2/data/x", "a?list=true", "a b", "ä", "a" * 81])
def test_names_that_no_key_has(vault: FakeVault, open_store: Open, v: int, name: str) -> None:
    """A name that could lead elsewhere in Vault is an error in every call, and nothing is asked."""
    store = open_store(v)
    vault.seen.clear()
    for call in (lambda: store.create(name, CURRENT), lambda: store.get(name), lambda: store.delete(name)):
        assert "cannot be the name of a key" in plain(call)
    assert vault.seen == []


# Reading


def test_entries_that_hold_no_key(vault: FakeVault, open_store: Open, v: int) -> None:
    """An entry without the field of its name, or without text in it, is an error; it takes the name."""
    store = open_store(v)
    for number, fields in enumerate([{"other": "x"}, {}, {"k1": "x"}]):
        put(vault, v, f"k{number}", fields if number != 1 else {"K1": "x"})
    for name in ("k0", "k1", "k2"):
        assert "no text in the field" in plain(lambda name=name: store.get(name))
        assert "without the field" in plain(lambda name=name: store.create(name, CURRENT))
    for value in (5, None, ["x"], {"a": "b"}, True):
        put(vault, v, "k3", {"k3": value})
        assert "no text in the field" in plain(lambda: store.get("k3"))
        with pytest.raises(KeyExists):
            store.create("k3", CURRENT)
    for value in ("", "\ud800"):
        put(vault, v, "k4", {"k4": value})
        plain(lambda: store.get("k4"))


def test_soft_deleted(vault: FakeVault, open_store: Open) -> None:
    """A deleted version is an error and not "not found", as it can be undeleted; it is never overwritten."""
    store = open_store(2)
    vault.v2["", "kv2"]["my-key"] = Versioned([None])
    assert "may be undeleted" in plain(lambda: store.get("my-key"))
    assert "may be undeleted" in plain(lambda: store.create("my-key", CURRENT))
    assert vault.v2["", "kv2"]["my-key"].versions == [None]
    store.delete("my-key")
    store.create("my-key", CURRENT)


def test_later_versions(vault: FakeVault, open_store: Open) -> None:
    """Of several versions, the first is the key."""
    vault.v2["", "kv2"]["my-key"] = Versioned([{"my-key": VALUE}, {"my-key": "written by hand"}])
    assert open_store(2).get("my-key") == CURRENT


def test_not_found_is_what_vault_says(vault: FakeVault, open_store: Open, v: int) -> None:
    """A 404 that does not come from the engine, or that warns of something, does not mean that there is no key."""
    store = open_store(v)
    for content in (HTML, b"", b"[]", b'"x"', b"{}", b'{"errors":["no handler"]}', b'{"errors":[],"warnings":["w"]}'):
        vault.fail(f"GET {path(v, 'my-key')}", status=404, content=content, times=2)
        assert "answered 404" in plain(lambda: store.get("my-key"))
        assert "answered 404" in plain(lambda: store.create("my-key", CURRENT))
        vault.fail("GET kv", status=404, content=content)
        assert "list keys" in plain(lambda: store.list("", "", 0))
        vault.fail("DELETE kv", status=404, content=content)
        assert "delete key" in plain(lambda: store.delete("my-key"))
    assert entry(vault, v, "my-key") is None


def test_foreign_folders(vault: FakeVault, open_store: Open, v: int) -> None:
    """Folders and entries below them are not listed."""
    for name in ("a", "folder/b", "folder/c"):
        put(vault, v, name, {name: "x"})
    assert open_store(v).list("", "", 0) == (["a"], "")


@pytest.mark.parametrize("keys", [b"null", b"{}", b'"a"'])
def test_listing_of_no_names(vault: FakeVault, open_store: Open, keys: bytes) -> None:
    """A listing that is none is an error, and not an empty one; what is no name in one is passed over."""
    store = open_store()
    vault.fail("GET kv", status=200, content=b'{"data":{"keys":%s}}' % keys)
    assert "list keys" in plain(lambda: store.list("", "", 0))
    vault.fail("GET kv", status=200, content=b'{"data":{"keys":[1,null,"b",["x"],"a"]}}')
    assert store.list("", "", 0) == (["a", "b"], "")


# Transit


def test_transit(vault: FakeVault, open_store: Open, v: int) -> None:
    """The ciphertext is stored as it is, whatever version the transit key has; old entries stay readable."""
    store = open_store(v)
    store.create("before", CURRENT)
    store = open_store(v, transit=TransitSettings("wrap"))
    store.create("first", CURRENT)
    vault.transit["", "transit"]["wrap"] = 12
    store.create("later", LEGACY)
    assert entry(vault, v, "first")["first"].startswith("vault:v1:")
    assert entry(vault, v, "later")["later"].startswith("vault:v12:")
    assert [store.get(name) for name in ("before", "first", "later")] == [CURRENT, CURRENT, LEGACY]
    assert any(seen.body == {"plaintext": base64.b64encode(CURRENT).decode()} for seen in vault.seen)


def test_ciphertext_without_transit(vault: FakeVault, open_store: Open, v: int) -> None:
    """A ciphertext without transit settings is an error; a value that looks like one is not stored as it is."""
    store = open_store(v)
    put(vault, v, "my-key", {"my-key": "vault:v1:AAAA"})
    assert "set keystore.vault.transit" in plain(lambda: store.get("my-key"))
    plain(lambda: store.create("other", b"vault:v3:AAAA"))
    assert entry(vault, v, "other") is None


@pytest.mark.parametrize("answer", [b"{}", b'{"data":{"ciphertext":"plain","plaintext":"!"}}', HTML])
def test_transit_that_answers_nonsense(vault: FakeVault, open_store: Open, answer: bytes) -> None:
    """What is no ciphertext is not stored, and what is no plaintext is not a value."""
    store = open_store(transit=TransitSettings("wrap"))
    vault.fail("POST transit/", times=2, status=200, content=answer)
    plain(lambda: store.create("my-key", CURRENT))
    assert entry(vault, 1, "my-key") is None
    put(vault, 1, "my-key", {"my-key": "vault:v1:AAAA"})
    plain(lambda: store.get("my-key"))
    assert "message authentication failed" in plain(lambda: store.get("my-key"))


# Creating


def test_answer_lost(vault: FakeVault, open_store: Open, v: int) -> None:
    """A create whose answer is lost succeeds if what is there is what it wrote: nobody else can have."""
    store = open_store(v)
    vault.fail(f"PUT {path(v, 'my-key')}", lost=True)
    store.create("my-key", CURRENT)
    assert vault.count(f"PUT {path(v, 'my-key')}") == 1
    with pytest.raises(KeyExists):
        store.create("my-key", CURRENT)


@pytest.mark.parametrize("may_update", [False, True])
def test_answer_lost_and_learnt_late(vault: FakeVault, open_store: Open, may_update: bool) -> None:
    """The conflict of a second try with a first one, of which nobody knew that it was stored, is a success."""
    store = open_store(2)
    vault.may_update = may_update
    vault.fail("PUT kv2/data/my-key", lost=True)
    vault.fail("GET kv2/data/my-key", times=2, status=404, content=b'{"errors":[]}')
    store.create("my-key", CURRENT)
    assert vault.count("PUT kv2/data/my-key") == 2
    assert store.get("my-key") == CURRENT


@pytest.mark.parametrize(
    "fault", [{"dropped": True}, {"status": 500}, {"status": 502, "content": HTML}, {"status": 412}]
)
def test_failed_then_success(vault: FakeVault, open_store: Open, v: int, fault: dict[str, Any]) -> None:
    """What settles nothing is tried again, twice at most, in every call."""
    store = open_store(v)
    vault.fail(f"PUT {path(v, 'my-key')}", times=2, **fault)
    store.create("my-key", CURRENT)
    assert entry(vault, v, "my-key") == {"my-key": VALUE}
    for where, call in [("GET kv", lambda: store.get("my-key")), ("GET kv", lambda: store.list("", "", 0))]:
        vault.fail(where, times=2, **fault)
        call()
    vault.fail("DELETE kv", times=2, **fault)
    store.delete("my-key")
    assert entry(vault, v, "my-key") is None


def test_lost_to_another(vault: FakeVault, open_store: Open, v: int) -> None:
    """A create that fails and then finds another's value under the name has lost, and leaves it."""
    store = open_store(v)
    for fault in ({"dropped": True}, {"status": 500}, {"lost": True}):
        other = {"my-key": "another's"}
        vault.fail(f"PUT {path(v, 'my-key')}", before=lambda other=other: put(vault, v, "my-key", other), **fault)
        with pytest.raises(KeyExists):
            store.create("my-key", CURRENT)
        assert entry(vault, v, "my-key") == other
        store.delete("my-key")


@pytest.mark.parametrize("may_update", [False, True])
def test_race(vault: FakeVault, open_store: Open, may_update: bool) -> None:
    """Another creator between check and write is found with version 2, and with 1 where `update` is not granted."""
    for v in (1, 2):
        store = open_store(v)
        vault.may_update = may_update and v == 2
        vault.fail(f"PUT {path(v, 'my-key')}", before=lambda v=v: put(vault, v, "my-key", {"my-key": "another's"}))
        with pytest.raises(KeyExists):
            store.create("my-key", CURRENT)
        assert entry(vault, v, "my-key") == {"my-key": "another's"}


def test_overwritten(vault: FakeVault, open_store: Open) -> None:
    """Whoever is overwritten right after the write, as `update` allows, is told that the key exists."""
    store = open_store(1)
    reads = iter([None, lambda: put(vault, 1, "my-key", {"my-key": "another's"})])
    vault.fail("GET kv/my-key", times=2, before=lambda: (act := next(reads)) and act())
    with pytest.raises(KeyExists):
        store.create("my-key", CURRENT)
    assert store.get("my-key") == b"another's"


def test_denied(vault: FakeVault, open_store: Open, v: int) -> None:
    """What the policy does not allow is a plain error that says so, and never "exists" or "not found"."""
    store = open_store(v)
    vault.denied = [f"PUT {path(v, '')}"]
    assert "the login's policies allow `create` of" in plain(lambda: store.create("my-key", CURRENT))
    put(vault, v, "my-key", {"my-key": VALUE})
    vault.denied = ["GET kv", "DELETE kv"]
    for call in (lambda: store.get("my-key"), lambda: store.delete("my-key"), lambda: store.list("", "", 0)):
        assert "the login's policies" in plain(call)
    assert vault.count("PUT auth/approle/login") == 1


def test_version_changed_below(vault: FakeVault, open_store: Open) -> None:
    """A write that is answered as the other version does is an error that names the setting."""
    store = open_store(2)
    vault.fail("PUT kv2/data/my-key", status=204, content=b"")
    assert "check keystore.vault.version" in plain(lambda: store.create("my-key", CURRENT))
    vault.fail("PUT kv2/data/my-key", status=200, content=b'{"data":{"version":2}}')
    assert "not version 1" in plain(lambda: store.create("my-key", CURRENT))


def test_written_and_gone(vault: FakeVault, open_store: Open) -> None:
    """With version 1, what Vault took and does not have was not created; servers that learn late are asked twice."""
    store = open_store(1)
    vault.fail("PUT kv/my-key", status=204, content=b"")
    assert "does not have it" in plain(lambda: store.create("my-key", CURRENT))
    vault.fail("GET kv/my-key", times=2, status=404, content=b'{"errors":[]}')
    store.create("my-key", CURRENT)


def test_large_when_escaped(vault: FakeVault, open_store: Open, v: int) -> None:
    """A value that JSON makes too large to be read back is refused."""
    store = open_store(v)
    for value in (b"\0" * 400_000, b"<" * 400_000):
        assert "too large" in plain(lambda value=value: store.create("my-key", value))
    assert entry(vault, v, "my-key") is None


# Faults


def calls(store: VaultStore) -> dict[str, Callable[[], object]]:
    return {
        "GET": lambda: store.get("my-key"),
        "PUT": lambda: store.create("other", CURRENT),
        "DELETE": lambda: store.delete("my-key"),
        "GET ": lambda: store.list("", "", 0),
    }


@pytest.mark.parametrize("call", ["GET", "PUT", "DELETE", "GET "])
@pytest.mark.parametrize(
    ("fault", "unreachable"),
    [
        ({"dropped": True}, True),
        ({"status": 500}, False),
        ({"status": 501}, False),
        ({"status": 400}, False),
        ({"status": 401}, False),
        ({"status": 429}, False),
        ({"status": 503}, False),
        ({"status": 200, "content": b"{"}, False),
        ({"status": 200, "content": b"[" * 100_000}, False),
        ({"status": 200, "content": HTML, "content_type": "text/html"}, False),
        ({"status": 200, "content": b'{"data":[]}'}, False),
        ({"status": 302, "location": "/elsewhere"}, False),
    ],
    ids=lambda value: str(value)[:60],
)
def test_fault(vault: FakeVault, open_store: Open, v: int, call: str, fault: dict[str, Any], unreachable: bool) -> None:
    """No answer is unreachable, an answer of no use an error; neither is a missing key or a success."""
    store = open_store(v)
    put(vault, v, "my-key", {"my-key": VALUE})
    if call == "DELETE" and fault.get("status") == 200:
        fault = {**fault, "status": 404}  # a success needs no body
    vault.fail(f"{call.strip()} kv", times=10**6, **fault)
    assert type(error(calls(store)[call])) is (Unreachable if unreachable else KeyStoreError)
    vault.faults.clear()
    assert store.get("my-key") == CURRENT


def test_refused(vault: FakeVault, open_store: Open, v: int) -> None:
    """When nobody listens any more, every call is unreachable."""
    store = open_store(v)
    vault.close()
    for call in (*calls(store).values(), store.status):
        assert isinstance(error(call), Unreachable)


def test_restarted(vault: FakeVault, open_store: Open) -> None:
    """Connections that Vault has closed meanwhile are opened again, and nobody notices."""
    store = open_store()
    store.create("my-key", CURRENT)
    vault.disconnect()
    assert store.get("my-key") == CURRENT


def test_too_long(vault: FakeVault, open_store: Open) -> None:
    """An answer beyond all measure is not read to its end; a listing may be longer."""
    store = open_store()
    vault.fail("GET kv/", status=200, content=b" " * (MAX_ANSWER + 1))
    assert f"more than {MAX_ANSWER} bytes" in plain(lambda: store.get("my-key"))
    names = b'{"data":{"keys":["a"%s]}}' % (b" " * 4 * MAX_ANSWER)
    vault.fail("GET kv", status=200, content=names)
    assert store.list("", "", 0) == (["a"], "")


def test_time_limit(clock: Clock, vault: FakeVault, open_store: Open, v: int) -> None:
    """However slow Vault is, a call is over in 10 s, with all that it tried."""
    store = open_store(v)

    def wait(seconds: float) -> Callable[[], None]:
        return lambda: setattr(clock, "now", clock.now + seconds)

    for call in (*calls(store).values(), store.status):
        begun = clock.now
        vault.faults.clear()
        vault.fail("", times=10**6, before=wait(4), dropped=True)
        assert isinstance(error(call), Unreachable)
        assert clock.now - begun <= OPERATION + 4  # what was under way at the end


def test_silence(clock: Clock, vault: FakeVault, open_store: Open) -> None:
    """A Vault that takes a request and says nothing is unreachable when the time is over."""
    store = open_store()
    over = threading.Event()
    # What is left for the second try is two tenths of a second of real time.
    vault.fail("GET kv/my-key", before=lambda: setattr(clock, "now", clock.now + 8.8), status=500)
    vault.fail("GET kv/my-key", before=over.wait)
    assert "did not answer in time" in str(error(lambda: store.get("my-key")))
    over.set()


def test_slow_body(clock: Clock, vault: FakeVault, open_store: Open) -> None:
    """An answer that comes too late is none."""
    store = open_store()
    put(vault, 1, "my-key", {"my-key": VALUE})
    vault.fail("GET kv/my-key", before=lambda: setattr(clock, "now", clock.now + OPERATION))
    assert isinstance(error(lambda: store.get("my-key")), Unreachable)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "content",
    [b"HTTP/1.1 200", HEAD + b"X:", HEAD + b"Content-Length: 100000\r\n\r\n"],
    ids=["status line", "header", "body"],
)
def test_dribbled_answer(clock: Clock, vault: FakeVault, open_store: Open, content: bytes) -> None:
    """An answer that comes byte by byte, each of them in time and all together not, ends with the call's time."""
    store = open_store()
    begun = clock.now

    def pass_time() -> None:
        clock.now += 0.01

    vault.fail("GET kv/my-key", times=10**6, content=content, dribbled=pass_time)
    assert "did not answer in time" in str(error(lambda: store.get("my-key")))
    assert clock.now - begun >= OPERATION
    assert vault.count("GET kv/my-key") == 1
    vault.faults.clear()
    assert store.list("", "", 0) == ([], "")


def test_name_that_is_not_resolved(
    clock: Clock, vault: FakeVault, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call is over in its time also where the system goes on looking for the address."""
    store = open_store(endpoint=vault.endpoint.replace("127.0.0.1", "localhost"))
    put(vault, 1, "my-key", {"my-key": VALUE})
    over = threading.Event()
    look_up = socket.getaddrinfo

    def look_up_slowly(*arguments: Any, **options: Any) -> Any:
        over.wait()
        return look_up(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_slowly)
    # What is left for the second try, which needs a new connection, is two tenths of a second of real time.
    vault.fail("GET kv/my-key", before=lambda: setattr(clock, "now", clock.now + 8.8), dropped=True)
    assert "the name localhost is not resolved in time" in str(error(lambda: store.get("my-key")))
    over.set()
    assert store.get("my-key") == CURRENT


def test_name_without_an_address(open_store: Open) -> None:
    """A host that is none is out of reach, and is told by its name."""
    for host in ("vault.invalid", "a" * 64):
        caught = error(lambda host=host: open_store(endpoint=f"http://{host}:8200"))
        assert isinstance(caught, Unreachable)
        assert f"the name {host} is not resolved" in str(caught)
        assert "check keystore.vault.endpoint" in str(caught)


# The token


def test_revoked_token(vault: FakeVault, open_store: Open, v: int) -> None:
    """A token that Vault no longer knows is replaced by one login, and the call goes on as if nothing was."""
    store = open_store(v)
    store.create("my-key", CURRENT)
    for call in calls(store).values():
        store._clock.now += 10  # type: ignore[attr-defined]
        vault.revoke_all()
        logins = vault.count("PUT auth/approle/login")
        call()
        assert vault.count("PUT auth/approle/login") == logins + 1


def test_one_login_for_all(clock: Clock, vault: FakeVault, open_store: Open) -> None:
    """However many calls find the token gone, one logs in for all of them."""
    store = open_store()
    put(vault, 1, "my-key", {"my-key": VALUE})
    clock.now += 10
    vault.revoke_all()
    results: list[bytes] = []
    start = threading.Barrier(20)

    def get() -> None:
        start.wait()
        results.append(store.get("my-key"))

    threads = [threading.Thread(target=get) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [CURRENT] * 20
    assert vault.count("PUT auth/approle/login") == 2


def test_login_refused_meanwhile(clock: Clock, vault: FakeVault, open_store: Open) -> None:
    """A secret id that was taken away is a plain error that says so; logins are 3 s apart; a new one mends it."""
    store = open_store()
    clock.now += 10
    vault.revoke_all()
    del vault.logins["", "approle"]
    for _ in range(3):
        assert "keystore.vault.approle" in plain(lambda: store.list("", "", 0))
    assert vault.count("PUT auth/approle/login") == 2
    vault.logins["", "approle"] = {"role_id": "role-id", "secret_id": SECRET}
    clock.now += 3
    assert store.list("", "", 0) == ([], "")


def test_status_without_a_login(clock: Clock, vault: FakeVault, open_store: Open) -> None:
    """A store that cannot log in is of no use, which its status says; it tries again, and is well when that works."""
    store = open_store(ping=1e9)
    clock.now += 10
    vault.revoke_all()
    del vault.logins["", "approle"]
    assert store.status() >= 0  # nothing has shown it yet, and a look at the token each time would be one request more
    plain(lambda: store.get("my-key"))
    for _ in range(2):
        clock.now += 10
        logins = vault.count("PUT auth/approle/login")
        assert "keystore.vault.approle" in plain(store.status)
        assert "keystore.vault.approle" in plain(store.status)  # 3 s are not over
        assert vault.count("PUT auth/approle/login") == logins + 1
    vault.logins["", "approle"] = {"role_id": "role-id", "secret_id": SECRET}
    clock.now += 10
    assert store.status() >= 0
    vault.seen.clear()
    assert store.status() >= 0
    assert [seen.line for seen in vault.seen] == ["GET sys/health"]
    assert store.list("", "", 0) == ([], "")


def test_status_with_an_expired_token(clock: Clock, vault: FakeVault, open_store: Open) -> None:
    """The same where the token has come to its end, and no login was to be had in time."""
    vault.ttl = 100
    store = open_store(ping=1e9)
    vault.fail("PUT auth/", times=10**6, dropped=True)
    clock.now += 90
    store.tick()
    assert store.status() >= 0
    clock.now += 10
    assert isinstance(error(store.status), Unreachable)
    vault.faults.clear()
    clock.now += 3
    assert store.status() >= 0
    assert store.list("", "", 0) == ([], "")


def test_token_gone_at_once(clock: Clock, vault: FakeVault, open_store: Open) -> None:
    """A token that Vault forgets within a second of its login is no reason for another one; the error says why."""
    store = open_store()
    clock.now += 0.4
    vault.revoke_all()
    said = plain(lambda: store.list("", "", 0))
    assert "does not know the token of the login 0.4 s ago any more: it was revoked, or the role's" in said
    assert vault.count("PUT auth/approle/login") == 1
    clock.now += 0.6
    assert store.list("", "", 0) == ([], "")
    assert vault.count("PUT auth/approle/login") == 2


def renewals(vault: FakeVault) -> tuple[int, int]:
    return vault.count("PUT auth/token/renew-self"), vault.count("PUT auth/approle/login") - 1


@pytest.mark.parametrize("ttl", [1.0, 2.0, 10.0, 29.0, 30.0, 3600.0])
def test_renewal(clock: Clock, vault: FakeVault, open_store: Open, ttl: float) -> None:
    """The token is renewed at 0.8 of its time, however short that is, but not more than once a second."""
    vault.ttl = ttl
    store = open_store(ping=1e9)
    begun = clock.now
    for number in range(1, 4):
        assert store.tick() == pytest.approx(max(1.0, 0.8 * ttl))
        clock.now += store.tick()
        if ttl > 1:
            store.tick()
            assert renewals(vault) == (number, 0)
    assert clock.now - begun == pytest.approx(3 * max(1.0, 0.8 * ttl))


def test_token_that_never_expires(vault: FakeVault, open_store: Open) -> None:
    """A token without a time limit is not renewed."""
    vault.ttl = 0
    assert open_store(ping=math.inf).tick() == 3600


@pytest.mark.parametrize("why", ["not renewable", "refused", "last"])
def test_new_login_ahead(clock: Clock, vault: FakeVault, open_store: Open, why: str) -> None:
    """Where a renewal is not to be had, a login comes in time; its token is used after a tenth of its life."""
    vault.ttl, vault.renewable = 100, why != "not renewable"
    if why == "last":
        vault.max_ttl = 120
    store = open_store(ping=1e9)
    (old,) = vault.tokens
    clock.now += store.tick()
    if why == "refused":
        vault.fail("PUT auth/token/renew-self", status=403)
    assert store.tick() == pytest.approx(10)
    assert renewals(vault) == (0 if why == "not renewable" else 1, 1)
    store.list("", "", 0)
    assert vault.seen[-1].headers["x-vault-token"] == old
    clock.now += 10
    store.tick()
    store.list("", "", 0)
    assert vault.seen[-1].headers["x-vault-token"] != old
    assert renewals(vault)[1] == 1


def messages(events: list[Any]) -> list[str]:
    return [formatEvent(event) for event in events]


def test_renewal_fails(clock: Clock, vault: FakeVault, open_store: Open) -> None:
    """Failures come 3 s apart at first, 30 s at last, and are told once; so is their end."""
    vault.ttl = 1000
    store = open_store(ping=1e9)
    store._session._uniform = lambda low, high: high
    clock.now += store.tick()
    vault.fail("PUT auth/token", times=10**6, dropped=True)
    waits = []
    with capturedLogs() as events:
        for _ in range(6):
            waits.append(store.tick())
            clock.now += waits[-1]
    assert waits == pytest.approx([6, 12, 24, 30, 30, 30])
    assert [m.split(":")[0] for m in messages(events)] == ["the Vault token is not renewed, which will be tried again"]
    vault.faults.clear()
    with capturedLogs() as events:
        assert store.tick() == pytest.approx(800)
    assert messages(events) == ["the Vault token is renewed again"]


def test_expired_while_away(clock: Clock, vault: FakeVault, open_store: Open) -> None:
    """A token that expired while the process slept is replaced at the next tick, without asking for its renewal."""
    vault.ttl = 100
    store = open_store(ping=1e9)
    clock.now += 500
    store.tick()
    assert renewals(vault) == (0, 1)
    assert store.list("", "", 0) == ([], "")


def test_close(vault: FakeVault) -> None:
    """Closing gives the token back, and may be repeated; calls fail from then on."""
    store = connect(VaultSettings(vault.endpoint, LOGIN))
    assert len(vault.tokens) == 1
    store.close()
    store.close()
    for thread in threading.enumerate():
        if thread.name.startswith("vault"):
            thread.join(5)
            assert not thread.is_alive()
    assert vault.tokens == {}
    assert isinstance(error(lambda: store.get("my-key")), Unreachable)
    assert isinstance(error(store.status), Unreachable)


def test_close_does_not_wait(clock: Clock, vault: FakeVault, open_store: Open) -> None:
    """Closing returns at once, whatever Vault does."""
    store = open_store()
    over = threading.Event()
    vault.fail("PUT auth/token/revoke-self", before=over.wait)
    store.close()
    assert not over.is_set()
    over.set()


# The seal


def test_sealed(clock: Clock, vault: FakeVault, open_store: Open, v: int) -> None:
    """Sealed is unreachable: told once, without a request meanwhile; the status notices the end."""
    store = open_store(v)
    put(vault, v, "my-key", {"my-key": VALUE})
    vault.sealed = True
    with capturedLogs() as events:
        assert "is sealed" in str(error(lambda: store.get("my-key")))
        vault.seen.clear()
        for call in calls(store).values():
            assert isinstance(error(call), Unreachable)
        assert vault.seen == []
        assert isinstance(error(store.status), Unreachable)
        vault.sealed = False
        store.status()
    assert store.get("my-key") == CURRENT
    assert messages(events) == [
        f"Vault at {vault.endpoint} is {how} sealed".replace("  ", " ") for how in ("", "no longer")
    ]


def test_seal_poll(clock: Clock, vault: FakeVault, open_store: Open) -> None:
    """The seal is looked at every `ping`; while Vault is sealed, the token rests, and is renewed right after."""
    vault.ttl = 100
    store = open_store(ping=7.0)
    assert store.tick() == 7
    vault.sealed = True
    clock.now += 7
    assert store.tick() == 1
    assert isinstance(error(lambda: store.get("my-key")), Unreachable)
    clock.now += 90
    store.tick()
    assert renewals(vault) == (0, 0)
    vault.sealed = False
    clock.now += 7
    store.tick()
    assert renewals(vault) in ((1, 0), (0, 1))
    assert store.list("", "", 0) == ([], "")


def test_seal_poll_that_fails(clock: Clock, vault: FakeVault, open_store: Open) -> None:
    """A look at the seal that fails changes nothing of what is known."""
    store = open_store(ping=7.0)
    for fault in ({"dropped": True}, {"status": 500}):
        clock.now += 7
        vault.fail("GET sys/health", **fault)
        store.tick()
        assert store.list("", "", 0) == ([], "")


def test_status(vault: FakeVault, open_store: Open) -> None:
    """The status tells no answer from one that is of no use; a Vault that was not initialised is out of reach."""
    store = open_store()
    assert 0 <= store.status() < 1
    vault.fail("GET sys/health", dropped=True)
    assert isinstance(error(store.status), Unreachable)
    vault.fail("GET sys/health", status=500)
    plain(store.status)
    vault.initialized = False
    assert isinstance(error(store.status), Unreachable)


# Secrets


def test_secrets_are_not_told(vault: FakeVault, open_store: Open, v: int) -> None:
    """No error, log line or representation has a secret id, a token or a value, even if Vault repeats it."""
    with capturedLogs() as events:
        store = open_store(v, transit=TransitSettings("wrap"))
        put(vault, v, "my-key", {"my-key": VALUE})
        (token,) = vault.tokens
        encoded = base64.b64encode(CURRENT).decode()
        content = f'{{"errors":["{token} {VALUE} {encoded} {SECRET} x"]}}'.encode()
        texts = [repr(store._settings), repr(store._session), repr(store._session._token)]
        for where in ("GET kv", "PUT kv", "POST transit", "DELETE kv"):
            vault.faults.clear()
            vault.fail(where, times=10**6, status=400, content=content)
            for call in calls(store).values():
                try:
                    call()
                except KeyStoreError as e:
                    texts += [str(e), repr(e)]
        vault.faults.clear()
        vault.fail("PUT auth/approle/login", status=400, content=f'{{"errors":["{SECRET} x"]}}'.encode())
        texts.append(str(error(lambda: open_store(v))))
    texts += messages(events)
    assert len(texts) > 10
    for text in texts:
        assert token not in text
