"""Secret keys and what is done with them: authenticated encryption under a key derived anew for every message.

A message's key comes from 16 random bytes, so no number of messages under one secret key wears out a nonce: two would
have to share both those 16 bytes and the 12-byte nonce. A message carries both; it does not say which key made it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from hmac import compare_digest
from hmac import digest as hmac_digest
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from kes.crypto import ciphertext as formats

KEY_SIZE: Final = 32  # bytes of a secret key, of an HMAC key and of a data key
_IV, _NONCE = formats.IV_SIZE, formats.NONCE_SIZE
_OVERHEAD = _IV + _NONCE

# The first and last rows of ChaCha20's initial state, "expand 32-byte k" (RFC 8439, section 2.3).
_SIGMA: Final = int.from_bytes(b"expand 32-byte k", "little")
_WORD: Final = 0xFFFFFFFF

Random = Callable[[int], bytes]


class DecryptionError(Exception):
    """The ciphertext is not authentic: another key, other associated data, damage. There is no saying which."""


class Algorithm(Enum):
    """What a secret key is for. The value is its number in a stored key, `str()` its name."""

    AES256 = 1
    CHACHA20 = 2

    def __str__(self) -> str:
        return _NAMES[self]

    @classmethod
    def parse(cls, name: str) -> Algorithm | None:
        """The algorithm of that name, current or older; None if there is none."""
        return _BY_NAME.get(name)

    @classmethod
    def preferred(cls, cpuinfo: Path = Path("/proc/cpuinfo")) -> Algorithm:
        """AES256 where the CPU has AES and carry-less multiply, else ChaCha20, which is fast without them."""
        try:
            lines = cpuinfo.read_text(errors="replace").splitlines()
        except OSError:
            return cls.CHACHA20
        for line in lines:
            name, _, flags = line.partition(":")
            if name.strip() in ("flags", "Features"):  # x86, ARM
                have = set(flags.split())
                return cls.AES256 if "aes" in have and have & {"pclmulqdq", "pmull"} else cls.CHACHA20
        return cls.CHACHA20


_NAMES = {Algorithm.AES256: "AES256", Algorithm.CHACHA20: "ChaCha20"}
_BY_NAME = {
    "AES256": Algorithm.AES256,
    "AES256-GCM_SHA256": Algorithm.AES256,
    "ChaCha20": Algorithm.CHACHA20,
    "XCHACHA20-POLY1305": Algorithm.CHACHA20,
}


@dataclass(frozen=True, slots=True)
class SecretKey:
    """A key that encrypts and decrypts: 32 bytes and the algorithm that they are for."""

    algorithm: Algorithm
    material: bytes = field(repr=False)
    # What every message's key is made from; its copy costs a third of making it anew.
    _hmac: HMAC = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.material) != KEY_SIZE:
            raise ValueError(f"a secret key has {KEY_SIZE} bytes")
        object.__setattr__(self, "_hmac", HMAC(self.material, SHA256()))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretKey):
            return NotImplemented
        return self.algorithm is other.algorithm and compare_digest(self.material, other.material)

    def encrypt(self, plaintext: bytes, associated_data: bytes, random: Random = os.urandom) -> bytes:
        """Encrypt; the result is 44 bytes longer: a 16-byte tag, then the 16-byte IV and the 12-byte nonce."""
        return self._seal(plaintext, associated_data, random(_OVERHEAD))

    def generate_data_key(self, associated_data: bytes, random: Random = os.urandom) -> tuple[bytes, bytes]:
        """A new 32-byte data key and its encryption."""
        # One draw for all three: each is a system call.
        drawn = random(KEY_SIZE + _OVERHEAD)
        data_key = drawn[:KEY_SIZE]
        return data_key, self._seal(data_key, associated_data, drawn[KEY_SIZE:])

    def _seal(self, plaintext: bytes, associated_data: bytes, random: bytes) -> bytes:
        sealed = self._cipher(random[:_IV]).encrypt(random[_IV:], plaintext, associated_data)
        return sealed + random

    def decrypt(self, ciphertext: bytes, associated_data: bytes) -> bytes:
        """The plaintext of a ciphertext in any of the formats. Raises DecryptionError."""
        if ciphertext[:1] in formats.OLDER:
            older = formats.parse_older(ciphertext)
            if older is not None:
                if older.algorithm != str(self.algorithm):
                    raise DecryptionError
                return self._open(older.iv, older.nonce, older.sealed, associated_data)
        end = len(ciphertext) - _OVERHEAD
        if end < formats.TAG_SIZE:
            raise DecryptionError
        return self._open(ciphertext[end : end + _IV], ciphertext[end + _IV :], ciphertext[:end], associated_data)

    def _open(self, iv: bytes, nonce: bytes, sealed: bytes, associated_data: bytes) -> bytes:
        try:
            return self._cipher(iv).decrypt(nonce, sealed, associated_data)
        except InvalidTag:
            raise DecryptionError from None

    def _cipher(self, iv: bytes) -> AESGCM | ChaCha20Poly1305:
        """The cipher of one message, under the key that `iv` gives."""
        if self.algorithm is Algorithm.AES256:
            hmac = self._hmac.copy()
            hmac.update(iv)
            return AESGCM(hmac.finalize())
        return ChaCha20Poly1305(hchacha20(self.material, iv))


def hchacha20(key: bytes, iv: bytes) -> bytes:
    """HChaCha20 (draft-irtf-cfrg-xchacha, section 2.2): 32 bytes from a 32-byte key and 16 bytes.

    The library has only the whole cipher. Its first block is the state after the rounds plus the state before them, so
    the first and last rows less their initial words, each modulo 2^32, are the function's output.
    """
    block = Cipher(ChaCha20(key, iv), mode=None).encryptor().update(bytes(64))
    first = _subtract(int.from_bytes(block[:16], "little"), _SIGMA)
    last = _subtract(int.from_bytes(block[48:], "little"), int.from_bytes(iv, "little"))
    return first.to_bytes(16, "little") + last.to_bytes(16, "little")


def _subtract(row: int, initial: int) -> int:
    """Word by word (32 bits), modulo 2^32."""
    result = 0
    for shift in (0, 32, 64, 96):
        result |= (((row >> shift) - (initial >> shift)) & _WORD) << shift
    return result


@dataclass(frozen=True, slots=True)
class HMACKey:
    """A key for HMAC-SHA-256: 32 bytes in keys of our own, at least 1 in any."""

    material: bytes = field(repr=False)

    def __eq__(self, other: object) -> bool:
        return compare_digest(self.material, other.material) if isinstance(other, HMACKey) else NotImplemented

    def digest(self, message: bytes) -> bytes:
        """The 32-byte authentication code of `message`."""
        return hmac_digest(self.material, message, "sha256")


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the key store. `created_at` is in nanoseconds since the epoch, `created_by` an identity or empty.

    Keys of older servers have no HMAC key.
    """

    secret: SecretKey
    hmac_key: HMACKey | None
    created_at: int
    created_by: str

    @classmethod
    def generate(
        cls,
        algorithm: Algorithm,
        created_by: str,
        created_at: int,
        *,
        material: bytes | None = None,
        random: Random = os.urandom,
    ) -> Key:
        """A new key; with `material`, 32 bytes, one that is imported. Its HMAC key is always new."""
        secret = SecretKey(algorithm, random(KEY_SIZE) if material is None else material)
        return cls(secret, HMACKey(random(KEY_SIZE)), created_at, created_by)
