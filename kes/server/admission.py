"""Whether a client's certificate is admitted: the same rules for one of a TLS handshake and one that a proxy forwards.

OpenSSL verifies chains, but the binding offers no hook before it does so. So what a verification may cost is bounded
here: `examine` looks at the client's own certificate before anything else happens, a certificate that is not admitted
despite errors is refused at the first error, which for an untrusted chain comes before any signature is checked, and
`check_cost` bounds the rest. Nothing here opens a file or a connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.dsa import DSAPublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

from kes.identity import Identity, is_ca, of_public_key, public_key_of

MAX_CERTIFICATE: Final = 8 * 1024  # bytes of a client's certificate
MAX_DEPTH: Final = 8  # authorities between a client's certificate and the trusted one
MAX_AUTHORITIES: Final = MAX_DEPTH + 2  # certificates that may come with the client's own
_MIN_RSA, _MAX_RSA = 1024, 8192  # bits
_MAX_EXPONENT: Final = 2**31 - 1  # of an RSA key

# What the checks of one chain's signatures may cost where its errors do not matter, as the client's identity is
# pinned. About microseconds; the keys are priced by measurement. A plain refused handshake costs about 650.
_MAX_COST: Final = 1200.0
_RSA_COST: Final = 4.7 / 1024**2  # a squared bit
_CURVE_COSTS: Final = {"secp256r1": 80.0, "secp384r1": 560.0, "secp521r1": 560.0}
_ED25519_COST: Final = 120.0
_ED448_COST: Final = 230.0
_NAME_COST: Final = 0.005  # of one name compared with one name constraint
_SHORTEST_NAME: Final = 3  # bytes, in a certificate
_SHORTEST_CONSTRAINT: Final = 5
_NAME_CONSTRAINTS: Final = bytes.fromhex("0603551d1e")  # the extension's object identifier, 2.5.29.30

# What has the 112 bits of security that OpenSSL's security level 2 asks for.
_WEAK_RSA: Final = 2048  # bits of the shortest key, RSA or DSA
_WEAK_HASH: Final = 224  # bits of the shortest hash, and of the shortest key on a curve

# X509_V_ERR_… of OpenSSL's x509_vfy.h that a client's certificate runs into.
MALFORMED: Final = 1  # ours where OpenSSL found nothing: X509_V_ERR_UNSPECIFIED
TOO_LONG: Final = 22
NOT_FOR_CLIENTS: Final = 26
WEAK_KEY: Final = 66
WEAK_AUTHORITY_KEY: Final = 67
WEAK_SIGNATURE: Final = 68
# Ours alone. They refuse a certificate in every mode.
UNSUPPORTED_KEY: Final = -1
TOO_LARGE: Final = -2
TOO_COSTLY: Final = -3
TOO_MANY: Final = -4
LONG_HANDSHAKE: Final = -5
_UNTRUSTED: Final = frozenset({2, 18, 19, 20, 21, 27})
_REASONS: Final = {
    1: "it is malformed",
    2: "an issuer in its chain is not known",
    7: "its signature is not its issuer's",
    9: "it is not valid yet",
    10: "it has expired",
    18: "it is self-signed",
    19: "its chain ends in an authority that is not trusted",
    20: "its issuer is not known",
    21: "its issuer is not known",
    22: "its chain is too long",
    24: "an issuer in its chain is no authority",
    26: "it is not for client authentication",
    66: "its key is too weak",
    67: "the key of an issuer in its chain is too weak",
    68: "a signature in its chain uses a hash that is too weak",
    79: "an issuer in its chain is no authority",
    UNSUPPORTED_KEY: "the type or size of its key is not supported",
    TOO_LARGE: f"it is larger than {MAX_CERTIFICATE} bytes",
    TOO_COSTLY: "the authorities sent with it are too costly to verify",
    TOO_MANY: f"more than {MAX_AUTHORITIES} authorities are sent with it",
    LONG_HANDSHAKE: "the client's part of the TLS handshake is too large",
}
_REMEDIES: Final = {
    UNSUPPORTED_KEY: "make a certificate with an Ed25519, ECDSA (P-256, P-384, P-521) or RSA key (2048 to 8192 bits)",
    TOO_LARGE: "make a smaller certificate",
    TOO_COSTLY: "have the client send its own certificate alone",
    TOO_MANY: "have the client send its own certificate alone",
    LONG_HANDSHAKE: "have the client send its own certificate alone",
}

# What the cryptography library and pyOpenSSL raise at a certificate; not all of it is a ValueError.
BAD_CERTIFICATE: Final = (
    ValueError,
    crypto.Error,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(slots=True, eq=False)
class Admission:
    """What the verification of one client's certificate has found so far, and what that means.

    `auth` and `pinned` are those of the settings in force when the connection was made. Whatever happens, nobody is let
    in with a certificate that has not been looked at: `granted` begins as no.
    """

    auth: bool | None
    pinned: frozenset[str]
    error: int = 0  # the first that came up: X509_V_ERR_…, or one of ours; 0: none
    identity: Identity | None = None  # None: no leaf was seen, or none that has an identity

    @property
    def granted(self) -> bool:
        if self.identity is None or self.error < 0:
            return False
        return not self.error or self.auth is False or (self.auth is None and self.identity in self.pinned)

    @property
    def reason(self) -> str:
        """Why it is not granted, for the operator."""
        return _REASONS.get(self.error, f"verification error {self.error}")

    @property
    def remedy(self) -> str:
        """What would let the certificate in, for the operator."""
        if self.error in _REMEDIES:
            return _REMEDIES[self.error]
        if self.identity is None:
            return "make the certificate anew"
        first = "add its authority to tls.ca" if self.error in _UNTRUSTED else "replace the certificate"
        other = "set tls.auth to off" if self.auth else "assign the identity to a policy"
        return f"{first}, or {other}"

    def examine(self, der: bytes) -> bool:
        """Note the identity of the client's own certificate. False if it is refused in every mode."""
        try:
            self.identity, problem = _examine(der)
        except ValueError:
            problem = MALFORMED
        self.error = self.error or problem
        return not problem

    def tolerate(self, error: int, chain: Sequence[bytes]) -> bool:
        """Note an error of a chain of DER certificates, the client's first. False if it is refused for it."""
        if not self.error:
            self.error = error
            # With `auth: off` no chain is verified.
            if self.granted and self.auth is not False:
                self.error = check_cost(chain) or error
        return self.granted


# Clients come again with the certificate that they had. Few are remembered: anybody may send up to MAX_CERTIFICATE.
@lru_cache(maxsize=128)
def _examine(der: bytes) -> tuple[Identity, int]:
    """The identity of a client's certificate, and why it is refused in every mode; 0: it is not. ValueError."""
    key = public_key_of(der)
    identity = of_public_key(key)
    if len(der) > MAX_CERTIFICATE:
        return identity, TOO_LARGE
    return identity, 0 if _cost(key) is not None else UNSUPPORTED_KEY


is_authority = lru_cache(maxsize=128)(is_ca)


def check_cost(chain: Sequence[bytes]) -> int:
    """What forbids to verify the signatures of a chain of DER certificates, the client's first; 0: nothing does."""
    if len(chain) > MAX_AUTHORITIES + 1:
        return TOO_MANY
    cost = 0.0
    below = len(chain[0])  # bytes of certificates
    for der in chain[1:]:
        try:
            key_cost = _cost(public_key_of(der))
        except ValueError:
            return MALFORMED
        if key_cost is None:
            return TOO_COSTLY
        cost += key_cost + _constraints(der) * (below / _SHORTEST_NAME) * _NAME_COST
        below += len(der)
    return TOO_COSTLY if cost > _MAX_COST else 0


def _cost(spki: bytes) -> float | None:
    """What it costs to check a signature by a key, at most, like `_MAX_COST`; None if the key is not supported."""
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm):
        return None
    match key:
        case RSAPublicKey() if _MIN_RSA <= key.key_size <= _MAX_RSA and key.public_numbers().e <= _MAX_EXPONENT:
            return _RSA_COST * key.key_size**2
        case ec.EllipticCurvePublicKey():
            return _CURVE_COSTS.get(key.curve.name)
        case Ed25519PublicKey():
            return _ED25519_COST
        case Ed448PublicKey():
            return _ED448_COST
    return None


def _constraints(der: bytes) -> float:
    """How many name constraints a DER certificate has at most, by their size: to parse them could cost too much."""
    size = 0
    at = der.find(_NAME_CONSTRAINTS)
    while at >= 0:
        at += len(_NAME_CONSTRAINTS)
        # The value's tag and length, after the critical flag if there is one.
        tag, length, *more = (der[at : at + 7].removeprefix(b"\x01\x01\xff") + bytes(4))[:4]
        if tag != 0x04 or length > 0x82:
            size += len(der)
        elif length < 0x80:
            size += length
        else:
            size += int.from_bytes(more[: length & 0x7F], "big")
        at = der.find(_NAME_CONSTRAINTS, at)
    return size / _SHORTEST_CONSTRAINT


# What OpenSSL asks of a client in a handshake (its purpose `sslclient`), but that it takes anyExtendedKeyUsage for no
# purpose at all.


def suits_clients(certificate: x509.Certificate, depth: int) -> bool:
    """Whether the purposes of a certificate, the client's (`depth` 0) or an authority's, let it vouch for a client."""
    return _is_for_clients(certificate) and (depth > 0 or _signs(certificate))


def _signs(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return usage.digital_signature or usage.key_agreement


def _is_for_clients(certificate: x509.Certificate) -> bool:
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return ExtendedKeyUsageOID.CLIENT_AUTH in usages or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usages


# What OpenSSL's security level asks in a handshake; its binding cannot ask it elsewhere.


def check_strength(chain: Sequence[x509.Certificate]) -> int:
    """The error of weak keys or signatures in a chain, from the client's certificate to the trusted one; 0: none."""
    try:
        for depth, certificate in enumerate(chain):
            if _is_weak(certificate.public_key()):
                return WEAK_AUTHORITY_KEY if depth else WEAK_KEY
        # The trusted certificate's signature is of no account.
        for certificate in chain[:-1]:
            algorithm = certificate.signature_hash_algorithm  # None for Ed25519 and Ed448
            if algorithm is not None and algorithm.digest_size * 8 < _WEAK_HASH:
                return WEAK_SIGNATURE
    except UnsupportedAlgorithm:
        return WEAK_SIGNATURE
    return 0


def _is_weak(key: PublicKeyTypes) -> bool:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.key_size < _WEAK_HASH
    return isinstance(key, RSAPublicKey | DSAPublicKey) and key.key_size < _WEAK_RSA
