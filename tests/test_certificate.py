"""Certificates that the program makes, and private keys in all the spellings that it reads."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kes.certificate import (
    PasswordRequiredError,
    PrivateKey,
    PrivateKeyError,
    encode_private_key,
    load_private_key,
    make_client_certificate,
    make_identity_certificate,
    make_server_certificate,
)
from kes.identity import APIKey, is_ca, of_certificate

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PASSWORD = b"correct horse"

KEYS: dict[str, PrivateKey] = {
    "ed25519": Ed25519PrivateKey.generate(),
    "ecdsa": ec.generate_private_key(ec.SECP256R1()),
    "rsa": rsa.generate_private_key(65537, 2048),
}
PLAIN = NoEncryption()
PKCS8, TRADITIONAL = PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL
FORMATS = [  # key, label, format
    ("ed25519", "PRIVATE KEY", PKCS8),
    ("ecdsa", "PRIVATE KEY", PKCS8),
    ("ecdsa", "EC PRIVATE KEY", TRADITIONAL),
    ("rsa", "PRIVATE KEY", PKCS8),
    ("rsa", "RSA PRIVATE KEY", TRADITIONAL),
]
CIPHERS = {"AES-128-CBC": 16, "AES-192-CBC": 24, "AES-256-CBC": 32, "DES-CBC": 8, "DES-EDE3-CBC": 24}


def pem(kind: str, form: PrivateFormat, encryption: KeySerializationEncryption = PLAIN) -> bytes:
    return KEYS[kind].private_bytes(Encoding.PEM, form, encryption)


def numbers(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PKCS8, PLAIN)


def legacy(label: str, der: bytes, cipher: str, *, upper: bool = False, crlf: bool = False) -> bytes:
    """`der` as cli.md 4.4 has it encrypted, by a second way to write the same: the scheme's own words."""
    block = 16 if cipher.startswith("AES") else 8
    iv = bytes.fromhex("a0b1c2d3e4f5061728394a5b6c7d8e9f")[:block]
    d1 = hashlib.md5(PASSWORD + iv[:8]).digest()
    d2 = hashlib.md5(d1 + PASSWORD + iv[:8]).digest()
    key = (d1 + d2)[: CIPHERS[cipher]]
    algorithm = AES(key) if block == 16 else TripleDES(key * 3 if cipher == "DES-CBC" else key)
    padding = block - len(der) % block
    encryptor = Cipher(algorithm, modes.CBC(iv)).encryptor()
    sealed = encryptor.update(der + bytes((padding,)) * padding) + encryptor.finalize()
    text = (
        f"-----BEGIN {label}-----\nProc-Type: 4,ENCRYPTED\n"
        f"DEK-Info: {cipher},{iv.hex().upper() if upper else iv.hex()}\n\n"
        f"{base64.encodebytes(sealed).decode()}-----END {label}-----\n"
    )
    return (text.replace("\n", "\r\n") if crlf else text).encode()


def body(kind: str, form: PrivateFormat) -> bytes:
    return KEYS[kind].private_bytes(Encoding.DER, form, PLAIN)


@pytest.mark.parametrize(("kind", "label", "form"), FORMATS)
def test_plain_keys(kind: str, label: str, form: PrivateFormat) -> None:
    """PKCS#8, PKCS#1 and SEC1 keys are read; a password that is not needed is passed over."""
    text = pem(kind, form)
    assert text.startswith(f"-----BEGIN {label}-----".encode())
    for password in (None, b"", PASSWORD):
        assert numbers(load_private_key(text, password)) == numbers(KEYS[kind])


@pytest.mark.parametrize("crlf", [False, True], ids=["lf", "crlf"])
@pytest.mark.parametrize("upper", [False, True], ids=["lower", "upper"])
@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize(("kind", "label", "form"), FORMATS)
def test_legacy_encryption(kind: str, label: str, form: PrivateFormat, cipher: str, upper: bool, crlf: bool) -> None:
    """Every RFC 1423 cipher opens, the label `PRIVATE KEY` with a PKCS#8 body too, the IV in either case of hex."""
    text = legacy(label, body(kind, form), cipher, upper=upper, crlf=crlf)
    assert numbers(load_private_key(text, PASSWORD)) == numbers(KEYS[kind])


@pytest.mark.parametrize("kind", KEYS)
def test_pkcs8_encryption(kind: str) -> None:
    """`ENCRYPTED PRIVATE KEY` opens with its password."""
    text = pem(kind, PKCS8, BestAvailableEncryption(PASSWORD))
    assert text.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert numbers(load_private_key(text, PASSWORD)) == numbers(KEYS[kind])


ENCRYPTED = {cipher: legacy("PRIVATE KEY", body("ed25519", PKCS8), cipher) for cipher in CIPHERS}
ENCRYPTED["PKCS#8"] = pem("ed25519", PKCS8, BestAvailableEncryption(PASSWORD))


@pytest.mark.parametrize("scheme", ENCRYPTED)
def test_no_password(scheme: str) -> None:
    """An encrypted key without a password, an empty one included, says that it needs one."""
    for password in (None, b""):
        with pytest.raises(PasswordRequiredError, match=r"^the private key is encrypted, and no password is given$"):
            load_private_key(ENCRYPTED[scheme], password)


@pytest.mark.parametrize("scheme", ENCRYPTED)
def test_wrong_password(scheme: str) -> None:
    """A wrong password is one error in every scheme, whether the padding or the key shows it; it is not repeated."""
    # Many, for a wrong password passes the padding of CBC about once in 256.
    for n in range(1 if scheme == "PKCS#8" else 600):
        with pytest.raises(PrivateKeyError, match=r"^incorrect password, or not a valid private key$"):
            load_private_key(ENCRYPTED[scheme], b"wrong %d" % n)


@pytest.mark.parametrize(
    "text",
    [b"", b"no PEM here", make_server_certificate([], NOW)[0], pem("ecdsa", PKCS8).replace(b"PRIVATE", b"PUBLIC")],
    ids=["empty", "text", "certificate", "public key"],
)
def test_no_private_key(text: bytes) -> None:
    """A text without a private key says so."""
    with pytest.raises(PrivateKeyError, match=r"^holds no PEM private key$"):
        load_private_key(text)


@pytest.mark.parametrize(
    "text",
    [
        b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"-----BEGIN RSA PRIVATE KEY-----\n!!!!\n-----END RSA PRIVATE KEY-----\n",
    ],
    ids=["empty", "not a key", "not base64"],
)
def test_broken_private_key(text: bytes) -> None:
    """A private key that cannot be read is one error, which quotes none of it."""
    with pytest.raises(PrivateKeyError, match=r"^holds no valid private key$"):
        load_private_key(text, PASSWORD)


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("iv", ["", "00", "00" * 15, "00" * 17])
def test_iv_of_a_wrong_size(cipher: str, iv: str) -> None:
    """An IV that is not the cipher's size is refused like a wrong password, where the library panics at one."""
    right = "a0b1c2d3e4f5061728394a5b6c7d8e9f"[: 32 if cipher.startswith("AES") else 16]
    with pytest.raises(PrivateKeyError, match=r"^incorrect password, or not a valid private key$"):
        load_private_key(ENCRYPTED[cipher].replace(right.encode(), iv.encode()), PASSWORD)


@pytest.mark.parametrize("cipher", [b"RC2-CBC", b"AES-256-GCM", b"aes-256-cbc", b""])
def test_unknown_cipher(cipher: bytes) -> None:
    """A cipher that RFC 1423 and its users do not know is refused."""
    with pytest.raises(PrivateKeyError, match=r"^incorrect password, or not a valid private key$"):
        load_private_key(ENCRYPTED["AES-256-CBC"].replace(b"AES-256-CBC", cipher), PASSWORD)


def test_other_kinds_of_key() -> None:
    """A DSA key is a private key, but none that a certificate here may have."""
    key = dsa.generate_private_key(1024)
    with pytest.raises(PrivateKeyError, match=r"^is not an RSA, ECDSA or Ed25519 key$"):
        load_private_key(key.private_bytes(Encoding.PEM, PKCS8, PLAIN))


def test_first_private_key_counts() -> None:
    """Other blocks and text around a key are passed over, and of two private keys the first is taken (cli.md 2.3)."""
    certificate = make_server_certificate([], NOW)[0]
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    text = b"words\n" + certificate + parameters + pem("ecdsa", TRADITIONAL) + pem("rsa", PKCS8)
    assert numbers(load_private_key(text)) == numbers(KEYS["ecdsa"])


def extension(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> x509.Extension[x509.ExtensionType]:
    return certificate.extensions.get_extension_for_class(kind)


def test_client_certificate() -> None:
    """An API key's certificate is as cli.md 4.3 says, field by field, and holds the API key's own key."""
    api_key = APIKey.generate()
    cert, key = make_client_certificate(api_key, NOW)
    certificate = x509.load_pem_x509_certificate(cert)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, api_key.identity)])
    assert certificate.version is x509.Version.v3
    assert certificate.subject == certificate.issuer == name
    assert NOW - timedelta(minutes=10) <= certificate.not_valid_before_utc < NOW
    assert certificate.not_valid_after_utc == NOW + timedelta(days=90)
    usage = extension(certificate, x509.KeyUsage)
    assert usage.critical
    assert usage.value == x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    assert extension(certificate, x509.ExtendedKeyUsage).value == x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.CLIENT_AUTH]
    )
    constraints = extension(certificate, x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=False, path_length=None)
    assert len(certificate.extensions) == 3
    certificate.verify_directly_issued_by(certificate)
    assert key.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert load_private_key(key).private_bytes_raw() == api_key.seed  # type: ignore[union-attr]
    assert of_certificate(certificate.public_bytes(Encoding.DER)) == api_key.identity
    assert not is_ca(certificate.public_bytes(Encoding.DER))


def test_serial_numbers() -> None:
    """Serial numbers are new for each certificate, above 0 and below 2^128 (cli.md 4.3)."""
    api_key = APIKey(bytes(32))
    made = [make_client_certificate(api_key, NOW)[0] for _ in range(20)]
    serials = {x509.load_pem_x509_certificate(cert).serial_number for cert in made}
    assert len(serials) == 20
    assert all(0 < serial < 1 << 128 for serial in serials)


def test_server_certificate() -> None:
    """The certificate of development mode covers its addresses and this machine, each once (cli.md 5.2)."""
    cert, key = make_server_certificate(["192.0.2.1", "2001:db8::1", "127.0.0.1"], NOW)
    certificate = x509.load_pem_x509_certificate(cert)
    assert certificate.subject == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    assert certificate.not_valid_before_utc < NOW
    assert certificate.not_valid_after_utc == NOW + timedelta(days=90)
    usages = extension(certificate, x509.ExtendedKeyUsage).value
    assert usages == x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    names = extension(certificate, x509.SubjectAlternativeName).value
    assert isinstance(names, x509.SubjectAlternativeName)
    addresses = ["192.0.2.1", "2001:db8::1", "127.0.0.1", "::1"]
    assert names.get_values_for_type(x509.IPAddress) == [ip_address(address) for address in addresses]
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    public_key = certificate.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    assert isinstance(public_key.curve, ec.SECP256R1)
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
    certificate.verify_directly_issued_by(certificate)
    assert load_private_key(key).public_key() == public_key


def test_certificate_key_is_new() -> None:
    """Each start of development mode has a key of its own."""
    assert make_server_certificate([], NOW)[1] != make_server_certificate([], NOW)[1]


@pytest.mark.parametrize("pbes2", [False, True])
@pytest.mark.parametrize("kind", KEYS)
def test_what_is_encrypted_is_read_back_with_its_password_only(kind: str, pbes2: bool) -> None:
    """cli.md 4.4: RFC 1423 with AES-256-CBC, or PBES2; without the password there is nothing of the key."""
    encoded = encode_private_key(KEYS[kind], PASSWORD, pbes2=pbes2)
    assert encoded.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n" if pbes2 else b"-----BEGIN PRIVATE KEY-----\n")
    assert (b"\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC," in encoded) is not pbes2
    plain = encode_private_key(KEYS[kind])
    assert encode_private_key(load_private_key(encoded, PASSWORD)) == plain
    assert plain == encode_private_key(load_private_key(plain))
    assert encode_private_key(KEYS[kind], PASSWORD, pbes2=pbes2) != encoded
    with pytest.raises(PasswordRequiredError):
        load_private_key(encoded)


def test_an_identity_certificate_has_what_it_was_asked_for() -> None:
    """cli.md 4.4: subject, names, addresses and lifetime are the caller's; it serves clients and servers."""
    key = APIKey.generate()
    certificate = x509.load_pem_x509_certificate(
        make_identity_certificate(
            key,
            NOW,
            subject="localhost",
            lifetime=timedelta(hours=1),
            dns=("localhost", "a.example", "localhost"),
            addresses=("127.0.0.1", "::1"),
        )
    )
    (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == "localhost"
    assert certificate.not_valid_after_utc == NOW + timedelta(hours=1)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [
        x509.DNSName("localhost"),
        x509.DNSName("a.example"),
        x509.IPAddress(ip_address("127.0.0.1")),
        x509.IPAddress(ip_address("::1")),
    ]
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    assert of_certificate(certificate.public_bytes(Encoding.DER)) == key.identity


def test_an_identity_certificate_without_names_has_no_san() -> None:
    """An empty subject alternative name would be malformed (RFC 5280, section 4.2.1.6)."""
    pem = make_identity_certificate(
        APIKey.generate(), NOW, subject="app", lifetime=timedelta(hours=1), dns=(), addresses=()
    )
    with pytest.raises(x509.ExtensionNotFound):
        x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName)
