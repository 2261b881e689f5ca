"""kes: a key-encryption server. It holds no data of its own but the keys in its key store."""
