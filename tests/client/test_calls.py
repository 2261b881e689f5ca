"""Every call, of both clients, against a real server."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from kes.client import (
    Client,
    IdentityNotFound,
    InvalidKey,
    InvalidName,
    KeyExists,
    KeyNotFound,
    NotAllowed,
    NotAuthentic,
    PolicyNotFound,
    ServerError,
)
from kes.client.aio import AsyncClient
from tests.support import ADMIN, APP, OPS, STRANGER, Server

Make = Callable[..., Any]


@pytest.fixture
def key(admin: Any, request: pytest.FixtureRequest) -> str:
    """The name of a fresh key."""
    name = "key-" + "".join(c if c.isalnum() else "_" for c in request.node.name)
    admin.create_key(name)
    return name


def test_both_clients_have_the_same_calls() -> None:
    """What one client can do, the other can, with the same arguments."""
    calls = {name for name in dir(Client) if not name.startswith("_")}
    assert calls == {name for name in dir(AsyncClient) if not name.startswith("_")}
    for name in calls - {"endpoints", "identity", "audit_log", "error_log"}:
        plain, asyncio = (inspect.signature(getattr(kind, name)) for kind in (Client, AsyncClient))
        assert plain == asyncio, name


def test_version(admin: Any, server: Server) -> None:
    """The version comes with the endpoint that answered."""
    version = admin.version()
    assert version.version
    assert version.endpoint == f"127.0.0.1:{server.port}"


def test_ready(admin: Any) -> None:
    """A server whose key store is up is ready."""
    assert admin.ready() is None


def test_status(admin: Any, server: Server) -> None:
    """The status says that the key store is up, and who answered."""
    status = admin.status()
    assert (status.keystore_unreachable, status.endpoint) == (False, f"127.0.0.1:{server.port}")
    assert status.keystore_latency >= 1


def test_routes(admin: Any) -> None:
    """The routes are sorted, with limits and timeouts."""
    routes = admin.routes()
    assert [route.path for route in routes] == sorted(route.path for route in routes)
    found = {route.path: route for route in routes}
    assert (found["/v1/key/import/"].max_body, found["/v1/key/import/"].timeout) == (1 << 20, 15)
    assert found["/v1/log/audit"].timeout == 0


def test_metrics_count_requests(admin: Any) -> None:
    """A request more is counted as one more."""
    before = admin.metrics().requests_ok
    admin.list_policies()
    after = admin.metrics()
    assert after.requests_ok == before + 1
    assert after.num_cpu >= 1
    assert max(after.latency.values()) == after.requests_ok + after.requests_err + after.requests_fail


def test_create_describe_delete(admin: Any) -> None:
    """A key that was created is described and can be deleted; then it is gone."""
    admin.create_key("life")
    info = admin.describe_key("life")
    assert (info.name, info.created_by) == ("life", ADMIN.identity)
    assert info.algorithm in ("AES256", "ChaCha20")
    assert info.created_at > 1_600_000_000 * 10**9
    admin.delete_key("life")
    with pytest.raises(KeyNotFound) as caught:
        admin.describe_key("life")
    assert (caught.value.status, caught.value.message) == (404, "key does not exist")


def test_create_twice(admin: Any, key: str) -> None:
    """A second create is KeyExists, with status, message and endpoint."""
    with pytest.raises(KeyExists) as caught:
        admin.create_key(key)
    assert (caught.value.status, str(caught.value)) == (400, "key already exists")
    assert caught.value.endpoint.startswith("127.0.0.1:")


def test_import(admin: Any) -> None:
    """An imported key has the algorithm asked for; one of a wrong size is InvalidKey."""
    admin.import_key("imported", bytes(32), "ChaCha20")
    assert admin.describe_key("imported").algorithm == "ChaCha20"
    admin.delete_key("imported")
    with pytest.raises(InvalidKey, match=r"^invalid key size for 'AES256'$"):
        admin.import_key("imported", bytes(31))


def test_import_is_the_key_given(admin: Any) -> None:
    """What one import of some bytes encrypts, another import of them decrypts."""
    material = bytes(range(32))
    admin.import_key("one", material)
    admin.import_key("other", material)
    assert admin.decrypt("other", admin.encrypt("one", b"text")) == b"text"
    admin.delete_key("one")
    admin.delete_key("other")


@pytest.mark.parametrize("context", [b"", b"context"])
def test_data_key(admin: Any, key: str, context: bytes) -> None:
    """A data key's ciphertext decrypts to its plaintext, with the same context only."""
    data_key = admin.generate_key(key, context)
    assert len(data_key.plaintext) == 32
    assert admin.decrypt(key, data_key.ciphertext, context) == data_key.plaintext
    with pytest.raises(NotAuthentic) as caught:
        admin.decrypt(key, data_key.ciphertext, b"another")
    assert caught.value.status == 400


@pytest.mark.parametrize("plaintext", [b"", b"x", bytes(range(256)) * 2000])
def test_encrypt(admin: Any, key: str, plaintext: bytes) -> None:
    """Any bytes come back, no bytes and many too."""
    ciphertext = admin.encrypt(key, plaintext)
    assert len(ciphertext) == len(plaintext) + 44
    assert admin.decrypt(key, ciphertext) == plaintext


def test_too_large_a_request(admin: Any, key: str) -> None:
    """The refusal of a body above 1 MiB arrives, though the server may not have read all of it."""
    with pytest.raises(ServerError) as caught:
        admin.encrypt(key, bytes(4 << 20))
    assert caught.value.status == 413
    admin.version()


def test_hmac(admin: Any, key: str) -> None:
    """An HMAC is 32 bytes, the same for the same message."""
    assert len(admin.hmac(key, b"message")) == 32
    assert admin.hmac(key, b"message") == admin.hmac(key, b"message") != admin.hmac(key, b"")


def test_list_keys(admin: Any) -> None:
    """A listing has the names with the prefix, sorted; a `*` at the end changes nothing."""
    names = [f"list-{n}" for n in (3, 1, 2)]
    for name in names:
        admin.create_key(name)
    assert admin.list_keys("list-") == admin.list_keys("list-*") == sorted(names)
    assert admin.list_keys("list-2") == ["list-2"]
    assert set(names) <= set(admin.list_keys()) == set(admin.list_keys("*"))
    assert admin.list_keys("nothing") == []
    for name in names:
        admin.delete_key(name)


def test_policies(admin: Any) -> None:
    """Policies are listed, described and read, their patterns sorted."""
    assert admin.list_policies() == ["empty", "my-app", "ops"]
    assert admin.list_policies("my") == ["my-app"]
    assert admin.describe_policy("ops").created_by == ADMIN.identity
    policy = admin.read_policy("my-app")
    assert policy.deny == ("/v1/key/decrypt/my-app-internal*", "/v1/key/generate/my-app-internal*")
    assert "/v1/status" in policy.allow
    assert (admin.read_policy("empty").allow, admin.read_policy("empty").deny) == ((), ())
    for call in (admin.describe_policy, admin.read_policy):
        with pytest.raises(PolicyNotFound):
            call("missing")


def test_identities(admin: Any) -> None:
    """Identities are listed, the admin among them, and described."""
    assert admin.list_identities() == sorted([ADMIN.identity, APP.identity, OPS.identity])
    assert admin.list_identities(APP.identity[:10]) == [APP.identity]
    assert (admin.describe_identity(APP.identity).policy, admin.describe_identity(APP.identity).admin) == (
        "my-app",
        False,
    )
    assert admin.describe_identity(ADMIN.identity).admin
    with pytest.raises(IdentityNotFound):
        admin.describe_identity(STRANGER.identity)


def test_describe_self(real: Make) -> None:
    """Everyone known is told who they are; the admin is the admin, others have their policy's rules."""
    assert real().describe_self().admin
    me = real(api_key=str(APP)).describe_self()
    assert (me.identity, me.policy, me.admin) == (APP.identity, "my-app", False)
    assert "/v1/status" in me.allow
    assert len(me.deny) == 2
    with pytest.raises(IdentityNotFound):
        real(api_key=str(STRANGER)).describe_self()


def test_not_allowed(real: Make) -> None:
    """What a policy does not allow is NotAllowed."""
    with pytest.raises(NotAllowed) as caught:
        real(api_key=str(APP)).create_key("other")
    assert (caught.value.status, str(caught.value)) == (403, "not authorized: insufficient permissions")


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "-a", "_", "a" * 81, "ü", "a\n"])
def test_names_are_checked_before_anything_is_sent(connect: Make, name: str) -> None:
    """A name that could be another path, or no name, is refused with the server's words, without a server."""
    client = connect("127.0.0.1:1")
    with pytest.raises(InvalidName) as caught:
        client.create_key(name)
    assert str(caught.value) == f"key name '{name}' is empty, too long or contains invalid characters"
    for call in (client.describe_policy, client.describe_identity, client.delete_key):
        with pytest.raises(InvalidName):
            call(name)


@pytest.mark.parametrize("pattern", ["a*b", "*a", "a**", "../x", "-"])
def test_list_patterns_are_checked_before_anything_is_sent(connect: Make, pattern: str) -> None:
    """A pattern that no server takes is refused with the server's words."""
    with pytest.raises(InvalidName) as caught:
        connect("127.0.0.1:1").list_keys(pattern)
    assert str(caught.value) == f"listing pattern '{pattern}' is empty, too long or is invalid"


def test_audit_log(admin: Any, server: Server) -> None:
    """Each request is an event, in order, with what was sent as it was."""
    with admin.audit_log() as events:
        admin.list_policies("ops")
        event = next(event for event in events if event.path == "/v1/policy/list/ops")
    assert (event.status, event.identity, event.ip) == (200, ADMIN.identity, "127.0.0.1")
    assert event.latency > 0
    assert event.line.startswith(b'{"time":')


def test_error_log(admin: Any, server: Server) -> None:
    """What the server logs as an error is an event."""
    (server.folder / "keys" / "corrupt").write_text("not a key")
    try:
        with admin.error_log() as events:
            with pytest.raises(ServerError) as caught:
                admin.describe_key("corrupt")
            assert caught.value.status == 502
            assert "corrupt" in next(iter(events)).message
    finally:
        (server.folder / "keys" / "corrupt").unlink()


def test_log_not_allowed(real: Make) -> None:
    """A log that may not be read is NotAllowed when it is entered."""
    with pytest.raises(NotAllowed), real(api_key=str(APP)).audit_log():
        pass


def test_identity(admin: Any) -> None:
    """A client knows its own identity."""
    assert admin.identity == ADMIN.identity
