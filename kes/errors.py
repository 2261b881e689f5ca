"""The errors that a client can get: each status and message is named once, here.

The messages are the contract's (README section 4, transcript); the SDK maps some of them to its own error values by
their exact text, so they are not to be reworded. Nothing here ever carries key material.
"""

from __future__ import annotations

import msgspec

_MAX_QUOTED = 128  # characters of a client's own text that an answer repeats


class APIError(Exception):
    """An answer other than 200: an HTTP status and the text of its `message`."""

    status: int = 500
    message: str = "internal server error"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.message)
        if message is not None:
            self.message = message

    def body(self) -> bytes:
        """The answer's body: `{"message":"…"}` and a newline."""
        return msgspec.json.encode({"message": self.message}) + b"\n"


class BadRequest(APIError):
    """The request is no well-formed HTTP; `message` says how."""

    status = 400


class NotFound(APIError):
    status, message = 404, "not found"


class MethodNotAllowed(APIError):
    """405; `allow` is the value of the answer's Allow header."""

    status = 405

    def __init__(self, method: bytes, expected: str, allow: bytes) -> None:
        received = method[:_MAX_QUOTED].decode("ascii", "replace")
        super().__init__(f"received method '{received}' expected '{expected}'")
        self.allow = allow


class BodyTooLarge(APIError):
    status, message = 413, "request body is too large"


class CertificateRequired(APIError):
    status, message = 400, "tls: client certificate is required"


class TooManyCertificates(APIError):
    status, message = 400, "tls: received more than one client certificate"


class InvalidProxyRequest(APIError):
    """What a TLS proxy forwarded does not name exactly one valid client (contract section 5)."""

    status, message = 400, "tls: the proxy has not forwarded exactly one valid client certificate"


class NotAllowed(APIError):
    status, message = 403, "not authorized: insufficient permissions"


class InvalidName(APIError):
    status = 400

    def __init__(self, kind: str, name: str) -> None:
        what = kind if kind == "identity" else f"{kind} name"
        super().__init__(f"{what} '{name[:_MAX_QUOTED]}' is empty, too long or contains invalid characters")


class InvalidPattern(APIError):
    status = 400

    def __init__(self, pattern: str) -> None:
        super().__init__(f"listing pattern '{pattern[:_MAX_QUOTED]}' is empty, too long or is invalid")


class InvalidBody(APIError):
    status, message = 400, "invalid request body"


class InvalidImportBody(APIError):
    status, message = 400, "invalid import key request body"


class UnsupportedAlgorithm(APIError):
    status = 406

    def __init__(self, name: str) -> None:
        super().__init__(f"algorithm '{name[:_MAX_QUOTED]}' is not supported")


class InvalidKeySize(APIError):
    status = 406

    def __init__(self, algorithm: str) -> None:
        super().__init__(f"invalid key size for '{algorithm}'")


class KeyExists(APIError):
    status, message = 400, "key already exists"


class KeyNotFound(APIError):
    status, message = 404, "key does not exist"


class PolicyNotFound(APIError):
    status, message = 404, "policy does not exist"


class IdentityNotFound(APIError):
    status, message = 404, "identity does not exist"


class NotAuthentic(APIError):
    """Decryption failed; there is one message for every reason."""

    status, message = 400, "decryption failed: ciphertext is not authentic"


class NoHMAC(APIError):
    status, message = 409, "key does not support HMAC"


class StoreFailed(APIError):
    """The key store answered, but uselessly; `message` names the operation."""

    status = 502


class StoreUnreachable(APIError):
    """No answer was to be had from the key store; `message` names the operation."""

    status = 504


class TimedOut(APIError):
    status, message = 504, "request timed out"
