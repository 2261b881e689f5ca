"""Chains that a client may send to make the server work: the shapes that `bench/handshakes.py` measures.

None of their signatures needs to be valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes, CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.certificates import Made, make

_UNCOMPRESSED, _COMPRESSED = PublicFormat.UncompressedPoint, PublicFormat.CompressedPoint


def small_certificate(curve: ec.EllipticCurve) -> x509.Certificate:
    """The smallest certificate with a key on `curve`, whose point is compressed: to parse it takes a square root."""
    key = ec.generate_private_key(curve).public_key()
    whole, point = key.public_bytes(Encoding.X962, _UNCOMPRESSED), key.public_bytes(Encoding.X962, _COMPRESSED)
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    # Between the outer head, of 2 or 3 bytes, and the bit string's.
    algorithm = spki[2 if spki[1] < 0x80 else 3 :].partition(whole)[0]
    algorithm = algorithm[: 2 + algorithm[1]]
    signed_by = _element(0x30, bytes.fromhex("06032b6570"))  # Ed25519
    validity = _element(0x30, _element(0x17, b"250101000000Z"), _element(0x17, b"350101000000Z"))
    public_key = _element(0x30, algorithm, _element(0x03, b"\0", point))
    name = _element(0x30)
    signed = _element(0x30, bytes.fromhex("020101"), signed_by, name, validity, name, public_key)
    return x509.load_der_x509_certificate(_element(0x30, signed, signed_by, bytes.fromhex("030100")))


def _element(tag: int, *content: bytes) -> bytes:
    """A DER element of less than 256 bytes."""
    body = b"".join(content)
    return bytes((tag, len(body)) if len(body) < 0x80 else (tag, 0x81, len(body))) + body


@cache
def rsa_key(size: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, size)


@cache
def slow_rsa_key(size: int) -> rsa.RSAPrivateKey:
    """A key whose public exponent is about as long as its modulus, so that to verify costs as much as to sign."""
    numbers = rsa_key(size).private_numbers()
    private = 65537
    public = pow(private, -1, (numbers.p - 1) * (numbers.q - 1))
    return rsa.RSAPrivateNumbers(
        numbers.p,
        numbers.q,
        private,
        rsa.rsa_crt_dmp1(private, numbers.p),
        rsa.rsa_crt_dmq1(private, numbers.q),
        rsa.rsa_crt_iqmp(numbers.p, numbers.q),
        rsa.RSAPublicNumbers(public, numbers.public_numbers.n),
    ).private_key()


def tower(
    height: int,
    signer: CertificateIssuerPrivateKeyTypes,
    public_key: CertificatePublicKeyTypes | None = None,
    *,
    leaf_key: CertificateIssuerPrivateKeyTypes | None = None,
    top: Made | None = None,
    extensions: Sequence[x509.ExtensionType] = (),
    leaf_extensions: Sequence[x509.ExtensionType] = (),
) -> list[Made]:
    """A leaf and `height` authorities, each of which names the next as its issuer; the last names `top`, or itself.

    All are signed by `signer`; the authorities' key is `public_key`, or the signer's own.
    """
    issuer = Made(top.certificate, signer) if top else None
    chain: list[Made] = []
    for n in range(height):
        issuer = make(f"authority {n}", issuer, ca=True, key=signer, public_key=public_key, extensions=extensions)
        chain.insert(0, issuer)
    return [make("leaf", issuer, key=leaf_key, extensions=leaf_extensions), *chain]
