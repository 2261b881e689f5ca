"""The store in memory, beyond what every store does."""

from __future__ import annotations

import pytest

from kes.keystore import KeyNotFound
from kes.keystore.memory import MemoryStore


def test_start_up_line() -> None:
    """The start-up output says that keys do not outlive the process."""
    assert MemoryStore().kms == "In Memory"


def test_stores_share_nothing() -> None:
    """Each store begins empty."""
    MemoryStore().create("my-key", b"value")
    with pytest.raises(KeyNotFound):
        MemoryStore().get("my-key")
