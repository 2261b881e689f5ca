"""Secret keys: encryption, decryption, and what they are made of."""

from __future__ import annotations

import hmac
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from kes.crypto import KEY_SIZE, Algorithm, DecryptionError, HMACKey, Key, SecretKey
from kes.crypto.key import hchacha20

MATERIAL = bytes(range(32))
KEYS = {algorithm: SecretKey(algorithm, MATERIAL) for algorithm in Algorithm}
algorithms = pytest.mark.parametrize("algorithm", Algorithm)


class Counting:
    """A source of the bytes 0, 1, 2, …, that remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, size: int) -> bytes:
        start = sum(self.asked)
        self.asked.append(size)
        return bytes(n & 0xFF for n in range(start, start + size))


def test_hchacha20_vector() -> None:
    """The test vector of draft-irtf-cfrg-xchacha, section 2.2.1."""
    iv = bytes.fromhex("000000090000004a0000000031415927")
    assert hchacha20(MATERIAL, iv).hex() == "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16))
def test_hchacha20_against_a_plain_one(key: bytes, iv: bytes) -> None:
    """The function taken from the library's block is the one that the draft writes down, for any input."""
    state = [int.from_bytes(part, "little") for part in (b"expa", b"nd 3", b"2-by", b"te k")]
    state += [int.from_bytes(key[n : n + 4], "little") for n in range(0, 32, 4)]
    state += [int.from_bytes(iv[n : n + 4], "little") for n in range(0, 16, 4)]
    for _ in range(10):
        for a, b, c, d in (
            (0, 4, 8, 12),
            (1, 5, 9, 13),
            (2, 6, 10, 14),
            (3, 7, 11, 15),
            (0, 5, 10, 15),
            (1, 6, 11, 12),
            (2, 7, 8, 13),
            (3, 4, 9, 14),
        ):
            for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                state[x] = (state[x] + state[y]) & 0xFFFFFFFF
                mixed = state[z] ^ state[x]
                state[z] = (mixed << turn | mixed >> (32 - turn)) & 0xFFFFFFFF
    expected = b"".join(word.to_bytes(4, "little") for word in state[:4] + state[12:])
    assert hchacha20(key, iv) == expected


@algorithms
def test_current_format(algorithm: Algorithm) -> None:
    """A ciphertext is the sealed bytes, the 16-byte IV and the 12-byte nonce, drawn at once; 44 bytes longer."""
    random = Counting()
    ciphertext = KEYS[algorithm].encrypt(b"plaintext", b"context", random)
    assert random.asked == [28]
    assert len(ciphertext) == len(b"plaintext") + 44
    assert ciphertext[-28:] == bytes(range(28))
    iv, nonce = bytes(range(16)), bytes(range(16, 28))
    aead: AESGCM | ChaCha20Poly1305
    if algorithm is Algorithm.AES256:
        aead = AESGCM(hmac.new(MATERIAL, iv, "sha256").digest())
    else:
        aead = ChaCha20Poly1305(hchacha20(MATERIAL, iv))
    assert aead.decrypt(nonce, ciphertext[:-28], b"context") == b"plaintext"


@given(st.sampled_from(Algorithm), st.binary(max_size=200), st.binary(max_size=50))
def test_round_trip(algorithm: Algorithm, plaintext: bytes, context: bytes) -> None:
    """What is encrypted is decrypted, empty plaintexts and contexts included."""
    key = KEYS[algorithm]
    assert key.decrypt(key.encrypt(plaintext, context), context) == plaintext


@algorithms
def test_every_message_is_new(algorithm: Algorithm) -> None:
    """The same plaintext encrypts to something else each time."""
    key = KEYS[algorithm]
    assert len({key.encrypt(b"", b"") for _ in range(50)}) == 50


@algorithms
def test_every_byte_counts(algorithm: Algorithm) -> None:
    """Any one bit changed in a ciphertext makes it inauthentic, and the error gives no reason."""
    key = KEYS[algorithm]
    ciphertext = key.encrypt(b"plaintext", b"context")
    for at in range(len(ciphertext)):
        for bit in range(8):
            tampered = bytearray(ciphertext)
            tampered[at] ^= 1 << bit
            with pytest.raises(DecryptionError) as raised:
                key.decrypt(bytes(tampered), b"context")
            assert raised.value.args == ()
            assert raised.value.__cause__ is None


@algorithms
def test_every_length_counts(algorithm: Algorithm) -> None:
    """A ciphertext that is cut anywhere, the empty one included, or is one byte longer, is not authentic."""
    key = KEYS[algorithm]
    ciphertext = key.encrypt(b"", b"")
    for damaged in [ciphertext[:end] for end in range(len(ciphertext))] + [ciphertext + b"\0", b"\0" + ciphertext]:
        with pytest.raises(DecryptionError):
            key.decrypt(damaged, b"")


@algorithms
def test_context_key_and_algorithm_count(algorithm: Algorithm) -> None:
    """Another context, another key, or the same bytes under the other algorithm do not decrypt."""
    ciphertext = KEYS[algorithm].encrypt(b"plaintext", b"context")
    (other,) = set(Algorithm) - {algorithm}
    for key, context in (
        (KEYS[algorithm], b""),
        (KEYS[algorithm], b"Context"),
        (SecretKey(algorithm, bytes(32)), b"context"),
        (KEYS[other], b"context"),
    ):
        with pytest.raises(DecryptionError):
            key.decrypt(ciphertext, context)


@pytest.mark.parametrize("first", [b"{", b"\x95"])
@algorithms
def test_random_first_byte(algorithm: Algorithm, first: bytes) -> None:
    """A current ciphertext that begins like an older format by chance is decrypted all the same."""
    key = KEYS[algorithm]
    found = 0
    for n in range(1 << 14):
        ciphertext = key.encrypt(b"plaintext", b"", partial(int.to_bytes, n, byteorder="big"))
        if ciphertext.startswith(first):
            assert key.decrypt(ciphertext, b"") == b"plaintext"
            found += 1
            if found == 3:
                return
    pytest.fail("no such ciphertext found")


@algorithms
def test_data_key(algorithm: Algorithm) -> None:
    """A data key is 32 new bytes and their encryption, for one draw of randomness."""
    random = Counting()
    key = KEYS[algorithm]
    data_key, ciphertext = key.generate_data_key(b"context", random)
    assert random.asked == [60]
    assert data_key == bytes(range(32))
    assert ciphertext[-28:] == bytes(range(32, 60))
    assert key.decrypt(ciphertext, b"context") == data_key
    assert key.generate_data_key(b"")[0] != key.generate_data_key(b"")[0]


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_size_of_a_secret_key(size: int) -> None:
    """A secret key has 32 bytes."""
    with pytest.raises(ValueError, match=r"^a secret key has 32 bytes$"):
        SecretKey(Algorithm.AES256, bytes(size))


def test_hmac_vector() -> None:
    """The HMAC is HMAC-SHA-256 (RFC 4231, test case 2, whose short key is as good as any)."""
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert HMACKey(b"Jefe").digest(b"what do ya want for nothing?").hex() == expected


def test_repr_shows_no_material() -> None:
    """No repr has key material in it, as it is or in hex."""
    key = Key(SecretKey(Algorithm.AES256, b"S" * 32), HMACKey(b"H" * 32), 7, "me")
    text = repr(key) + str(key) + repr(key.secret) + str(key.hmac_key)
    assert "SSS" not in text
    assert "HHH" not in text
    assert b"SSS".hex() not in text
    assert "created_by='me'" in text


def test_equality() -> None:
    """Keys are equal if material and algorithm are; a secret key is never equal to an HMAC key of the same bytes."""
    assert SecretKey(Algorithm.AES256, MATERIAL) == SecretKey(Algorithm.AES256, bytes(range(32)))
    assert SecretKey(Algorithm.AES256, MATERIAL) != SecretKey(Algorithm.CHACHA20, MATERIAL)
    assert SecretKey(Algorithm.AES256, MATERIAL) != SecretKey(Algorithm.AES256, bytes(32))
    assert HMACKey(MATERIAL) == HMACKey(bytes(range(32)))
    assert HMACKey(MATERIAL) != HMACKey(bytes(32))
    assert SecretKey(Algorithm.AES256, MATERIAL) != HMACKey(MATERIAL)


def test_generate() -> None:
    """A new key has secret and HMAC bytes of its own; an imported one has the given bytes and a new HMAC key."""
    random = Counting()
    key = Key.generate(Algorithm.CHACHA20, "me", 7, random=random)
    assert random.asked == [32, 32]
    assert key == Key(SecretKey(Algorithm.CHACHA20, MATERIAL), HMACKey(bytes(range(32, 64))), 7, "me")
    imported = Key.generate(Algorithm.AES256, "me", 7, material=bytes(32))
    assert imported.secret == SecretKey(Algorithm.AES256, bytes(KEY_SIZE))
    assert imported.hmac_key is not None
    assert len(imported.hmac_key.material) == KEY_SIZE
    assert imported.hmac_key != HMACKey(bytes(KEY_SIZE))
    with pytest.raises(ValueError, match=r"^a secret key has 32 bytes$"):
        Key.generate(Algorithm.AES256, "me", 7, material=b"")


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        ("AES256", Algorithm.AES256),
        ("AES256-GCM_SHA256", Algorithm.AES256),
        ("ChaCha20", Algorithm.CHACHA20),
        ("XCHACHA20-POLY1305", Algorithm.CHACHA20),
        ("aes256", None),
        ("AES256 ", None),
        ("ChaCha20Poly1305", None),
        ("", None),
    ],
)
def test_algorithm_names(name: str, algorithm: Algorithm | None) -> None:
    """Current and older names are read, exactly as spelt; the current one is written."""
    assert Algorithm.parse(name) is algorithm


def test_algorithm_numbers() -> None:
    """The numbers in stored keys are 1 and 2 (contract section 7)."""
    assert [(algorithm.value, str(algorithm)) for algorithm in Algorithm] == [(1, "AES256"), (2, "ChaCha20")]


@pytest.mark.parametrize(
    ("cpuinfo", "preferred"),
    [
        ("processor\t: 0\nflags\t\t: fpu aes pclmulqdq avx\n", Algorithm.AES256),
        ("processor\t: 0\nflags\t\t: fpu aes avx\n", Algorithm.CHACHA20),
        ("processor\t: 0\nflags\t\t: fpu pclmulqdq avx\n", Algorithm.CHACHA20),
        ("flags\t\t: fpu vaes vpclmulqdq\n", Algorithm.CHACHA20),
        ("model name\t: aes pclmulqdq\nflags\t\t: fpu\n", Algorithm.CHACHA20),
        ("processor\t: 0\nFeatures\t: fp asimd aes pmull sha1\n", Algorithm.AES256),
        ("processor\t: 0\nFeatures\t: fp asimd\n", Algorithm.CHACHA20),
        ("", Algorithm.CHACHA20),
    ],
)
def test_preferred_algorithm(cpuinfo: str, preferred: Algorithm, tmp_path: Path) -> None:
    """New keys are AES256 where the CPU has both AES and carry-less multiply, and ChaCha20 elsewhere."""
    path = tmp_path / "cpuinfo"
    path.write_text(cpuinfo)
    assert Algorithm.preferred(path) is preferred


def test_preferred_algorithm_unknown(tmp_path: Path) -> None:
    """Where nothing says what the CPU can do, new keys are ChaCha20."""
    assert Algorithm.preferred(tmp_path / "missing") is Algorithm.CHACHA20
