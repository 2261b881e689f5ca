"""Stored keys: written in one way, read in two."""

from __future__ import annotations

import base64
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes.crypto import Algorithm, HMACKey, Key, SecretKey
from kes.crypto.storedkey import InvalidStoredKey, decode, encode
from kes.timestamp import ZERO, parse_rfc3339

LAST = 253_402_300_799 * 10**9 + 999_999_999  # the last nanosecond of the year 9999
MATERIAL, HMAC = bytes(range(32)), bytes(range(32, 64))
KEY = Key(SecretKey(Algorithm.CHACHA20, MATERIAL), HMACKey(HMAC), 1_795_452_794_477_497_313, "me")

# A second writer, by hand: contract section 7 spelt as tags and lengths.


def base128(value: int) -> bytes:
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.append(value & 0x7F)
    return bytes(digit | 0x80 for digit in digits[:-1]) + bytes(digits[-1:])


def varint(number: int, value: int) -> bytes:
    return base128(number << 3) + base128(value & (1 << 64) - 1)


def field(number: int, value: bytes) -> bytes:
    return base128(number << 3 | 2) + base128(len(value)) + value


def stored(*, secret: bytes | None = None, hmac: bytes | None = None, created_at: bytes | None = None) -> bytes:
    """A stored key of which one part may be another."""
    return base64.b64encode(
        field(1, field(1, MATERIAL) + varint(2, 2) if secret is None else secret)
        + field(2, field(1, HMAC) + varint(2, 1) if hmac is None else hmac)
        + field(3, varint(1, 1_795_452_794) + varint(2, 477_497_313) if created_at is None else created_at)
        + field(4, b"me")
    )


def test_bytes_of_the_format() -> None:
    """The message has the contract's fields and numbers, in their order."""
    assert encode(KEY) == stored()
    assert decode(stored()) == KEY


@given(
    st.sampled_from(Algorithm),
    st.binary(min_size=32, max_size=32),
    st.none() | st.binary(min_size=32, max_size=32),
    st.integers(ZERO, LAST),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=70),
)
def test_round_trip(
    algorithm: Algorithm, material: bytes, hmac: bytes | None, created_at: int, created_by: str
) -> None:
    """What is written is read back, to the nanosecond, and written again as the same text."""
    key = Key(SecretKey(algorithm, material), None if hmac is None else HMACKey(hmac), created_at, created_by)
    text = encode(key)
    assert decode(text) == key
    assert encode(decode(text)) == text
    assert text.isascii()
    assert b"\n" not in text


@given(st.data())
def test_malleability(data: st.DataObject) -> None:
    """A text with one character changed is refused, or is read as a key that is written and read as the same again."""
    text = bytearray(encode(KEY))
    text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        key = decode(bytes(text))
    except InvalidStoredKey:
        return
    assert decode(encode(key)) == key


@given(st.binary(max_size=100))
def test_rubbish(value: bytes) -> None:
    """Whatever lies in a store, decoding raises nothing but InvalidStoredKey."""
    for candidate in (value, b"{" + value, base64.b64encode(value)):
        with suppress(InvalidStoredKey):
            decode(candidate)


def test_line_breaks() -> None:
    """CR and LF anywhere are passed over, as an editor may have added them; other blanks are not (keystores.md 1.2)."""
    text = encode(KEY)
    assert decode(text + b"\n") == KEY
    assert decode(text[:76] + b"\r\n" + text[76:] + b"\r\n") == KEY
    for other in (text + b" ", b"\t" + text, text[:10] + b" " + text[10:], text + b"\0"):
        with pytest.raises(InvalidStoredKey):
            decode(other)


INVALID = {
    "empty": b"",
    "line break only": b"\n",
    "not base64": b"!!!!",
    "not ASCII": "é".encode(),
    "missing padding": stored().rstrip(b"=") if stored().endswith(b"=") else stored()[:-1],
    "URL alphabet": stored().replace(b"A", b"_"),
    "cut": stored()[:-4],
    "no secret key": base64.b64encode(field(4, b"me")),
    "short secret key": stored(secret=field(1, MATERIAL[:-1]) + varint(2, 2)),
    "long secret key": stored(secret=field(1, MATERIAL + b"\0") + varint(2, 2)),
    "empty secret key": stored(secret=varint(2, 2)),
    "no algorithm": stored(secret=field(1, MATERIAL)),
    "unknown algorithm": stored(secret=field(1, MATERIAL) + varint(2, 3)),
    "empty HMAC key": stored(hmac=varint(2, 1)),
    "no hash": stored(hmac=field(1, HMAC)),
    "unknown hash": stored(hmac=field(1, HMAC) + varint(2, 2)),
    "nanoseconds below 0": stored(created_at=varint(1, 7) + varint(2, -1)),
    "nanoseconds of a second": stored(created_at=varint(1, 7) + varint(2, 10**9)),
    "year 10000": stored(created_at=varint(1, 253_402_300_800)),
    "year 0": stored(created_at=varint(1, ZERO // 10**9 - 1)),
    "JSON: none": b"{",
    "JSON: rest": json.dumps({"bytes": base64.b64encode(MATERIAL).decode()}).encode() + b"x",
    "JSON: no key": b"{}",
    "JSON: short key": json.dumps({"bytes": base64.b64encode(MATERIAL[:-1]).decode()}).encode(),
    "JSON: not base64": b'{"bytes": "!"}',
    "JSON: unknown algorithm": json.dumps({"bytes": base64.b64encode(MATERIAL).decode(), "algorithm": "x"}).encode(),
    "JSON: no time": json.dumps({"bytes": base64.b64encode(MATERIAL).decode(), "created_at": "today"}).encode(),
    "JSON: nested": b'{"x":' + b"[" * 100_000,
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid(name: str) -> None:
    """Each way to be no stored key is the one error, whose text and cause repeat nothing of what was read."""
    with pytest.raises(InvalidStoredKey) as raised:
        decode(INVALID[name])
    assert raised.value.__cause__ is None
    text = str(raised.value)
    assert text
    assert base64.b64encode(MATERIAL).decode()[:8] not in text
    assert "today" not in text


@pytest.mark.parametrize(
    ("fields", "algorithm", "created_at", "created_by"),
    [
        ({}, Algorithm.AES256, ZERO, ""),
        ({"algorithm": ""}, Algorithm.AES256, ZERO, ""),
        ({"algorithm": "XCHACHA20-POLY1305", "created_by": "me"}, Algorithm.CHACHA20, ZERO, "me"),
        (
            {"algorithm": "AES256-GCM_SHA256", "created_at": "2009-11-10T23:00:00.5Z"},
            Algorithm.AES256,
            parse_rfc3339("2009-11-10T23:00:00.5Z"),
            "",
        ),
        ({"other": {"bytes": 1}}, Algorithm.AES256, ZERO, ""),
    ],
)
def test_json(fields: dict[str, object], algorithm: Algorithm, created_at: int, created_by: str) -> None:
    """The JSON of older servers is read: no algorithm means AES256, no time the zero time; there is no HMAC key."""
    value = json.dumps({"bytes": base64.b64encode(MATERIAL).decode(), **fields}).encode()
    expected = Key(SecretKey(algorithm, MATERIAL), None, created_at, created_by)
    assert decode(value) == decode(b"\n" + value + b"\n") == expected
    assert decode(encode(expected)) == expected


def test_without_time_or_creator() -> None:
    """A message without a creation time has the zero time, and one without a creator the empty one."""
    text = base64.b64encode(field(1, field(1, MATERIAL) + varint(2, 1)))
    assert decode(text) == Key(SecretKey(Algorithm.AES256, MATERIAL), None, ZERO, "")
