"""kes: a key-encryption server. It holds no data of its own but the keys in its key store."""

__version__ = "1.0.0.dev0"
