"""The stores of the shared suite (`test_every_store.py`), each with a way to put entries in from outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kes.keystore import KeyStore
from kes.keystore.fs import FSStore
from kes.keystore.measured import Calls, MeasuredStore
from kes.keystore.memory import MemoryStore

Plant = Callable[[str, bytes], None]


@pytest.fixture(params=["memory", "fs", "measured"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[KeyStore, Plant]:
    """A fresh store, and a function that puts an entry in it as another program would."""
    if request.param != "fs":
        memory = MemoryStore()
        store = MeasuredStore(memory, Calls()) if request.param == "measured" else memory
        return store, memory.create  # it takes any name

    def plant(name: str, value: bytes) -> None:
        (tmp_path / name).write_bytes(value)

    return FSStore(str(tmp_path)), plant


@pytest.fixture
def store(opened: tuple[KeyStore, Plant]) -> KeyStore:
    return opened[0]


@pytest.fixture
def plant(opened: tuple[KeyStore, Plant]) -> Plant:
    return opened[1]
