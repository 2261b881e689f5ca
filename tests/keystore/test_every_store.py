"""What every key store does (keystores.md sections 1 and 11.2).

The suite of a store that needs more than an import is a module that takes all of this one with `import *`, and has
fixtures `store`, `plant` and, where the store differs, `traits` of its own.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import pytest

from kes.keystore import MAX_VALUE, PAGE, KeyExists, KeyNotFound, KeyStore, KeyStoreError

CURRENT = b"CiQKIOyn3Vb0pTfVJq5pXZ1Y9yKQpPZ8dqfXkqYy0r2ZEAES"  # made up, of the form that servers write now
LEGACY = b'{"bytes":"p8b3Vw==","algorithm":"AES256-GCM_SHA256","created_at":"2021-01-01T00:00:00Z"}\n'

Plant = Callable[[str, bytes], None]


@dataclass(frozen=True)
class Traits:
    """In what stores differ (keystores.md 10)."""

    longest: int = MAX_VALUE  # bytes of a value
    binary: bool = True  # whether a value may be bytes that are no text
    tells_of_missing: bool = True  # whether to delete a missing name is an error


@pytest.fixture
def traits() -> Traits:
    return Traits()


def walk(store: KeyStore, prefix: str, limit: int) -> list[list[str]]:
    """All pages of a listing."""
    pages, start_at = [], ""
    while True:
        names, start_at = store.list(prefix, start_at, limit)
        pages.append(names)
        if not start_at:
            return pages


@pytest.mark.parametrize(
    "value", [CURRENT, LEGACY, b"\0", bytes(range(256)), b"\r\n"], ids=lambda value: repr(value[:8])
)
def test_round_trip(store: KeyStore, traits: Traits, value: bytes) -> None:
    """A value comes back byte for byte; where only text can be stored, other bytes are refused and take no name."""
    if not traits.binary and not value.isascii():
        with pytest.raises(KeyStoreError, match="my-key"):
            store.create("my-key", value)
        value = CURRENT
    store.create("my-key", value)
    assert store.get("my-key") == value


def test_longest_value(store: KeyStore, traits: Traits) -> None:
    """The longest value comes back, and a longer one is refused and takes no name."""
    with pytest.raises(KeyStoreError, match=f"{traits.longest} bytes"):
        store.create("my-key", b"x" * (traits.longest + 1))
    store.create("my-key", b"x" * traits.longest)
    assert store.get("my-key") == b"x" * traits.longest


@pytest.mark.parametrize("value", [b"", b"x" * (MAX_VALUE + 1)], ids=["empty", "too long"])
def test_value_that_could_not_be_read_again(store: KeyStore, value: bytes) -> None:
    """An empty value and one over 1 MiB are refused, and take no name."""
    with pytest.raises(KeyStoreError, match=f"1 to 1048576 bytes, not {len(value)}"):
        store.create("my-key", value)
    store.create("my-key", CURRENT)


def test_exists(store: KeyStore) -> None:
    """A create never replaces a value, equal or not."""
    store.create("my-key", CURRENT)
    for value in (LEGACY, CURRENT):
        with pytest.raises(KeyExists, match="my-key"):
            store.create("my-key", value)
    assert store.get("my-key") == CURRENT


def test_not_found(store: KeyStore) -> None:
    """A name that was never created, or was deleted, is not found; names differ in case."""
    store.create("my-key", CURRENT)
    for name in ("other", "MY-KEY", "my-ke", "my-key2"):
        with pytest.raises(KeyNotFound, match=name):
            store.get(name)
    store.delete("my-key")
    with pytest.raises(KeyNotFound, match="my-key"):
        store.get("my-key")


def test_delete(store: KeyStore, traits: Traits) -> None:
    """A deleted name is free again; whether it can be deleted twice is the store's own (keystores.md 10)."""
    store.create("my-key", CURRENT)
    store.delete("my-key")
    with pytest.raises(KeyNotFound, match="my-key") if traits.tells_of_missing else nullcontext():
        store.delete("my-key")
    store.create("my-key", LEGACY)
    assert store.get("my-key") == LEGACY


def test_empty_listing(store: KeyStore) -> None:
    """A store without keys lists nothing, under any prefix."""
    assert store.list("", "", 0) == ([], "")
    assert store.list("my", "my-key", PAGE) == ([], "")


def test_listing_order_and_prefix(store: KeyStore) -> None:
    """Names are sorted by byte value, and the prefix is a plain one, in which no character is special."""
    for name in ("b", "a", "B", "_a", "1", "a-b", "a_b", "aB", "ab"):
        store.create(name, CURRENT)
    assert store.list("", "", 0) == (["1", "B", "_a", "a", "a-b", "aB", "a_b", "ab", "b"], "")
    assert store.list("a", "", 0) == (["a", "a-b", "aB", "a_b", "ab"], "")
    assert store.list("a-", "", 0) == (["a-b"], "")
    assert store.list("a*", "", 0) == ([], "")
    assert store.list("a.", "", 0) == ([], "")


def test_start_of_a_page(store: KeyStore) -> None:
    """A page begins at `start_at`, that name included whether it exists or not, and keeps to the prefix."""
    for name in ("a1", "a2", "a4", "b"):
        store.create(name, CURRENT)
    assert store.list("a", "a2", 0) == (["a2", "a4"], "")
    assert store.list("a", "a3", 0) == (["a4"], "")
    assert store.list("a", "a5", 0) == ([], "")
    assert store.list("b", "a", 0) == (["b"], "")


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
def test_limit(store: KeyStore, limit: int) -> None:
    """A page has at most `limit` names, and says where the next begins only if there is one."""
    names = ["a1", "a2", "a3", "a4"]
    for name in [*names, "b"]:
        store.create(name, CURRENT)
    assert walk(store, "a", limit) == [names[at : at + limit] for at in range(0, 4, limit)]


@pytest.mark.parametrize("count", [PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 2 * PAGE + 1])
def test_more_than_a_page(store: KeyStore, plant: Plant, count: int) -> None:
    """However many names there are, walking the pages finds each once, in order, at most 1024 at a time."""
    names = [f"k{number:05}" for number in range(count)]
    for name in random.sample(names, count):
        plant(name, CURRENT)
    for limit in (0, -1, PAGE, PAGE + 1, 10**6):
        assert walk(store, "k", limit) == [names[at : at + PAGE] for at in range(0, count, PAGE)]


def test_foreign_names(store: KeyStore, plant: Plant) -> None:
    """Entries whose names no key can have are left out, and do no harm."""
    for name in ("-a", "a-", "_", "a.b", ".a", "a b", "a\n", "ä", "a" * 81, "a*", "\udcff"):
        plant(name, CURRENT)
    plant("a" * 80, CURRENT)
    assert store.list("", "", 0) == (["a" * 80], "")
    assert store.list("a", "a.b", 0) == (["a" * 80], "")


def test_one_creator_wins(store: KeyStore) -> None:
    """Of 20 concurrent creates of one name exactly one succeeds, and what is read is its value."""
    start = threading.Barrier(20)
    won: list[bytes] = []
    lost: list[KeyStoreError] = []

    def create(value: bytes) -> None:
        start.wait()
        try:
            store.create("my-key", value)
            won.append(value)
        except KeyExists as e:
            lost.append(e)

    threads = [threading.Thread(target=create, args=(b"value %d" % number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 19)
    assert store.get("my-key") == won[0]


def test_status(store: KeyStore) -> None:
    """The probe of a healthy store takes a fraction of a second, and is not negative."""
    assert 0 <= store.status() < 1


def test_errors_name_no_value(store: KeyStore, plant: Plant) -> None:
    """What goes wrong is told without the value."""
    store.create("my-key", CURRENT)
    with pytest.raises(KeyExists) as caught:
        store.create("my-key", CURRENT)
    assert CURRENT.decode() not in f"{caught.value} {caught.value!r}"
