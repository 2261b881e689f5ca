"""Every entry of vectors.json, each checked against the reference server, holds for the pure functions, and for a
running server on the keys that it stored."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kes.crypto import Algorithm, DecryptionError, Key, SecretKey
from kes.crypto.storedkey import decode, encode
from kes.identity import APIKey
from kes.timestamp import format_rfc3339
from tests.support import Client, start

VECTORS: dict[str, Any] = json.loads(Path(__file__).with_name("vectors.json").read_bytes())
SECTIONS = {"decrypt", "refused", "made_by_reference", "stored_keys", "api_keys"}


def unbase64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def secret_key(entry: dict[str, Any]) -> SecretKey:
    algorithm = Algorithm.parse(entry["algorithm"])
    assert algorithm is not None
    return SecretKey(algorithm, unbase64(entry["key"]))


def test_nothing_is_left_out() -> None:
    """The file has the sections that are replayed here and no other, and none of them is empty."""
    assert set(VECTORS) == SECTIONS
    assert all(VECTORS.values())
    assert {entry["format"] for entry in VECTORS["decrypt"]} == {"binary", "json", "json-with-id", "msgpack"}


@pytest.mark.parametrize("entry", VECTORS["decrypt"] + VECTORS["made_by_reference"])
def test_decrypt(entry: dict[str, Any]) -> None:
    """What the reference server decrypts, or made itself, is decrypted to the same plaintext."""
    plaintext = unbase64(entry["plaintext"])
    key, context = secret_key(entry), unbase64(entry["context"])
    assert key.decrypt(unbase64(entry["ciphertext"]), context) == plaintext


@pytest.mark.parametrize("entry", [entry for entry in VECTORS["decrypt"] if entry["format"] == "binary"])
def test_encrypt(entry: dict[str, Any]) -> None:
    """With the entry's IV and nonce, encrypting gives the entry's ciphertext."""
    drawn = unbase64(entry["iv"]) + unbase64(entry["nonce"])

    def random(size: int) -> bytes:
        assert size == len(drawn)
        return drawn

    key, context = secret_key(entry), unbase64(entry["context"])
    assert key.encrypt(unbase64(entry["plaintext"]), context, random) == unbase64(entry["ciphertext"])


@pytest.mark.parametrize("entry", VECTORS["refused"], ids=[entry["note"] for entry in VECTORS["refused"]])
def test_refused(entry: dict[str, Any]) -> None:
    """What the reference server refuses is refused, without a reason."""
    with pytest.raises(DecryptionError) as raised:
        secret_key(entry).decrypt(unbase64(entry["ciphertext"]), unbase64(entry["context"]))
    assert not str(raised.value)


@pytest.mark.parametrize("name", VECTORS["stored_keys"])
def test_stored_key(name: str) -> None:
    """A key that the reference server stored has what it describes, makes its HMACs, and is written as it was."""
    entry = VECTORS["stored_keys"][name]
    value, described = entry["stored"].encode(), entry["describe"]
    key = decode(value)
    assert described["name"] == name
    assert str(key.secret.algorithm) == described["algorithm"]
    assert format_rfc3339(key.created_at) == described["created_at"]
    assert key.created_by == described.get("created_by", "")
    if entry["hmac"] is None:
        assert key.hmac_key is None
        assert decode(encode(key)) == key  # the older form is not written any more
    else:
        assert key.hmac_key is not None
        assert entry["hmac"]
        for message, expected in entry["hmac"].items():
            assert key.hmac_key.digest(unbase64(message)) == unbase64(expected)
        assert encode(key) == value


@pytest.mark.parametrize("entry", VECTORS["api_keys"])
def test_api_key(entry: dict[str, str]) -> None:
    """A seed, its API key and its identity belong together."""
    key = APIKey(unbase64(entry["seed"]))
    assert str(key) == entry["api_key"]
    assert APIKey.parse(entry["api_key"]) == key
    assert key.identity == entry["identity"]


# The same through a server


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The admin's connection to a server whose key store has all the keys of the file."""
    folder = tmp_path_factory.mktemp("vectors")
    keys = folder / "keys"
    keys.mkdir()
    for name, entry in VECTORS["stored_keys"].items():
        (keys / name).write_text(entry["stored"])
    for entry in CIPHERTEXTS:
        (keys / key_name(entry)).write_bytes(encode(Key(secret_key(entry), None, 0, "")))
    with start(folder) as server:
        yield server.client()


CIPHERTEXTS = VECTORS["decrypt"] + VECTORS["made_by_reference"] + VECTORS["refused"]


def key_name(entry: dict[str, Any]) -> str:
    return f"{entry['algorithm']}-{unbase64(entry['key']).hex()[:16]}"


def test_ciphertexts_by_a_server(client: Client) -> None:
    """A server decrypts what the reference server decrypted, and refuses what it refused, in the same words."""
    for entry in CIPHERTEXTS:
        answer = client.request(
            "PUT",
            f"/v1/key/decrypt/{key_name(entry)}",
            {"ciphertext": entry["ciphertext"], "context": entry["context"]},
        )
        if entry in VECTORS["made_by_reference"]:
            assert (answer.status, answer.json) == (200, {"plaintext": entry["plaintext"]})
        else:
            assert (answer.status, answer.json) == (entry["reference_status"], entry["reference_body"])


@pytest.mark.parametrize("name", VECTORS["stored_keys"])
def test_stored_key_by_a_server(client: Client, name: str) -> None:
    """A server describes a key that the reference server stored as that did, and makes the same HMACs with it."""
    entry = VECTORS["stored_keys"][name]
    answer = client.request("GET", f"/v1/key/describe/{name}")
    assert (answer.status, answer.json) == (200, entry["describe"])
    for message, expected in (entry["hmac"] or {}).items():
        answer = client.request("PUT", f"/v1/key/hmac/{name}", {"message": message})
        assert (answer.status, answer.json) == (200, {"hmac": expected})
    if entry["hmac"] is None:
        answer = client.request("PUT", f"/v1/key/hmac/{name}", {"message": ""})
        assert (answer.status, answer.message) == (409, "key does not support HMAC")
