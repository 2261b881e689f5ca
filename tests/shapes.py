"""Chains that a client may send to make the server work: the shapes that `bench/handshakes.py` measures.

None of their signatures needs to be valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes, CertificatePublicKeyTypes

from tests.certificates import Made, make


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
