"""Who a client is (contract section 2): the SHA-256 of its certificate's public key, and API keys, which are such keys
as one line of text. Nothing here opens a file or a connection."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Final, NewType

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

Identity = NewType("Identity", str)  # 64 lower-case hex digits

SEED_SIZE: Final = 32  # bytes of an Ed25519 seed (RFC 8032)
_PREFIX: Final = "kes:v1:"
_ED25519: Final = b"\x00"  # the type byte in front of the seed
_BASIC_CONSTRAINTS: Final = bytes.fromhex("551d13")  # 2.5.29.19


def of_public_key(spki: bytes) -> Identity:
    """The identity of a DER SubjectPublicKeyInfo."""
    return Identity(hashlib.sha256(spki).hexdigest())


def of_certificate(der: bytes) -> Identity:
    """The identity of a DER certificate: the hash of its SubjectPublicKeyInfo exactly as it is encoded there.

    Encoding a parsed key again could give other bytes, and so another identity. ValueError if it is no certificate.
    """
    return of_public_key(public_key_of(der))


def public_key_of(der: bytes) -> bytes:
    """The DER SubjectPublicKeyInfo of a DER certificate. ValueError if it is no certificate."""
    at, end = _public_key(der)
    _, key_end = _element(der, at, end, 0x30)
    return der[at:key_end]


def is_ca(der: bytes) -> bool:
    """Whether a DER certificate has the CA basic constraint (RFC 5280, section 4.2.1.9).

    Every other extension is passed over: a client that nobody has verified may have put anything there. ValueError if
    the certificate is malformed, or has the basic constraints twice.
    """
    at, end = _public_key(der)
    _, at = _element(der, at, end, 0x30)
    for tag in (0x81, 0x82):  # issuerUniqueID, subjectUniqueID
        if der[at:end].startswith(bytes((tag,))):
            _, at = _element(der, at, end, tag)
    if at == end:
        return False
    at = _only(der, at, end, 0xA3)
    at = _only(der, at, end, 0x30)
    found = None
    while at < end:
        extension, extension_end = _element(der, at, end, 0x30)
        oid, oid_end = _element(der, extension, extension_end, 0x06)
        if der[oid:oid_end] == _BASIC_CONSTRAINTS:
            if found is not None:
                raise _malformed()
            found = _says_ca(der, oid_end, extension_end)
        at = extension_end
    return bool(found)


def _says_ca(der: bytes, at: int, end: int) -> bool:
    """What the basic constraints say whose critical flag, if any, and value lie at `at`."""
    if der[at:end].startswith(b"\x01"):
        _, at = _element(der, at, end, 0x01)
    at = _only(der, at, end, 0x04)
    at = _only(der, at, end, 0x30)
    if not der[at:end].startswith(b"\x01"):
        return False  # the flag's default
    value, value_end = _element(der, at, end, 0x01)
    if der[value:value_end] not in (b"\x00", b"\xff"):
        raise _malformed()
    return der[value] == 0xFF


def _public_key(der: bytes) -> tuple[int, int]:
    """Where the SubjectPublicKeyInfo of a DER certificate begins, and where the TBSCertificate around it ends."""
    at = _only(der, 0, len(der), 0x30)
    at, end = _element(der, at, len(der), 0x30)
    if der.startswith(b"\xa0", at):  # version [0], absent in a certificate of version 1 (RFC 5280, section 4.1)
        _, at = _element(der, at, end, 0xA0)
    for tag in (0x02, 0x30, 0x30, 0x30, 0x30):  # serialNumber, signature, issuer, validity, subject
        _, at = _element(der, at, end, tag)
    return at, end


def _only(der: bytes, at: int, end: int, tag: int) -> int:
    """Where the content of the DER element at `at` begins, which has to reach right to `end`."""
    begin, element_end = _element(der, at, end, tag)
    if element_end != end:
        raise _malformed()
    return begin


def _element(der: bytes, at: int, end: int, tag: int) -> tuple[int, int]:
    """Where the content of the DER element at `at` begins and ends. ValueError for another tag or one past `end`."""
    if at + 2 > end or der[at] != tag:
        raise _malformed()
    length = der[at + 1]
    at += 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(der[at : at + size], "big")
        # DER has one length for each content, the shortest, so that one certificate has one spelling.
        if not 1 <= size <= 4 or length < 0x80 or length >> 8 * (size - 1) == 0:
            raise _malformed()
        at += size
    if at + length > end:
        raise _malformed()
    return at, at + length


def _malformed() -> ValueError:
    return ValueError("not a DER certificate")


@dataclass(frozen=True, slots=True)
class APIKey:
    """A client's private key as text: `kes:v1:` and the base64 of a type byte and a 32-byte Ed25519 seed.

    `str()` gives that text; the repr does not.
    """

    seed: bytes = field(repr=False)

    def __eq__(self, other: object) -> bool:
        return compare_digest(self.seed, other.seed) if isinstance(other, APIKey) else NotImplemented

    @classmethod
    def generate(cls, random: Callable[[int], bytes] = os.urandom) -> APIKey:
        return cls(random(SEED_SIZE))

    @classmethod
    def parse(cls, text: str) -> APIKey:
        """The key in `text`; the prefix may be missing. ValueError, which never repeats the text."""
        try:
            data = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("kes: invalid API key: not base64") from None
        if len(data) != 1 + SEED_SIZE:
            raise ValueError("kes: invalid API key: invalid length")
        if data[:1] != _ED25519:
            raise ValueError("kes: invalid API key: unsupported type")
        return cls(data[1:])

    def __str__(self) -> str:
        return _PREFIX + base64.b64encode(_ED25519 + self.seed).decode()

    @property
    def private_key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    @property
    def identity(self) -> Identity:
        public_key = self.private_key.public_key()
        return of_public_key(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
