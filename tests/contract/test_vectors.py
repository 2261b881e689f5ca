"""Every entry of vectors.json, each checked against the reference server, holds for the pure functions."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from kes.crypto import Algorithm, DecryptionError, SecretKey
from kes.crypto.storedkey import decode, encode
from kes.identity import APIKey
from kes.timestamp import format_rfc3339

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
