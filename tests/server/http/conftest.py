from __future__ import annotations

import pytest

from tests.server.memory import House, put


@pytest.fixture
def house() -> House:
    """A server with the key `k` in its cache."""
    house = House()
    house.make_key("k")
    return house


@pytest.fixture
def cold(house: House) -> House:
    """A server with a key that is not in the cache, and threads that wait."""
    house.ask(put("/v1/key/create/cold"))
    house.audit.clear()
    house.threads.hold()
    return house


@pytest.fixture(scope="module")
def shared() -> House:
    """One server for all examples of a test, which hypothesis runs in one call."""
    house = House()
    house.make_key("k")
    return house
