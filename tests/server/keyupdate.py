"""A client that has TLS 1.3 change keys, again and again: no library here can be made to send that."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from OpenSSL import SSL

_UPDATE_REQUESTED = bytes.fromhex("1800000101")  # RFC 8446, section 4.6.3
_HANDSHAKE = b"\x16"


class KeyUpdates:
    """The KeyUpdate messages that a client of `context` could send as the first it says after the handshake."""

    def __init__(self, context: SSL.Context) -> None:
        self._secret = b""
        context.set_keylog_callback(self._learn)

    def _learn(self, _connection: SSL.Connection, line: bytes) -> None:
        label, _, secret = line.split()
        if label == b"CLIENT_TRAFFIC_SECRET_0":
            self._secret = bytes.fromhex(secret.decode())

    def record(self) -> bytes:
        """The next record: a KeyUpdate that asks for another in return."""
        # TLS_AES_256_GCM_SHA384 is what both sides of the tests prefer.
        key, nonce = self._expand(b"key", 32), self._expand(b"iv", 12)  # the first of its key: sequence number 0
        content = _UPDATE_REQUESTED + _HANDSHAKE
        head = b"\x17\x03\x03" + (len(content) + 16).to_bytes(2, "big")
        self._secret = self._expand(b"traffic upd", 48)
        return head + AESGCM(key).encrypt(nonce, content, head)

    def _expand(self, label: bytes, length: int) -> bytes:
        """HKDF-Expand-Label without a context (RFC 8446, section 7.1)."""
        label = b"tls13 " + label
        info = length.to_bytes(2, "big") + bytes((len(label),)) + label + b"\0"
        return HKDFExpand(hashes.SHA384(), length, info).derive(self._secret)
