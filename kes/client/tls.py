"""TLS for the client: a context made of its settings, and what a failed handshake means (cli.md 2.3 and 2.4).

TLS 1.2 or newer; a server's certificate must name the host in a SAN. Private keys are handed to OpenSSL in memory
where the system can, else in a file that only this user can read and that is gone when it is loaded.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from kes.client.errors import ConfigurationError, PasswordRequired, TLSError, TLSProblem
from kes.client.settings import Settings

MAX_FILE: Final = 4 * 1024 * 1024  # bytes of a certificate or key file
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")
_KEY = re.compile(rb"-----BEGIN ((?:[A-Z0-9]+ )*PRIVATE KEY)-----\r?\n(.*?)-----END \1-----", re.DOTALL)

# X509_V_ERR_… of OpenSSL's x509_vfy.h.
_VERIFICATION: Final = {
    2: TLSProblem.UNKNOWN_ISSUER,
    9: TLSProblem.NOT_YET_VALID,
    10: TLSProblem.EXPIRED,
    18: TLSProblem.UNKNOWN_ISSUER,
    19: TLSProblem.UNKNOWN_ISSUER,
    20: TLSProblem.UNKNOWN_ISSUER,
    21: TLSProblem.UNKNOWN_ISSUER,
    62: TLSProblem.NAME_MISMATCH,
    64: TLSProblem.NAME_MISMATCH,
}
# The alerts of RFC 8446, section 6.2, that a server sends when it does not like a client's certificate.
_REJECTIONS: Final = (
    "handshake failure",
    "bad certificate",
    "unsupported certificate",
    "certificate revoked",
    "certificate expired",
    "certificate unknown",
    "unknown ca",
    "access denied",
    "certificate required",
)


class Identification:
    """The client's certificate chain and private key, PEM. Neither is ever in a repr."""

    def __init__(self, chain: bytes, key: bytes) -> None:
        self._chain = chain
        self._key = key

    @property
    def identity(self) -> str:
        """The client's identity: 64 lower-case hex digits."""
        from kes.identity import of_certificate

        leaf = _CERTIFICATE.search(self._chain)
        assert leaf is not None
        return of_certificate(ssl.PEM_cert_to_DER_cert(leaf[0].decode("ascii")))

    def load_into(self, context: ssl.SSLContext) -> None:
        """Raises ConfigurationError if the key is none, or not the certificate's."""
        with _as_file(self._chain + b"\n" + self._key + b"\n") as path:
            try:
                # With a password, even a wrong one, OpenSSL does not ask for one on the terminal.
                context.load_cert_chain(path, password="")
            except ssl.SSLError as error:
                if error.reason and "MISMATCH" in error.reason:
                    raise ConfigurationError("the private key is not the certificate's") from None
                raise ConfigurationError("the certificate or its private key is invalid") from None


def identification(settings: Settings, now: float) -> Identification:
    """Who the client is, at `now`, seconds since the epoch. Raises ConfigurationError or PasswordRequired."""
    if settings.api_key:
        return _of_api_key(settings.api_key, now)
    assert settings.cert_file
    assert settings.key_file
    chain = _read(settings.cert_file)
    if not _CERTIFICATE.search(chain) or _CERTIFICATE.sub(b"", chain).strip():
        raise ConfigurationError(f"{settings.cert_file}: expected PEM certificates and nothing else")
    block = _KEY.search(_read(settings.key_file))
    if block is None:
        raise ConfigurationError(f"{settings.key_file}: holds no PEM private key")
    if block[1] != b"ENCRYPTED PRIVATE KEY" and b"ENCRYPTED" not in block[2].partition(b"\n")[0]:
        return Identification(chain, block[0])
    if not settings.password:
        raise PasswordRequired(f"{settings.key_file}: the private key is encrypted, and no password is given")
    return Identification(chain, _decrypted(block[0], settings.password, settings.key_file))


def _of_api_key(text: str, now: float) -> Identification:
    # Only here is cryptography needed, which takes longer to import than all else together.
    from datetime import UTC, datetime

    from kes.certificate import make_client_certificate
    from kes.identity import APIKey

    try:
        key = APIKey.parse(text)
    except ValueError as error:
        raise ConfigurationError(f"parsing API key: {error}") from None
    return Identification(*make_client_certificate(key, datetime.fromtimestamp(now, UTC)))


def _decrypted(pem: bytes, password: str, path: str) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from kes.certificate import PrivateKeyError, load_private_key

    try:
        key = load_private_key(pem, password.encode())
    except PrivateKeyError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror or error}") from None
    if len(data) > MAX_FILE:
        raise ConfigurationError(f"{path}: is larger than {MAX_FILE} bytes")
    return data


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """The path of a file with `data`, for as long as the block lasts. It is in memory where there is /proc."""
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        file = os.memfd_create("kes-client")
        try:
            os.write(file, data)
            yield f"/proc/self/fd/{file}"
        finally:
            os.close(file)
        return
    from tempfile import mkstemp  # slow to import

    file, path = mkstemp(prefix="kes-")  # mode 0600
    try:
        with os.fdopen(file, "wb") as stream:
            stream.write(data)
        yield path
    finally:
        Path(path).unlink()


def make_context(settings: Settings, me: Identification) -> ssl.SSLContext:
    """The context of the client's connections. Raises ConfigurationError."""
    context = _bare_context()
    if not settings.insecure:
        context.check_hostname = True
        context.hostname_checks_common_name = False
        context.verify_mode = ssl.CERT_REQUIRED
        if settings.ca_file:
            _trust(context, settings.ca_file)
        else:
            _trust_system(context, settings.environ)
    me.load_into(context)
    return context


def _trust_system(context: ssl.SSLContext, environ: Mapping[str, str]) -> None:
    """Trust the system's authorities. SSL_CERT_FILE and SSL_CERT_DIR (folders, with colons between) replace them.

    OpenSSL reads both variables by itself, but says nothing of a file that it cannot read, and of a folder it takes
    only files whose names are hashes.
    """
    context.load_default_certs()
    if file := environ.get("SSL_CERT_FILE"):
        _trust(context, file, "SSL_CERT_FILE ")
    if folders := environ.get("SSL_CERT_DIR"):
        _trust_folders(context, folders.split(":"))


def _trust_folders(context: ssl.SSLContext, folders: Sequence[str]) -> None:
    """Trust the certificates in every file of these folders. Raises ConfigurationError if none can be listed.

    Files without a certificate are passed over: such folders hold revocation lists and keys, too.
    """
    files: set[Path] = set()
    failures = []
    for folder in folders:
        try:
            files.update(path.resolve() for path in Path(folder).iterdir() if path.is_file())
        except OSError as error:
            failures.append(f"SSL_CERT_DIR {folder}: {error.strerror or error}")
    if len(failures) == len(folders):
        raise ConfigurationError(failures[0])
    for file in files:
        with suppress(ConfigurationError):
            _trust(context, str(file))


def _trust(context: ssl.SSLContext, path: str, variable: str = "") -> None:
    """Trust the certificates of a PEM file; `variable` is what names it, for errors. Raises ConfigurationError."""
    try:
        blocks = _CERTIFICATE.findall(_read(path))  # alone: what stands between them need not be ASCII
        context.load_verify_locations(cadata=b"\n".join(blocks).decode("ascii"))
    except ConfigurationError as error:
        raise ConfigurationError(f"{variable}{error}") from None
    except (ssl.SSLError, ValueError):
        raise ConfigurationError(f"{variable}{path}: holds no valid PEM certificate") from None


def probing_context() -> ssl.SSLContext:
    """A context that accepts any certificate and shows none: to look at one that was refused."""
    return _bare_context()


def _bare_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def tls_error(error: ssl.SSLError, endpoint: str, me: Identification, received: bytes) -> TLSError:
    """What a TLS failure means; `received` is how what the server sent begins."""
    if received.startswith(b"HTTP/"):
        message = f"tls: {endpoint} answers in plain HTTP, without TLS"
        return TLSError(message, endpoint, TLSProblem.PLAIN_HTTP)
    if isinstance(error, ssl.SSLCertVerificationError):
        kind = _VERIFICATION.get(error.verify_code, TLSProblem.CERTIFICATE)
        message = f"tls: failed to verify the certificate of {endpoint}: {error.verify_message.rstrip('.')}"
        return TLSError(message, endpoint, kind)
    _, alert, reason = (error.reason or "").partition("ALERT_")
    if not alert:
        reason = error.reason or error.strerror or str(error)
    reason = reason.replace("_", " ").lower()
    if alert and reason in _REJECTIONS:
        message = f"tls: {endpoint} rejected the client's certificate: {reason}"
        return TLSError(message, endpoint, TLSProblem.CLIENT_REJECTED, identity=me.identity)
    return TLSError(f"tls: handshake with {endpoint} failed: {reason}", endpoint, TLSProblem.PROTOCOL)
