"""Keys, encryption and decryption, and the formats in which keys and ciphertexts are kept (contract section 7).

Pure functions of bytes: nothing here opens a file, draws on a clock, or knows of a request. Key material is in no repr.
"""

from kes.crypto.key import KEY_SIZE, Algorithm, DecryptionError, HMACKey, Key, SecretKey

__all__ = ["KEY_SIZE", "Algorithm", "DecryptionError", "HMACKey", "Key", "SecretKey"]
