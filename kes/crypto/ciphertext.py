"""The formats of ciphertexts (contract section 7): the current one, and the two that older servers made.

A current ciphertext is the sealed bytes, the IV and the nonce, one after the other; all of it is as good as random, so
it may begin like an older format by chance. Only what parses in full as an older one is taken as such.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

IV_SIZE: Final = 16  # bytes, as below
NONCE_SIZE: Final = 12
TAG_SIZE: Final = 16

OLDER: Final = (b"{", b"\x95")  # how the older formats begin: a JSON object, a MessagePack array of five

_JSON_ALGORITHMS = {"AES-256-GCM-HMAC-SHA-256": "AES256", "ChaCha20Poly1305": "ChaCha20"}
_MSGPACK_ALGORITHMS = {"AES256-GCM_SHA256": "AES256", "XCHACHA20-POLY1305": "ChaCha20"}


class Older(NamedTuple):
    """An older ciphertext taken apart. `algorithm` is the current name of the one that it says it was made with."""

    algorithm: str
    iv: bytes
    nonce: bytes
    sealed: bytes


class _JSON(msgspec.Struct):
    aead: str
    iv: bytes
    nonce: bytes
    sealed: bytes = msgspec.field(name="bytes")  # the `id` of the key that some have is not looked at


_decode_json = msgspec.json.Decoder(_JSON).decode
_decode_msgpack = msgspec.msgpack.Decoder(tuple[str, str, bytes, bytes, bytes]).decode


def parse_older(ciphertext: bytes) -> Older | None:
    """The parts of a ciphertext in an older format; None if it is none."""
    try:
        if ciphertext[:1] == b"{":
            found = _decode_json(ciphertext)
            algorithm = _JSON_ALGORITHMS.get(found.aead)
            iv, nonce, sealed = found.iv, found.nonce, found.sealed
        else:
            name, _, iv, nonce, sealed = _decode_msgpack(ciphertext)
            algorithm = _MSGPACK_ALGORITHMS.get(name)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if algorithm is None or len(iv) != IV_SIZE or len(nonce) != NONCE_SIZE or len(sealed) < TAG_SIZE:
        return None
    return Older(algorithm, iv, nonce, sealed)
