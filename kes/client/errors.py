"""What a call of the client raises: one class for each decision that a caller may have to take.

No text here holds a key, a plaintext or a password. Texts that a server sent are repeated without what ends a line.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar

from kes import errors as wire


class KESError(Exception):
    """Every error of the client; `str()` is one line for a person."""


class ConfigurationError(KESError):
    """The client's settings cannot be used."""


class PasswordRequired(ConfigurationError):
    """The private key file is encrypted, and no password was given."""


class InvalidName(KESError, ValueError):
    """A name or list pattern that no server accepts; nothing was sent."""


class InvalidResponse(KESError):
    """A server's answer is too large or no answer of such a server."""


class LogClosed(KESError):
    """The server has ended a log stream; the text is its reason."""


class ConnectionFailed(KESError):
    """No answer was to be had from an endpoint: `kes: connection error: <cause>`.

    `sent` says whether bytes of the request may have reached the server.
    """

    def __init__(self, cause: str, endpoint: str, *, sent: bool) -> None:
        super().__init__(f"kes: connection error: {cause}")
        self.cause = cause
        self.endpoint = endpoint
        self.sent = sent


class OutcomeUnknown(KESError):
    """A key may or may not have been created, imported or deleted: an answer was lost."""


class TLSProblem(Enum):
    """Why no TLS connection came about."""

    UNKNOWN_ISSUER = "unknown issuer"
    NAME_MISMATCH = "name mismatch"
    EXPIRED = "expired"
    NOT_YET_VALID = "not yet valid"
    CERTIFICATE = "certificate"  # another fault of the server's certificate
    CLIENT_REJECTED = "client rejected"
    PLAIN_HTTP = "plain HTTP"
    PROTOCOL = "protocol"


class TLSError(KESError):
    """TLS with an endpoint failed for a reason that repeating does not mend.

    `certificate` is the server's, DER, for the kinds that are about it, if a second connection could fetch it; what
    it says is not verified. `identity` is the client's own, for CLIENT_REJECTED.
    """

    def __init__(
        self,
        message: str,
        endpoint: str,
        kind: TLSProblem,
        *,
        certificate: bytes | None = None,
        identity: str | None = None,
    ) -> None:
        super().__init__(message)
        self.endpoint = endpoint
        self.kind = kind
        self.certificate = certificate
        self.identity = identity

    @property
    def names(self) -> tuple[str, ...]:
        """The DNS names and addresses that the server's certificate is for; empty if it is not known."""
        if self.certificate is None:
            return ()
        from cryptography import x509

        try:
            certificate = x509.load_der_x509_certificate(self.certificate)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
            return ()
        addresses = (str(address) for address in names.get_values_for_type(x509.IPAddress))
        return (*names.get_values_for_type(x509.DNSName), *addresses)

    @property
    def validity(self) -> tuple[int, int] | None:
        """From when until when the server's certificate is valid, seconds since the epoch; None if not known."""
        if self.certificate is None:
            return None
        from cryptography import x509

        try:
            certificate = x509.load_der_x509_certificate(self.certificate)
        except ValueError:
            return None
        return int(certificate.not_valid_before_utc.timestamp()), int(certificate.not_valid_after_utc.timestamp())


class ServerError(KESError):
    """A server's answer other than 200: its HTTP `status`, its `message`, and the `endpoint` that gave it."""

    answer: ClassVar[type[wire.APIError] | None] = None

    def __init__(self, status: int, message: str, endpoint: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.endpoint = endpoint


class KeyExists(ServerError):
    answer = wire.KeyExists


class KeyNotFound(ServerError):
    answer = wire.KeyNotFound


class PolicyNotFound(ServerError):
    answer = wire.PolicyNotFound


class IdentityNotFound(ServerError):
    answer = wire.IdentityNotFound


class NotAllowed(ServerError):
    answer = wire.NotAllowed


class CertificateRequired(ServerError):
    answer = wire.CertificateRequired


class NotAuthentic(ServerError):
    """Decryption failed: another key, another context, or no ciphertext. The server tells no reason apart."""

    answer = wire.NotAuthentic


class NoHMAC(ServerError):
    """The key is too old to have an HMAC key."""

    answer = wire.NoHMAC


class InvalidKey(ServerError):
    """An imported key has the wrong size, or its algorithm is not supported."""


class KeyStoreFailed(ServerError):
    """The key store behind the server answered, but uselessly."""


class KeyStoreUnreachable(ServerError):
    """The key store behind the server could not be reached."""


class TimedOut(ServerError):
    """The server gave the request up when its time was over."""

    answer = wire.TimedOut


_BY_ANSWER = {
    (error.answer.status, error.answer.message): error
    for error in ServerError.__subclasses__()
    if error.answer is not None
}
_BY_STATUS: dict[int, type[ServerError]] = {
    406: InvalidKey,
    wire.StoreFailed.status: KeyStoreFailed,
    wire.StoreUnreachable.status: KeyStoreUnreachable,
}
_OLD = {  # what older servers say
    (400, "key does already exist"): wire.KeyExists,
    (403, "prohibited by policy"): wire.NotAllowed,
}


def server_error(status: int, message: str, endpoint: str) -> ServerError:
    """The error for an answer."""
    message = " ".join(message.split("\n")).strip() or f"the server answered with status {status}"
    old = _OLD.get((status, message))
    if old is not None:
        message = old.message
    kind = _BY_ANSWER.get((status, message)) or _BY_STATUS.get(status, ServerError)
    return kind(status, message, endpoint)
