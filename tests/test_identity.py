"""Identities of certificates, and API keys."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from kes.identity import APIKey, is_ca, of_certificate, of_public_key
from kes.names import is_identity

ED25519 = Ed25519PrivateKey.from_private_bytes(bytes(32))
START = datetime(2026, 1, 1, tzinfo=UTC)
BASIC_CONSTRAINTS = "2.5.29.19"
ALTERNATIVE_NAME = "2.5.29.17"

Signer = Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def certificate(
    *extensions: tuple[str, bytes], key: Signer = ED25519, subject: str = "x", critical: bool = False, serial: int = 1
) -> bytes:
    """A self-signed DER certificate with the extensions as given, well-formed or not."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(serial)
        .not_valid_before(START)
        .not_valid_after(START + timedelta(days=1))
        .public_key(key.public_key())
    )
    for oid, value in extensions:
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, None if isinstance(key, Ed25519PrivateKey) else hashes.SHA256()).public_bytes(Encoding.DER)


def spki(key: Signer) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    "key",
    [ED25519, ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)],
    ids=["ed25519", "ecdsa", "rsa"],
)
def test_hash_of_the_public_key(key: Signer) -> None:
    """An identity is the lower-case hex SHA-256 of the SubjectPublicKeyInfo, for every kind of key."""
    identity = of_certificate(certificate(key=key))
    assert identity == hashlib.sha256(spki(key)).hexdigest() == of_public_key(spki(key))
    assert is_identity(identity)


def test_renewed_certificate() -> None:
    """The other fields of a certificate do not count: the same key is the same identity."""
    renewed = certificate((ALTERNATIVE_NAME, bytes.fromhex("3003820161")), subject="y", serial=2)
    assert renewed != certificate()
    assert of_certificate(renewed) == of_certificate(certificate())


def test_key_as_encoded() -> None:
    """The bytes of the certificate are hashed, also where encoding the parsed key again would give others."""
    key = rsa.generate_private_key(65537, 2048)
    der, encoded = certificate(key=key), spki(key)
    # Algorithm parameters other than the NULL that an encoder would write, in as many bytes.
    odd = encoded.replace(bytes.fromhex("0500"), bytes.fromhex("0400"), 1)
    at = der.rindex(encoded)
    assert of_certificate(der[:at] + odd + der[at + len(encoded) :]) == hashlib.sha256(odd).hexdigest()


def minimal(key: bytes, rest: bytes = b"", serial: bytes = bytes.fromhex("020101")) -> bytes:
    """The shape of a certificate around a public key, of version 1 if `rest` is empty; no name, no signature."""

    def sequence(content: bytes) -> bytes:
        return bytes((0x30, 0x81, len(content)) if len(content) > 0x7F else (0x30, len(content))) + content

    empty = bytes.fromhex("3000")
    return sequence(sequence(serial + empty * 4 + key + rest) + empty + bytes.fromhex("0300"))


def test_version_1() -> None:
    """A certificate of version 1 has no version field, and an identity all the same."""
    der = minimal(spki(ED25519))
    assert of_certificate(der) == of_public_key(spki(ED25519))
    assert not is_ca(der)


def test_unique_identifiers() -> None:
    """The unique identifiers that old certificates have between key and extensions hide no basic constraints."""
    extensions = bytes.fromhex("a3133011300f0603551d130101ff040530030101ff")
    for identifiers in ("", "81020000", "82020000", "8102000082020000"):
        der = minimal(spki(ED25519), bytes.fromhex(identifiers) + extensions)
        assert is_ca(der)
        assert of_certificate(der) == of_public_key(spki(ED25519))


def test_key_that_outruns_its_certificate() -> None:
    """A public key longer than what is left of the signed part would take in bytes that nobody signed."""
    key = spki(ED25519)
    with pytest.raises(ValueError, match=r"not a DER certificate"):
        of_certificate(minimal(key[:1] + bytes((key[1] + 1,)) + key[2:]))


@given(st.data())
def test_damaged_certificate(data: st.DataObject) -> None:
    """Whatever a peer sends is answered or is a ValueError; no other exception gets out."""
    der = bytearray(certificate((BASIC_CONSTRAINTS, bytes.fromhex("30030101ff"))))
    for _ in range(data.draw(st.integers(1, 3))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    for question in (of_certificate, is_ca):
        try:
            question(bytes(der))
        except ValueError as error:
            assert str(error) == "not a DER certificate"  # noqa: PT017 - not raising is right as well


@pytest.mark.parametrize("question", [of_certificate, is_ca])
def test_cut_certificate(question: object) -> None:
    """A certificate that ends early or late, anywhere, is none."""
    assert callable(question)
    der = certificate((BASIC_CONSTRAINTS, bytes.fromhex("30030101ff")))
    for end in range(len(der)):
        with pytest.raises(ValueError, match="not a DER certificate"):
            question(der[:end])
    with pytest.raises(ValueError, match="not a DER certificate"):
        question(der + b"\0")


def test_one_spelling_of_a_length() -> None:
    """DER allows only the shortest form of a length, so that a certificate cannot be spelt in two ways."""
    der = certificate()
    assert der[:2] == b"\x30\x81"
    for length in (b"\x82\x00" + der[2:3], b"\x83\x00\x00" + der[2:3], b"\x80"):
        with pytest.raises(ValueError, match="not a DER certificate"):
            of_certificate(b"\x30" + length + der[3:])
    with pytest.raises(ValueError, match=r"not a DER certificate"):
        of_certificate(minimal(spki(ED25519), serial=bytes.fromhex("02810101")))


@pytest.mark.parametrize(
    ("value", "expected"),
    [("3000", False), ("30030101ff", True), ("3003010100", False), ("30060101ff020100", True), ("3003020100", False)],
)
@pytest.mark.parametrize("critical", [False, True])
def test_basic_constraints(value: str, expected: bool, critical: bool) -> None:
    """A certificate is an authority's if its basic constraints say so, critical or not; the flag's default is false."""
    assert is_ca(certificate((BASIC_CONSTRAINTS, bytes.fromhex(value)), critical=critical)) is expected


def test_no_basic_constraints() -> None:
    """Without the extension, or without any, a certificate is no authority's."""
    assert not is_ca(certificate())
    assert not is_ca(certificate((ALTERNATIVE_NAME, bytes.fromhex("3003820161"))))


@pytest.mark.parametrize("value", ["", "ffff", "3002", "3001", "30030101", "3003010101", "300401020000", "30000500"])
def test_malformed_basic_constraints(value: str) -> None:
    """Basic constraints that are not DER are refused rather than read one way or the other."""
    with pytest.raises(ValueError, match="not a DER certificate"):
        is_ca(certificate((BASIC_CONSTRAINTS, bytes.fromhex(value))))


@pytest.mark.parametrize("value", ["3006a3040c026162", "3006a5040c026162", "3002", "30058703010203", ""])
def test_other_extensions_are_passed_over(value: str) -> None:
    """An alternative name of a rare kind, or a broken one, neither fails the check nor hides the basic constraints."""
    odd = (ALTERNATIVE_NAME, bytes.fromhex(value))
    assert not is_ca(certificate(odd))
    assert is_ca(certificate(odd, (BASIC_CONSTRAINTS, bytes.fromhex("30030101ff"))))


def test_basic_constraints_twice() -> None:
    """Two basic constraints could be read in two ways, and are refused (RFC 5280, section 4.2)."""
    other = "2.5.29.18"  # replaced below: the library would not write the same extension twice
    value = bytes.fromhex("3000")
    der = certificate((BASIC_CONSTRAINTS, value), (other, value))
    with pytest.raises(ValueError, match="not a DER certificate"):
        is_ca(der.replace(bytes.fromhex("0603551d12"), bytes.fromhex("0603551d13")))


# cli.md 4.5; the last pair is the project document's.
API_KEYS = [
    (
        "kes:v1:ACQpoGqx3rHHjT938Hfu5hVVQJHZWSqVI2Xp1KlYxFVw",
        "0426fa9a04bc2756b92fbe8a97e1a1e07b53ecf04ed33da22c33e5c9faeb8cbb",
    ),
    (
        "kes:v1:AMxvd2uV1l5dDSRwuKZxSjuM5BDemlr+685+JAHA1TuJ",
        "ab785e3b95d80d72cc9c27cb9fde886a0bf9068a69d40e3bd08a54e68c3f2bf7",
    ),
    (
        "kes:v1:AGaV6VXHasF0FnaB60WdCOeTZ8eTIDikL4zlN16c8NAs",
        "ea9826089311fe44d7590408ede9150f7c637b6cab0a91ee6fe1aa5d9fb366f6",
    ),
    (
        "kes:v1:ADsGCjJoWziQ82wPUG6oHbqhhlbkajaRGP+3+JSfx5Wq",
        "7bbffa635fc160ef8048a344a53aab54e472e5c654c6339a9cec9223301808c7",
    ),
]


@pytest.mark.parametrize(("text", "identity"), API_KEYS)
def test_api_key_vectors(text: str, identity: str) -> None:
    """The published API keys have the published identities; the prefix may be missing, and is always written."""
    assert APIKey.parse(text).identity == identity
    assert str(APIKey.parse(text)) == text
    assert str(APIKey.parse(text.removeprefix("kes:v1:"))) == text


@given(st.binary(min_size=32, max_size=32))
def test_api_key_round_trip(seed: bytes) -> None:
    """The text of an API key has 51 characters and is read back to the same seed."""
    text = str(APIKey(seed))
    assert len(text) == 51
    assert APIKey.parse(text).seed == seed


SEED = bytes(range(32))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("v1:AM0F5TP43FYEShMzA42f2drFYGnBOiNx7UH4DK0nm08E", "not base64"),
        ("kes:AM0F5TP43FYEShMzA42f2drFYGnBOiNx7UH4DK0nm08E", "not base64"),
        ("kes:v1:sbDvZFqUPFFwxRS4EkuoEb2nyyInkdKSUEYHXFHeTouW", "unsupported type"),
        ("", "invalid length"),
        ("kes:v1:", "invalid length"),
        ("kes:v1:" + base64.b64encode(bytes(32)).decode(), "invalid length"),
        ("kes:v1:" + base64.b64encode(bytes(34)).decode(), "invalid length"),
        ("kes:v1:" + base64.b64encode(b"\0" + SEED).decode() + "\n", "not base64"),
        (" kes:v1:" + base64.b64encode(b"\0" + SEED).decode(), "not base64"),
        ("kes:v1:" + base64.b64encode(b"\0" + SEED).decode()[:-1] + "é", "not base64"),
        ("kes:v1:" + base64.urlsafe_b64encode(b"\0" + b"\xff" * 32).decode(), "not base64"),
    ],
)
def test_rejected_api_keys(text: str, reason: str) -> None:
    """A text that is no API key is refused with the contract's words (cli.md 4.1), and never repeated."""
    with pytest.raises(ValueError, match=f"^kes: invalid API key: {reason}$"):
        APIKey.parse(text)


def test_api_key_shows_no_seed() -> None:
    """Only `str` tells the key; its repr, which tracebacks and logs show, does not."""
    key = APIKey(SEED)
    assert repr(key) == "APIKey()"
    assert f"{key}" == "kes:v1:" + base64.b64encode(b"\0" + SEED).decode()


def test_api_keys_compare() -> None:
    """Two API keys are equal if their seeds are."""
    assert APIKey(SEED) == APIKey(bytes(range(32)))
    assert APIKey(SEED) != APIKey(bytes(32))
    assert APIKey(SEED) != str(APIKey(SEED))


def test_generate_api_key() -> None:
    """A new API key is what the source of randomness gave, 32 bytes of it."""
    asked: list[int] = []

    def random(size: int) -> bytes:
        asked.append(size)
        return SEED

    assert APIKey.generate(random).seed == SEED
    assert asked == [32]
    assert APIKey.generate() != APIKey.generate()
