"""The two older ciphertext formats, and what is not one of them."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes.crypto import Algorithm, DecryptionError, SecretKey
from kes.crypto.ciphertext import Older, parse_older

IV, NONCE, SEALED = bytes(range(16)), bytes(range(16, 28)), bytes(range(28, 60))
JSON_NAMES = {"AES256": "AES-256-GCM-HMAC-SHA-256", "ChaCha20": "ChaCha20Poly1305"}
MSGPACK_NAMES = {"AES256": "AES256-GCM_SHA256", "ChaCha20": "XCHACHA20-POLY1305"}
names = pytest.mark.parametrize("name", JSON_NAMES)


def in_json(aead: str, iv: bytes = IV, nonce: bytes = NONCE, sealed: bytes = SEALED, **more: Any) -> bytes:
    parts = {key: base64.b64encode(value).decode() for key, value in (("iv", iv), ("nonce", nonce), ("bytes", sealed))}
    return json.dumps({"aead": aead, **parts, **more}).encode()


def in_msgpack(*items: object) -> bytes:
    return msgspec.msgpack.encode(items)


@names
def test_json(name: str) -> None:
    """A JSON object with `aead`, `iv`, `nonce`, `bytes` is taken apart; an `id` or another field is not looked at."""
    expected = Older(name, IV, NONCE, SEALED)
    assert parse_older(in_json(JSON_NAMES[name])) == expected
    assert parse_older(in_json(JSON_NAMES[name], id="745af382", other=[1])) == expected


@names
def test_msgpack(name: str) -> None:
    """A MessagePack array of algorithm, id, IV, nonce and sealed bytes is taken apart."""
    encoded = in_msgpack(MSGPACK_NAMES[name], "745af382", IV, NONCE, SEALED)
    assert encoded[:1] == b"\x95"
    assert parse_older(encoded) == Older(name, IV, NONCE, SEALED)


AES_JSON, AES_MSGPACK = JSON_NAMES["AES256"], MSGPACK_NAMES["AES256"]


@pytest.mark.parametrize(
    "ciphertext",
    [
        in_json(AES_JSON, iv=IV[:-1]),
        in_json(AES_JSON, iv=IV + b"\0"),
        in_json(AES_JSON, nonce=NONCE[:-1]),
        in_json(AES_JSON, nonce=NONCE + b"\0"),
        in_json(AES_JSON, sealed=bytes(15)),
        in_json("AES-256-GCM"),
        in_json("AES256"),
        in_json(AES_MSGPACK),
        in_json(AES_JSON) + b"x",
        in_json(AES_JSON) + b"{}",
        in_json(AES_JSON).replace(b'"iv"', b'"vi"'),
        in_json(AES_JSON).replace(b"AAEC", b"AA EC"),
        in_json(AES_JSON, bytes=None),
        b"{",
        b"{}",
        b"{\xff}",
        b'{"id":' + b"[" * 100_000,
        in_msgpack(AES_MSGPACK, "id", IV[:-1], NONCE, SEALED),
        in_msgpack(AES_MSGPACK, "id", IV, NONCE + b"\0", SEALED),
        in_msgpack(AES_MSGPACK, "id", IV, NONCE, bytes(15)),
        in_msgpack(AES_JSON, "id", IV, NONCE, SEALED),
        in_msgpack(AES_MSGPACK, 7, IV, NONCE, SEALED),
        in_msgpack(AES_MSGPACK, "id", IV, NONCE),
        in_msgpack(AES_MSGPACK, "id", IV, NONCE, SEALED, b""),
        in_msgpack(AES_MSGPACK, "id", IV, NONCE, SEALED) + b"\0",
        in_msgpack(AES_MSGPACK, "id", IV, NONCE, SEALED)[:-1],
        b"\x95",
        b"\x95" * 5000,
    ],
)
def test_not_an_older_format(ciphertext: bytes) -> None:
    """What does not parse in full as an older format is none: wrong sizes, names, items, rests, and deep nesting."""
    assert parse_older(ciphertext) is None
    with pytest.raises(DecryptionError):
        SecretKey(Algorithm.AES256, bytes(32)).decrypt(ciphertext, b"")


def both(key: SecretKey, plaintext: bytes, context: bytes) -> list[bytes]:
    """`plaintext` in both older formats."""
    current = key.encrypt(plaintext, context)
    sealed, iv, nonce = current[:-28], current[-28:-12], current[-12:]
    name = str(key.algorithm)
    return [
        in_json(JSON_NAMES[name], iv, nonce, sealed),
        in_msgpack(MSGPACK_NAMES[name], "id", iv, nonce, sealed),
    ]


@given(st.sampled_from(Algorithm), st.binary(max_size=100), st.binary(max_size=20))
def test_older_round_trip(algorithm: Algorithm, plaintext: bytes, context: bytes) -> None:
    """What an older server encrypted is decrypted, and only with its context."""
    key = SecretKey(algorithm, bytes(32))
    for ciphertext in both(key, plaintext, context):
        assert key.decrypt(ciphertext, context) == plaintext
        with pytest.raises(DecryptionError):
            key.decrypt(ciphertext, context + b"x")


@pytest.mark.parametrize("algorithm", Algorithm)
def test_older_other_algorithm(algorithm: Algorithm) -> None:
    """An older ciphertext that names another algorithm than the key's is refused, not tried."""
    (other,) = set(Algorithm) - {algorithm}
    for ciphertext in both(SecretKey(algorithm, bytes(32)), b"", b""):
        with pytest.raises(DecryptionError):
            SecretKey(other, bytes(32)).decrypt(ciphertext, b"")
    # The same sealed bytes under the other name: the algorithm is what is checked, not only the tag.
    key = SecretKey(algorithm, bytes(32))
    current = key.encrypt(b"", b"")
    renamed = in_json(JSON_NAMES[str(other)], current[-28:-12], current[-12:], current[:-28])
    with pytest.raises(DecryptionError):
        key.decrypt(renamed, b"")


@given(st.sampled_from(Algorithm), st.data())
def test_older_tampered(algorithm: Algorithm, data: st.DataObject) -> None:
    """Changing a byte of an older ciphertext either changes nothing that counts, or it is not authentic."""
    key = SecretKey(algorithm, bytes(32))
    ciphertext = bytearray(data.draw(st.sampled_from(both(key, b"plaintext", b""))))
    ciphertext[data.draw(st.integers(0, len(ciphertext) - 1))] = data.draw(st.integers(0, 255))
    with suppress(DecryptionError):
        assert key.decrypt(bytes(ciphertext), b"") == b"plaintext"
