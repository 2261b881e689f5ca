"""Certificates that the program makes itself, and private keys that it reads (cli.md 4.3, 4.4 and 5.2).

What an error says never repeats any of a key or a password.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kes.identity import APIKey

PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey

LIFETIME: Final = timedelta(days=90)
CLOCK_SKEW: Final = timedelta(minutes=5)  # how slow a peer's clock may be

_KEY_BLOCK = re.compile(rb"-----BEGIN ((?:[A-Z0-9]+ )*PRIVATE KEY)-----\r?\n(.*?)-----END \1-----", re.DOTALL)
_DEK_INFO = re.compile(rb"DEK-Info:[ \t]*([A-Z0-9-]+),([0-9A-Fa-f]+)[ \t]*\r?\n\r?\n")
_CIPHERS: Final = {  # the size of the key and of a block, bytes
    b"AES-128-CBC": (16, 16),
    b"AES-192-CBC": (24, 16),
    b"AES-256-CBC": (32, 16),
    b"DES-CBC": (8, 8),
    b"DES-EDE3-CBC": (24, 8),
}


class PrivateKeyError(Exception):
    """A private key cannot be used: not there, of an unknown kind, or its password is missing or wrong."""


class PasswordRequiredError(PrivateKeyError):
    """The private key is encrypted, and no password was given."""


def load_private_key(pem: bytes, password: bytes | None = None) -> PrivateKey:
    """The first private key of a PEM text: PKCS#8, PKCS#1 or SEC1 with RSA, ECDSA or Ed25519.

    It may be encrypted, as `ENCRYPTED PRIVATE KEY` (PKCS#8) or with `DEK-Info` (RFC 1423); a password that is not
    needed is ignored. Raises PrivateKeyError.
    """
    match = _KEY_BLOCK.search(pem)
    if match is None:
        raise PrivateKeyError("holds no PEM private key")
    block = match[0]
    encrypted = match[1] == b"ENCRYPTED PRIVATE KEY" or b"ENCRYPTED" in match[2].partition(b"\n")[0]
    if encrypted and not password:
        raise PasswordRequiredError("the private key is encrypted, and no password is given")
    try:
        if encrypted and password and match[1] != b"ENCRYPTED PRIVATE KEY":
            info = _DEK_INFO.search(match[2])
            if info is None:
                raise ValueError("no DEK-Info")
            key = load_der_private_key(_decrypt(match[2], info, password), None)
        else:
            key = load_pem_private_key(block, password if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The library's own words differ by format, and for a wrong password depend on chance.
        if encrypted:
            raise PrivateKeyError("incorrect password, or not a valid private key") from None
        raise PrivateKeyError("holds no valid private key") from None
    if not isinstance(key, RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey):
        raise PrivateKeyError("is not an RSA, ECDSA or Ed25519 key")
    return key


def _decrypt(body: bytes, info: re.Match[bytes], password: bytes) -> bytes:
    """The DER in the body of a PEM block encrypted with one of the RFC 1423 ciphers.

    The library reads some of them itself, but not AES-192-CBC and DES-CBC, and an IV of a wrong size makes its PEM
    reader panic with what is no Exception. ValueError if the password is wrong; the padding tells, so not always.
    """
    if info[1] not in _CIPHERS:
        raise ValueError("unknown cipher")
    size, block = _CIPHERS[info[1]]
    iv = bytes.fromhex(info[2].decode())
    key = _derive(password, iv, size)
    # One DES is three DES under one key.
    algorithm = AES(key) if block == 16 else TripleDES(key if size == 24 else key * 3)
    try:
        sealed = base64.b64decode(b"".join(body[info.end() :].split()), validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    decryptor = Cipher(algorithm, modes.CBC(iv)).decryptor()
    unpadder = PKCS7(block * 8).unpadder()
    return unpadder.update(decryptor.update(sealed) + decryptor.finalize()) + unpadder.finalize()


def _derive(password: bytes, iv: bytes, size: int) -> bytes:
    """The key of an RFC 1423 cipher, as OpenSSL's EVP_BytesToKey makes it with MD5 and one round."""
    key = digest = b""
    while len(key) < size:
        digest = hashlib.md5(digest + password + iv[:8], usedforsecurity=False).digest()
        key += digest
    return key[:size]


def encode_private_key(key: PrivateKey, password: bytes | None = None, *, pbes2: bool = False) -> bytes:
    """A private key as PKCS#8 in PEM, encrypted if there is a password.

    As the reference does it (cli.md 4.4): RFC 1423 with AES-256-CBC, which is neither authenticated nor hard to try
    passwords on; with `pbes2` as PKCS#8 itself does, which is.
    """
    if password is None:
        return _pem(key)
    if pbes2:
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password))
    plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    iv = secrets.token_bytes(16)
    padder = PKCS7(128).padder()
    encryptor = Cipher(AES(_derive(password, iv, 32)), modes.CBC(iv)).encryptor()
    sealed = encryptor.update(padder.update(plain) + padder.finalize()) + encryptor.finalize()
    text = base64.b64encode(sealed).decode()
    lines = (text[at : at + 64] for at in range(0, len(text), 64))
    head = ("-----BEGIN PRIVATE KEY-----", "Proc-Type: 4,ENCRYPTED", f"DEK-Info: AES-256-CBC,{iv.hex()}", "")
    return "\n".join((*head, *lines, "-----END PRIVATE KEY-----", "")).encode()


def make_client_certificate(api_key: APIKey, now: datetime) -> tuple[bytes, bytes]:
    """A self-signed certificate for an API key (cli.md 4.3) and its private key, both PEM."""
    key = api_key.private_key
    name = _common_name(api_key.identity)
    builder = _builder(name, now, [ExtendedKeyUsageOID.CLIENT_AUTH]).public_key(key.public_key())
    return builder.sign(key, None).public_bytes(Encoding.PEM), _pem(key)


def make_identity_certificate(
    api_key: APIKey, now: datetime, *, subject: str, lifetime: timedelta, dns: Iterable[str], addresses: Iterable[str]
) -> bytes:
    """A self-signed certificate for an API key, for clients and servers (cli.md 4.4), in PEM.

    `subject` is 1 to 64 characters; `dns` are ASCII host names, `addresses` IP addresses.
    """
    key = api_key.private_key
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    builder = _builder(_common_name(subject), now, usages, lifetime).public_key(key.public_key())
    hosts = dict.fromkeys(ip_address(address) for address in addresses)
    names = [*map(x509.DNSName, dict.fromkeys(dns)), *map(x509.IPAddress, hosts)]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, None).public_bytes(Encoding.PEM)


def make_server_certificate(addresses: Iterable[str], now: datetime) -> tuple[bytes, bytes]:
    """A self-signed certificate of development mode for a server at `addresses` and on this machine, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    hosts: dict[IPv4Address | IPv6Address, None] = dict.fromkeys(
        ip_address(a) for a in (*addresses, "127.0.0.1", "::1")
    )
    names: list[x509.GeneralName] = [x509.IPAddress(host) for host in hosts]
    builder = (
        _builder(_common_name("localhost"), now, [ExtendedKeyUsageOID.SERVER_AUTH])
        .public_key(key.public_key())
        .add_extension(x509.SubjectAlternativeName([*names, x509.DNSName("localhost")]), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM), _pem(key)


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    name: x509.Name, now: datetime, usages: list[x509.ObjectIdentifier], lifetime: timedelta = LIFETIME
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(secrets.randbelow((1 << 128) - 1) + 1)
        .not_valid_before(now.astimezone(UTC) - CLOCK_SKEW)
        .not_valid_after(now.astimezone(UTC) + lifetime)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=False,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )


def _pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
