"""The key routes, where the recorded exchanges do not reach."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from kes.crypto import Algorithm, Key
from kes.crypto.storedkey import decode, encode
from kes.identity import APIKey
from tests.support import ADMIN, APP, STRANGER, Client, Server, start


@pytest.fixture
def admin(server: Server) -> Client:
    return server.client()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_generated_data_keys_are_new(admin: Client) -> None:
    """Each data key is 32 new bytes, and decrypts under its context only."""
    admin.request("PUT", "/v1/key/create/fresh")
    first, second = (admin.request("PUT", "/v1/key/generate/fresh", {"context": b64(b"a")}).json for _ in range(2))
    assert first["plaintext"] != second["plaintext"]
    assert len(base64.b64decode(first["plaintext"])) == 32
    right = {"ciphertext": first["ciphertext"], "context": b64(b"a")}
    assert admin.request("PUT", "/v1/key/decrypt/fresh", right).json == {"plaintext": first["plaintext"]}
    wrong = {"ciphertext": first["ciphertext"], "context": b64(b"b")}
    answer = admin.request("PUT", "/v1/key/decrypt/fresh", wrong)
    assert (answer.status, answer.message) == (400, "decryption failed: ciphertext is not authentic")


@pytest.mark.parametrize("size", [0, 1, 31, 700_000])
def test_encrypt_decrypt(admin: Client, size: int) -> None:
    """What is encrypted decrypts to the same bytes, 44 of overhead."""
    admin.request("PUT", "/v1/key/create/sizes")
    plaintext = os.urandom(size)
    ciphertext = admin.request("PUT", "/v1/key/encrypt/sizes", {"plaintext": b64(plaintext)}).json["ciphertext"]
    assert len(base64.b64decode(ciphertext)) == size + 44
    answer = admin.request("PUT", "/v1/key/decrypt/sizes", {"ciphertext": ciphertext})
    assert base64.b64decode(answer.json["plaintext"]) == plaintext


def test_a_created_key_is_a_file(server: Server, admin: Client) -> None:
    """When a create is answered, the key is on disk, whole, readable by its owner only, with its creator in it."""
    assert admin.request("PUT", "/v1/key/create/on-disk").status == 200
    path = server.folder / "keys" / "on-disk"
    assert path.stat().st_mode & 0o777 == 0o600
    assert decode(path.read_bytes()).created_by == ADMIN.identity


def test_an_imported_key_is_the_one_given(server: Server, admin: Client) -> None:
    """Import stores the very key, under the algorithm named; a ciphertext made elsewhere with it decrypts."""
    material = os.urandom(32)
    assert admin.request("PUT", "/v1/key/import/given", {"key": b64(material), "cipher": "ChaCha20"}).status == 200
    ciphertext = Key.generate(Algorithm.CHACHA20, "", 0, material=material).secret.encrypt(b"hello", b"")
    answer = admin.request("PUT", "/v1/key/decrypt/given", {"ciphertext": b64(ciphertext)})
    assert answer.json == {"plaintext": b64(b"hello")}


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"null", 406), (b"{}", 406), (b'{"key":null,"cipher":"AES256"}', 406), (b'"x"', 400), (b"\xff", 400)],
)
def test_odd_import_bodies(admin: Client, body: bytes, status: int) -> None:
    """null and absence are the same; what is no object is refused, and nothing is stored."""
    assert admin.request("PUT", "/v1/key/import/odd", body).status == status
    assert admin.request("GET", "/v1/key/describe/odd").status == 404


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b"\xff\xfe", b'{"context":"%s"' % (b"A" * 1000), b'{"context":"\\ud800"}']
)
def test_hostile_json(admin: Client, body: bytes) -> None:
    """Deep, broken or badly encoded JSON is 400, never 500."""
    admin.request("PUT", "/v1/key/create/hostile")
    assert admin.request("PUT", "/v1/key/generate/hostile", body).status == 400


def test_null_bodies_and_fields(admin: Client) -> None:
    """null for a body or for a field means the same as its absence (contract section 4)."""
    admin.request("PUT", "/v1/key/create/nulls")
    for body in (b"null", b'{"plaintext":null,"context":null}', b"{}"):
        assert admin.request("PUT", "/v1/key/encrypt/nulls", body).status == 200


def test_delete_takes_effect_at_once(admin: Client) -> None:
    """A deleted key is gone for the next request although it was in the cache; its name is free again."""
    admin.request("PUT", "/v1/key/create/gone")
    old = admin.request("PUT", "/v1/key/encrypt/gone", {"plaintext": ""}).json["ciphertext"]
    assert admin.request("DELETE", "/v1/key/delete/gone").status == 200
    assert admin.request("PUT", "/v1/key/generate/gone").message == "key does not exist"
    assert admin.request("PUT", "/v1/key/create/gone").status == 200
    assert admin.request("PUT", "/v1/key/decrypt/gone", {"ciphertext": old}).status == 400


def test_listing_past_one_page(tmp_path: Path) -> None:
    """Every key is listed exactly once, in order, whatever the prefix; the last page has no continue_at."""
    folder = tmp_path / "keys"
    folder.mkdir()
    text = encode(Key.generate(Algorithm.AES256, "", 0))
    names = sorted([f"my-key-{i:04}" for i in range(2100)] + ["another", "zz"])
    for name in names:
        (folder / name).write_bytes(text)
    with start(tmp_path) as server:
        client = server.client()
        for prefix in ("", "my-", "my-key-0*", "my-key-20", "another", "nothing"):
            listed: list[str] = []
            token = prefix
            while True:
                page = client.request("GET", f"/v1/key/list/{token}").json
                assert len(page["names"]) <= 1024
                listed += page["names"]
                if "continue_at" not in page:
                    break
                token = page["continue_at"]
                assert token.startswith(f"{prefix.rstrip('*')}*")
            assert listed == [name for name in names if name.startswith(prefix.rstrip("*"))]


def test_a_token_needs_what_its_prefix_needs(server: Server, admin: Client) -> None:
    """Policies are matched against the prefix of a listing, not against the token that continues it."""
    app = server.client(APP)
    admin.request("PUT", "/v1/key/create/my-app-x")
    assert app.request("GET", "/v1/key/list/my-app*my-app-x").json == {"names": ["my-app-x"]}
    assert app.request("GET", "/v1/key/list/*my-app-x").status == 403
    assert app.request("GET", "/v1/key/list/my*my-app-x").status == 403
    assert admin.request("GET", "/v1/key/list/my-app*other").status == 400  # not a name of that listing


@pytest.mark.parametrize("state", ["empty", "garbage", "directory", "half"])
def test_a_bad_key_file(server: Server, admin: Client, state: str) -> None:
    """What is no key is 502 for who uses it and an event that names it; it does not exist less for that."""
    path = server.folder / "keys" / f"bad-{state}"
    if state == "directory":
        path.mkdir()
    else:
        path.write_bytes(
            {"empty": b"", "garbage": os.urandom(100), "half": encode(Key.generate(Algorithm.AES256, "", 0))[:90]}[
                state
            ]
        )
    answer = admin.request("GET", f"/v1/key/describe/bad-{state}")
    assert (answer.status, answer.message) == (502, "failed to read key")
    server.wait_for(f"bad-{state}", errors=True)
    assert admin.request("PUT", f"/v1/key/create/bad-{state}").status in (400, 502)


def test_the_keys_of_the_config_exist(tmp_path: Path) -> None:
    """Keys that the config names are created at start, and left as they are at the next."""
    with start(tmp_path, keys=[{"name": "first"}, {"name": "second"}]) as server:
        created = server.client().request("GET", "/v1/key/describe/first").json["created_at"]
    with start(tmp_path, keys=[{"name": "first"}, {"name": "second"}]) as server:
        client = server.client()
        assert client.request("GET", "/v1/key/describe/first").json["created_at"] == created
        assert client.request("GET", "/v1/key/list/").json == {"names": ["first", "second"]}


def test_the_store_fails(tmp_path: Path) -> None:
    """Without its directory the server says 504 on every key route, is not ready, and tells so in its status."""
    with start(tmp_path) as server:
        client = server.client()
        (tmp_path / "keys").rmdir()
        assert client.request("GET", "/v1/ready").message == "key store is not reachable"
        answer = client.request("PUT", "/v1/key/create/k")
        assert (answer.status, answer.message) == (504, "failed to create key")
        status = client.request("GET", "/v1/status")
        assert status.status == 200
        assert status.json["keystore_unreachable"] is True
        assert status.json["keystore_unavailable"] is True


def test_a_disabled_admin(tmp_path: Path) -> None:
    """An admin that no hash can equal is nobody: the former admin may do nothing, and is not listed."""
    with start(tmp_path, admin={"identity": "disabled"}) as server:
        assert server.client().request("GET", "/v1/key/list/").status == 403
        assert server.client(APIKey.generate()).request("GET", "/v1/status").status == 403
        assert server.client(STRANGER).request("GET", "/version").status == 200
