"""The decoder of request bodies, compared with Go's encoding/json, which the original uses."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable, Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kes.api.body import Body, body_decoder
from kes.errors import InvalidBody
from tests.interop.program import build


class Fields(Body):
    """What tests/interop/body has as well."""

    plaintext: bytes | None = None
    context: bytes | None = None
    ciphertext: bytes | None = None
    message: bytes | None = None
    key: bytes | None = None
    cipher: str = ""


Values = list[bytes] | None  # of the fields; None if the body is invalid
NAMES = Fields.__struct_fields__
read = body_decoder(Fields, InvalidBody)


def decode(body: bytes) -> Values:
    try:
        found = read(body)
    except InvalidBody:
        return None
    binary = [found.plaintext, found.context, found.ciphertext, found.message, found.key]
    return [*(value or b"" for value in binary), found.cipher.encode()]


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[bytes], Values]]:
    """What Go makes of a body."""
    program = build(tmp_path_factory.mktemp("go"), "./body")
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def decode(body: bytes) -> Values:
            process.stdin.write(base64.b64encode(body) + b"\n")
            process.stdin.flush()
            line = process.stdout.readline().strip()
            return None if line == b"error" else [base64.b64decode(value) for value in line.split(b",")[:-1]]

        yield decode
        process.stdin.close()
        assert process.wait(10) == 0


# Bodies, most of them valid


def pick(*options: str) -> st.SearchStrategy[bytes]:
    return st.sampled_from([option.encode() for option in options])


def join(*parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.tuples(*parts).map(b"".join)


def listed(items: st.SearchStrategy[bytes], begin: bytes, end: bytes, size: int = 4) -> st.SearchStrategy[bytes]:
    return st.lists(join(BLANKS, items, BLANKS), max_size=size).map(lambda parts: begin + b",".join(parts) + end)


def quoted(*parts: st.SearchStrategy[bytes], size: int = 4) -> st.SearchStrategy[bytes]:
    return st.lists(st.one_of(parts), max_size=size).map(lambda texts: b'"%b"' % b"".join(texts))


@st.composite
def names(draw: st.DrawFn, fields: tuple[str, ...]) -> bytes:
    """A field's name in one of its spellings."""
    name = ""
    plain = draw(st.booleans())
    for letter in draw(st.sampled_from(fields)):
        forms = [letter, letter.upper(), f"\\u{ord(letter):04x}", f"\\u{ord(letter.upper()):04X}"]
        forms += {"s": ["\u017f", "\\u017f", "\\u017F"], "k": ["\u212a", "\\u212a", "\\u212A"]}.get(letter, [])
        name += letter if plain else draw(st.sampled_from(forms))
    return f'"{name}"'.encode()


BLANKS = pick("", "", "", " ", "\n", "\t\r")
CHARACTERS = st.one_of(
    pick(*"aZ09+/=-_ {}[],:\x7f\u20ac\U0001f600\ufeff\u017f\u212a\u0131"),
    pick("\\n", "\\r", '\\"', "\\\\", "\\/", "\\b", "\\u0000", "\\u0061", "\\u000a", "\\u005c", "\\u0022"),
    pick("\\ud83d", "\\uDE00", "\\ud83d\\ude00"),
    st.sampled_from(
        [b"\xff", b"\xe2\x82", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xc0\x80", b"\x80", b"\xf4\x90\x80\x80"]
    ),
)
STRINGS = quoted(CHARACTERS)
NUMBERS = pick("0", "1", "-1", "-0", "10", "1.0", "1e2", "1E+2", "-1.5e-3", "1e999", "1" * 40)
SCALARS = st.one_of(STRINGS, NUMBERS, pick("true", "false", "null"))
VALUES = st.recursive(
    SCALARS,
    lambda values: st.one_of(
        listed(values, b"[", b"]"),
        listed(join(st.one_of(names(NAMES), STRINGS), BLANKS, pick(":"), BLANKS, values), b"{", b"}"),
    ),
    max_leaves=8,
)

# A byte string's base64 in pieces of 3 bytes, the last of fewer, with escapes of line breaks and letters in between.
PIECES = st.binary(min_size=3, max_size=3).map(base64.b64encode)
BASE64 = st.tuples(quoted(PIECES, pick("\\n", "\\r\\n", "\\u0041AAA")), st.binary(max_size=2)).map(
    lambda parts: parts[0][:-1] + base64.b64encode(parts[1]) + b'"'
)
PADDED = quoted(pick("A", "g", "=", "\\n", "AAAA", "AA==", "AAA="), size=6)
BYTES = st.one_of(
    BASE64, BASE64, BASE64, PADDED, listed(pick("0", "1", "104", "255", "null", "null"), b"[", b"]"), pick("null")
)
WRONG = st.one_of(STRINGS, VALUES, pick("[256]", "[1.0]", "[-0]", "[1,[]]", "[true]", "[1e0]", "[1,]", "[00]"))
TEXTS = st.one_of(STRINGS, STRINGS, pick('"AES256"', "null"))


def members(name: st.SearchStrategy[bytes], value: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return join(name, BLANKS, pick(":"), BLANKS, value)


FEW = names(("key", "message"))  # so that they come again
GOOD = st.one_of(
    *[members(name, BYTES) for name in (FEW, FEW, names(NAMES[:-1]))],
    members(names(("cipher",)), TEXTS),
    members(STRINGS, VALUES),
)
BAD = st.one_of(GOOD, GOOD, members(names(NAMES), WRONG))
BEHIND = st.one_of(BLANKS, pick("x", '"', "\\", "{}", "}", "]", ",", "\x00"))
BODIES = join(
    BLANKS, st.one_of(*[listed(GOOD, b"{", b"}", 6)] * 3, listed(BAD, b"{", b"}"), pick("null"), VALUES), BEHIND
)
BITS = [
    *(bytes([byte]) for byte in b'"[]{},:\\10-.e \x00\x01\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x1f\xa0'),
    b"null",
    b"NaN",
]


def change(body: bytes, random: Random) -> bytes:
    """`body` with a few bytes replaced, left out, put in or repeated."""
    at = random.randrange(len(body) + 1)
    new = random.choice([b"", random.randbytes(1), *random.choices(BITS, k=4), body[at : at + random.randrange(9)]])
    return body[:at] + new + body[at + random.choice([0, 0, 1, len(new)]) :]


@given(body=BODIES)
@settings(max_examples=1000)
def test_as_in_go(go: Callable[[bytes], Values], body: bytes) -> None:
    """A body gives what it gives in Go, or is invalid in both."""
    assert decode(body) == go(body)


@given(body=BODIES, seed=st.integers(0, 2**32), times=st.integers(1, 3))
@settings(max_examples=1000)
def test_changed_as_in_go(go: Callable[[bytes], Values], body: bytes, seed: int, times: int) -> None:
    """The same for what is a few bytes away."""
    random = Random(seed)
    for _ in range(times):
        body = change(body, random)
    assert decode(body) == go(body)


@pytest.mark.parametrize("inner", [b"0", b"[]", b"{}", b"[0]", b'{"key":0}', b"[ ]", b""])
@pytest.mark.parametrize(
    "around", [(b"[", b"]"), (b"[ ", b" ]"), (b'{"key":', b"}"), (b'[0,{"":', b"}]"), (b"[", b"}")]
)
def test_depth_as_in_go(go: Callable[[bytes], Values], inner: bytes, around: tuple[bytes, bytes]) -> None:
    """Values nest as deep as in Go, whatever they are made of."""
    levels = sum(around[0].count(bracket) for bracket in (b"[", b"{"))
    for depth in range(9_996 // levels, 10_002 // levels):
        body = b'{"x":' + around[0] * depth + inner + around[1] * depth + b',"key":"aGk="}'
        assert decode(body) == go(body)
