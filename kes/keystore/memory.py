"""Keys in memory, for development mode and tests: gone when the process ends, and seen by no other process."""

from __future__ import annotations

import threading

from kes.keystore import KeyExists, KeyNotFound, KeyStore, check_value, page


class MemoryStore(KeyStore):
    """An empty store."""

    kms = "In Memory"

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def create(self, name: str, value: bytes) -> None:
        check_value(name, value)
        with self._lock:
            if name in self._values:
                raise KeyExists(f"key {name!r} exists")
            self._values[name] = value

    def get(self, name: str) -> bytes:
        with self._lock:
            if name not in self._values:
                raise KeyNotFound(f"key {name!r} does not exist")
            return self._values[name]

    def delete(self, name: str) -> None:
        with self._lock:
            if name not in self._values:
                raise KeyNotFound(f"key {name!r} does not exist")
            del self._values[name]

    def list(self, prefix: str, start_at: str, limit: int) -> tuple[list[str], str]:
        with self._lock:
            names = [*self._values]
        return page(names, prefix, start_at, limit)

    def status(self) -> float:
        return 0.0

    def close(self) -> None:
        """Keep everything: a store may be opened once and used by several tests in turn."""
