"""Who a client is (contract section 2): the SHA-256 of its certificate's public key, and API keys, which are such keys
as one line of text. Nothing here opens a file or a connection."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NewType

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

Identity = NewType("Identity", str)  # 64 lower-case hex digits

SEED_SIZE: Final = 32  # bytes of an Ed25519 seed (RFC 8032)
_PREFIX: Final = "kes:v1:"
_ED25519: Final = b"\x00"  # the type byte in front of the seed
_identity = re.compile(r"[0-9a-f]{64}").fullmatch


def is_identity(text: str) -> bool:
    """Whether a client's certificate can have the identity `text`."""
    return _identity(text) is not None


def of_public_key(spki: bytes) -> Identity:
    """The identity of a DER SubjectPublicKeyInfo."""
    return Identity(hashlib.sha256(spki).hexdigest())


def of_certificate(der: bytes) -> Identity:
    """The identity of a DER certificate: the hash of its SubjectPublicKeyInfo exactly as it is encoded there.

    Encoding a parsed key again could give other bytes, and so another identity. ValueError if it is no certificate.
    """
    certificate, _ = _element(der, 0, 0x30)
    tbs, _ = _element(der, certificate, 0x30)
    at = tbs
    if der[at : at + 1] == b"\xa0":  # version [0], absent in a certificate of version 1 (RFC 5280, section 4.1)
        _, at = _element(der, at, 0xA0)
    for tag in (0x02, 0x30, 0x30, 0x30, 0x30):  # serialNumber, signature, issuer, validity, subject
        _, at = _element(der, at, tag)
    _, end = _element(der, at, 0x30)
    return of_public_key(der[at:end])


def _element(der: bytes, at: int, tag: int) -> tuple[int, int]:
    """Where the content of the DER element at `at` begins, and where it ends. ValueError if it has another tag."""
    if der[at : at + 1] != bytes((tag,)) or len(der) < at + 2:
        raise ValueError("not a DER certificate")
    length = der[at + 1]
    begin = at + 2
    if length & 0x80:
        size = length & 0x7F
        if not 1 <= size <= 4:
            raise ValueError("not a DER certificate")
        length = int.from_bytes(der[begin : begin + size], "big")
        begin += size
    if begin + length > len(der):
        raise ValueError("not a DER certificate")
    return begin, begin + length


def is_ca(der: bytes) -> bool:
    """Whether a DER certificate has the CA basic constraint. ValueError if it or its extensions are malformed."""
    certificate = x509.load_der_x509_certificate(der)
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
    except x509.DuplicateExtension as error:
        raise ValueError(str(error)) from None


@dataclass(frozen=True, slots=True)
class APIKey:
    """A client's private key as text: `kes:v1:` and the base64 of a type byte and a 32-byte Ed25519 seed.

    `str()` gives that text; the repr does not.
    """

    seed: bytes = field(repr=False)

    @classmethod
    def generate(cls, random: Callable[[int], bytes] = os.urandom) -> APIKey:
        return cls(random(SEED_SIZE))

    @classmethod
    def parse(cls, text: str) -> APIKey:
        """The key in `text`; the prefix may be missing. ValueError, which never repeats the text."""
        try:
            data = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("invalid API key: not base64") from None
        if len(data) != 1 + SEED_SIZE:
            raise ValueError("invalid API key: invalid length")
        if data[:1] != _ED25519:
            raise ValueError("invalid API key: unsupported type")
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
