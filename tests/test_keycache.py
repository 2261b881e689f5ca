"""The cache in front of the key store (README section 6 "Cache", keystores.md 1.6)."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs, globalLogPublisher
from twisted.python.failure import Failure

from kes.crypto import Algorithm, Key
from kes.crypto.storedkey import decode, encode
from kes.keycache import CLOSE_TIMEOUT, POLL_INTERVAL, KeyCache
from kes.keystore import PAGE, KeyExists, KeyNotFound, KeyStoreError, Unreachable
from kes.keystore.memory import MemoryStore


@pytest.fixture(autouse=True)
def no_error_unseen() -> Iterator[None]:
    """Whatever goes wrong in a callback ends in a Deferred that nobody looks at; none may."""
    seen: list[LogEvent] = []
    globalLogPublisher.addObserver(seen.append)
    gc.freeze()  # so that only what the test leaves behind is gone through
    yield
    gc.collect()
    gc.unfreeze()
    globalLogPublisher.removeObserver(seen.append)
    assert [event for event in seen if "log_failure" in event] == []


class Store(MemoryStore):
    """A store whose calls are recorded, and fail with `fault` if there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: Exception | None = None
        self.calls: list[str] = []

    def _enter(self, call: str) -> None:
        self.calls.append(call)
        if self.fault is not None:
            raise self.fault

    def create(self, name: str, value: bytes) -> None:
        self._enter(f"create {name}")
        super().create(name, value)

    def get(self, name: str) -> bytes:
        self._enter(f"get {name}")
        return super().get(name)

    def delete(self, name: str) -> None:
        self._enter(f"delete {name}")
        super().delete(name)

    def list(self, prefix: str, start_at: str, limit: int) -> tuple[list[str], str]:
        self._enter(f"list {prefix} {start_at} {limit}")
        return super().list(prefix, start_at, limit)

    def status(self) -> float:
        self._enter("status")
        return 0.125

    def close(self) -> None:
        self._enter("close")


class Call:
    """A call that waits for its thread; the test plays the thread, in two steps."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._outcome: Any = None
        self.deferred: Deferred[Any] = Deferred()

    def begin(self) -> None:
        """Make the call, unless it has been given up."""
        if not self.deferred.called:
            try:
                self._outcome = self._function()
            except Exception:
                self._outcome = Failure()

    def end(self) -> None:
        """Bring the outcome back from the thread."""
        self.deferred.callback(self._outcome)


class Threads:
    """Runs each call at once, or with `by_hand` leaves it in `calls`."""

    def __init__(self) -> None:
        self.by_hand = False
        self.calls: list[Call] = []

    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Deferred[Any]:
        call = Call(lambda: function(*args, **kwargs))
        if self.by_hand:
            self.calls.append(call)
        else:
            call.begin()
            call.end()
        return call.deferred

    def finish(self) -> None:
        """Make the oldest call that waits, and bring back its outcome."""
        call = self.calls.pop(0)
        call.begin()
        call.end()


def no_thread(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Deferred[Any]:
    """In place of `Threads.run`, where no thread can be started."""
    return fail(RuntimeError("can't start new thread"))


class World:
    """A cache and what is around it."""

    def __init__(
        self,
        *,
        any: float = 300,  # noqa: A002 - as in KeyCache
        unused: float = 30,
        offline: float = 0,
        max_keys: int = 100,
    ) -> None:
        self.store = Store()
        self.threads = Threads()
        self.clock = Clock()
        self.keys = KeyCache(
            self.store, self.threads.run, self.clock, any=any, unused=unused, offline=offline, max_keys=max_keys
        )

    def put(self, name: str = "my-key") -> Key:
        """Put a new key in the store as another server would."""
        key = new_key()
        MemoryStore.create(self.store, name, encode(key))
        return key

    def remove(self, name: str = "my-key") -> None:
        """Delete a key from the store as another server would."""
        MemoryStore.delete(self.store, name)

    def reads(self) -> int:
        """How often the store has been read."""
        return sum(call.startswith("get ") for call in self.store.calls)


def new_key() -> Key:
    return Key.generate(Algorithm.AES256, "", 0)


def result_of(deferred: Deferred[Any]) -> Any:
    """The result of a Deferred that has fired."""
    results: list[Any] = []
    deferred.addCallback(results.append)
    deferred.addErrback(lambda failure: results.append(failure))
    assert results, "the Deferred has not fired"
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]


def pending(deferred: Deferred[Any]) -> bool:
    return not deferred.called


# Reading


def test_hit_touches_nothing() -> None:
    """A key that is in the cache is answered without the store, a thread or a timer."""
    world = World()
    key = world.put()
    assert world.keys.peek("my-key") is None
    assert result_of(world.keys.get("my-key")) == key
    calls = list(world.store.calls)
    world.threads.by_hand = True
    assert world.keys.peek("my-key") == key
    assert result_of(world.keys.get("my-key")) == key
    assert (world.store.calls, world.threads.calls, world.clock.getDelayedCalls()) == (calls, [], [])


def test_no_thread_for_a_read() -> None:
    """A read for which there is no thread fails, and leaves nothing behind: the next one works."""
    world = World()
    key = world.put()
    run, world.keys._run = world.keys._run, no_thread
    with pytest.raises(KeyStoreError, match="can't start new thread"):
        result_of(world.keys.get("my-key"))
    with pytest.raises(KeyStoreError):
        result_of(world.keys.create("other", new_key()))
    world.keys._run = run
    assert result_of(world.keys.get("my-key")) == key
    result_of(world.keys.create("other", new_key()))
    assert result_of(world.keys.close()) is None


def test_counters() -> None:
    """A key answered from the cache is a hit, one that has to be read a miss; then it is in memory."""
    world = World()
    world.put()
    assert world.keys.size == 0
    world.keys.peek("my-key")
    result_of(world.keys.get("my-key"))
    assert (world.keys.hits, world.keys.misses, world.keys.size) == (0, 1, 1)
    world.keys.peek("my-key")
    result_of(world.keys.get("my-key"))
    assert (world.keys.hits, world.keys.misses) == (2, 1)


def test_concurrent_misses_make_one_read() -> None:
    """Whoever asks for a key that is being read gets the result of that read; other keys are read apart."""
    world = World()
    key, other = world.put(), world.put("other")
    world.threads.by_hand = True
    waiters = [world.keys.get("my-key") for _ in range(5)]
    apart = world.keys.get("other")
    assert len(world.threads.calls) == 2
    world.threads.finish()
    assert [result_of(waiter) for waiter in waiters] == [key] * 5
    assert pending(apart)
    world.threads.finish()
    assert result_of(apart) == other
    assert world.keys.misses == 6


def test_failed_read_fails_all_and_is_not_kept() -> None:
    """All who wait for a read get its error; the next one reads anew."""
    world = World()
    world.threads.by_hand = True
    waiters = [world.keys.get("my-key") for _ in range(3)]
    world.threads.finish()
    for waiter in waiters:
        with pytest.raises(KeyNotFound):
            result_of(waiter)
    key = world.put()
    again = world.keys.get("my-key")
    world.threads.finish()
    assert result_of(again) == key


@pytest.mark.parametrize("begun", [False, True])
def test_one_waiter_leaves(begun: bool) -> None:
    """One that is cancelled leaves the others waiting, and the read running."""
    world = World()
    key = world.put()
    world.threads.by_hand = True
    first, second, third = (world.keys.get("my-key") for _ in range(3))
    call = world.threads.calls[0]
    if begun:
        call.begin()
    first.cancel()
    third.cancel()
    if not begun:
        call.begin()
    call.end()
    for gone in (first, third):
        with pytest.raises(CancelledError):
            result_of(gone)
    assert result_of(second) == key


def test_all_waiters_leave_before_the_read_begins() -> None:
    """A read that nobody waits for any more is not made."""
    world = World()
    world.put()
    world.threads.by_hand = True
    waiters = [world.keys.get("my-key") for _ in range(2)]
    for waiter in waiters:
        waiter.cancel()
        with pytest.raises(CancelledError):
            result_of(waiter)
    world.threads.finish()
    assert world.store.calls == []


def test_all_waiters_leave_after_the_read_began() -> None:
    """A read given up half-way is dropped: its result is not kept, and who comes then does not wait for it."""
    world = World()
    world.put()
    world.threads.by_hand = True
    waiter = world.keys.get("my-key")
    given_up = world.threads.calls.pop()
    given_up.begin()
    waiter.cancel()
    with pytest.raises(CancelledError):
        result_of(waiter)
    given_up.end()
    assert world.keys.peek("my-key") is None
    again = world.keys.get("my-key")
    assert len(world.threads.calls) == 1
    world.threads.finish()
    result_of(again)


def test_a_waiter_that_cancels_another() -> None:
    """A callback may give up others that wait for the same read."""
    world = World()
    world.put()
    world.threads.by_hand = True
    first, second, third = (world.keys.get("my-key") for _ in range(3))
    first.addCallback(lambda key: second.cancel())
    world.threads.finish()
    with pytest.raises(CancelledError):
        result_of(second)
    result_of(third)


@pytest.mark.parametrize("value", [b"secret!", b'{"bytes":"secret!"}', b"c2VjcmV0IQ=="])
def test_undecodable_value(value: bytes) -> None:
    """A value that is no key is an error of the store that names the key and quotes nothing."""
    world = World()
    MemoryStore.create(world.store, "my-key", value)
    with pytest.raises(KeyStoreError, match="key 'my-key': what is stored is not a key") as caught:
        result_of(world.keys.get("my-key"))
    assert type(caught.value) is KeyStoreError
    assert "secret" not in str(caught.value)
    assert "c2Vj" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_store_that_breaks_its_contract() -> None:
    """Whatever a store raises comes out as an error of the store, without a text that might quote a value."""
    world = World()
    world.store.fault = UnicodeDecodeError("ascii", b"secret", 0, 1, "secret")
    for call in (
        lambda: world.keys.get("my-key"),
        lambda: world.keys.create("my-key", new_key()),
        lambda: world.keys.delete("my-key"),
        lambda: world.keys.list("", ""),
        world.keys.status,
    ):
        with pytest.raises(KeyStoreError, match=r"^unexpected UnicodeDecodeError from the key store$"):
            result_of(call())


# Changing


def test_create() -> None:
    """A created key is in the store, in the stored-key format; it is then read from there."""
    world = World()
    key = new_key()
    assert result_of(world.keys.create("my-key", key)) is None
    assert decode(MemoryStore.get(world.store, "my-key")) == key
    assert world.keys.peek("my-key") is None
    assert result_of(world.keys.get("my-key")) == key
    with pytest.raises(KeyExists):
        result_of(world.keys.create("my-key", new_key()))
    assert world.keys.peek("my-key") == key


def test_create_after_another_server_deleted() -> None:
    """What was cached under the name of a new key is another key, and must not be used for it."""
    world = World()
    world.put()
    result_of(world.keys.get("my-key"))
    world.remove()
    key = new_key()
    result_of(world.keys.create("my-key", key))
    assert world.keys.peek("my-key") is None
    assert result_of(world.keys.get("my-key")) == key


def test_create_given_up_half_way_still_counts() -> None:
    """A create that goes on after it was cancelled drops the old key too."""
    world = World()
    world.put()
    result_of(world.keys.get("my-key"))
    world.remove()
    world.threads.by_hand = True
    created = world.keys.create("my-key", new_key())
    world.threads.calls[0].begin()
    created.cancel()
    with pytest.raises(CancelledError):
        result_of(created)
    world.threads.calls[0].end()
    assert world.keys.peek("my-key") is None


def test_change_given_up_before_it_begins() -> None:
    """A create or delete that was cancelled before its thread began is never made."""
    world = World()
    world.put("other")
    world.threads.by_hand = True
    for changed in (world.keys.create("my-key", new_key()), world.keys.delete("other")):
        changed.cancel()
        with pytest.raises(CancelledError):
            result_of(changed)
    world.threads.finish()
    world.threads.finish()
    assert world.store.calls == []


def test_delete_drops_the_key_at_once() -> None:
    """From the moment that a delete is asked for the key is not answered from the cache."""
    world = World()
    world.put()
    result_of(world.keys.get("my-key"))
    world.threads.by_hand = True
    deleted = world.keys.delete("my-key")
    assert world.keys.peek("my-key") is None
    assert pending(deleted)
    world.threads.finish()
    assert result_of(deleted) is None
    assert result_of_read(world) is KeyNotFound


def result_of_read(world: World) -> type[Exception] | Key:
    """Read `my-key` in a thread: the key or the type of the error."""
    world.threads.by_hand = False
    try:
        return result_of(world.keys.get("my-key"))  # type: ignore[no-any-return]
    except KeyStoreError as e:
        return type(e)


@pytest.mark.parametrize("order", ["read before", "read during", "given up"])
def test_read_across_a_delete(order: str) -> None:
    """A read that began before a delete had ended does not put the old key back, also if the delete was given up."""
    world = World()
    key = world.put()
    world.threads.by_hand = True
    if order == "read before":
        reading = world.keys.get("my-key")
        deleting = world.keys.delete("my-key")
        read, delete = world.threads.calls
    else:
        deleting = world.keys.delete("my-key")
        reading = world.keys.get("my-key")
        delete, read = world.threads.calls
    read.begin()
    if order == "given up":
        delete.begin()
        deleting.cancel()
        with pytest.raises(CancelledError):
            result_of(deleting)
        read.end()  # with the old key if the store is slow to forget
        delete.end()
    else:
        delete.begin()
        delete.end()
        read.end()
        assert result_of(deleting) is None
    assert result_of(reading) == key
    assert world.keys.peek("my-key") is None
    assert result_of_read(world) is KeyNotFound


def test_who_comes_after_a_delete_does_not_join_an_earlier_read() -> None:
    """A read that began before a delete is not shared with those who ask after it."""
    world = World()
    world.put()
    world.threads.by_hand = True
    before = world.keys.get("my-key")
    world.threads.calls[0].begin()
    deleted = world.keys.delete("my-key")
    world.threads.calls[1].begin()
    world.threads.calls[1].end()
    after = world.keys.get("my-key")
    world.threads.calls[2].begin()
    world.threads.calls[2].end()
    world.threads.calls[0].end()
    result_of(before)
    result_of(deleted)
    with pytest.raises(KeyNotFound):
        result_of(after)


def test_read_before_a_create_fails_after_it() -> None:
    """That a key was missing before it was created does not drop it from the cache, nor stop a later read."""
    world = World()
    world.threads.by_hand = True
    before = world.keys.get("my-key")
    early = world.threads.calls.pop()
    early.begin()
    world.threads.by_hand = False
    key = new_key()
    result_of(world.keys.create("my-key", key))
    world.threads.by_hand = True
    after = world.keys.get("my-key")
    early.end()
    with pytest.raises(KeyNotFound):
        result_of(before)
    joined = world.keys.get("my-key")
    world.threads.finish()
    assert result_of(after) == key
    assert result_of(joined) == key
    assert world.keys.peek("my-key") == key


def test_forget() -> None:
    """A key that another process has deleted can be dropped from outside."""
    world = World()
    world.put()
    result_of(world.keys.get("my-key"))
    world.keys.forget("my-key")
    world.keys.forget("never-seen")
    assert world.keys.peek("my-key") is None


def test_list() -> None:
    """A listing is the store's page, of the contract's size."""
    world = World()
    for name in ("a1", "a2", "b"):
        world.put(name)
    assert result_of(world.keys.list("a", "a2")) == (["a2"], "")
    assert world.store.calls == [f"list a a2 {PAGE}"]


def test_list_given_up() -> None:
    """A listing and a probe that were cancelled before their threads began are never made."""
    world = World()
    world.threads.by_hand = True
    for asked in (world.keys.list("", ""), world.keys.status()):
        asked.cancel()
        with pytest.raises(CancelledError):
            result_of(asked)
    world.threads.finish()
    world.threads.finish()
    assert world.store.calls == []


# Expiry


def test_any() -> None:
    """A key expires `any` seconds after it was read, however much it is used."""
    world = World(any=100, unused=30)
    world.put()
    result_of(world.keys.get("my-key"))
    for _ in range(9):
        world.clock.advance(11)
        assert world.keys.peek("my-key") is not None
    world.clock.advance(0.5)  # 99.5
    assert world.keys.peek("my-key") is not None
    world.clock.advance(0.5)
    assert world.keys.peek("my-key") is None
    result_of(world.keys.get("my-key"))
    assert world.reads() == 2
    assert world.keys.peek("my-key") is not None


def test_unused() -> None:
    """A key expires `unused` seconds after its last use, and each use counts from anew."""
    world = World(any=1000, unused=30)
    world.put()
    result_of(world.keys.get("my-key"))
    for _ in range(3):
        world.clock.advance(29.5)
        assert world.keys.peek("my-key") is not None
    world.clock.advance(30)
    assert world.keys.peek("my-key") is None


@pytest.mark.parametrize("zero", ["any", "unused"])
def test_zero(zero: str) -> None:
    """With `any` or `unused` of 0 every use reads the store."""
    world = World(**{"any": 300, "unused": 30, zero: 0})
    world.put()
    for expected in (1, 2, 3):
        result_of(world.keys.get("my-key"))
        assert world.reads() == expected


def keys_held(world: World) -> set[str]:
    """The names of the keys in memory, expired or not. Nothing public tells them."""
    return set(world.keys._entries)


@pytest.mark.parametrize(("offline", "retained"), [(0, 0), (60, 30)])
def test_expired_keys_leave_memory(offline: float, retained: float) -> None:
    """An expired key is dropped at the next tick, or where it may still be needed once an outage would be known."""
    for settings in ({"any": 5, "unused": 1000}, {"any": 1000, "unused": 5}):
        world = World(offline=offline, **settings)
        world.keys.start()
        world.put()
        result_of(world.keys.get("my-key"))
        world.clock.pump([POLL_INTERVAL] * int(retained / POLL_INTERVAL))
        assert keys_held(world) == {"my-key"}
        world.clock.advance(POLL_INTERVAL)
        assert keys_held(world) == set()


def test_bound() -> None:
    """Of more keys than fit the one is dropped that was read first; one read again counts as new."""
    world = World(any=100, unused=1000, max_keys=3)
    for name in ("a", "b", "c", "d"):
        world.put(name)
    for name in ("a", "b", "c"):
        result_of(world.keys.get(name))
    world.clock.advance(100)
    result_of(world.keys.get("b"))
    assert keys_held(world) == {"a", "b", "c"}
    result_of(world.keys.get("d"))
    assert keys_held(world) == {"b", "c", "d"}
    result_of(world.keys.get("a"))
    assert keys_held(world) == {"a", "b", "d"}


# Outages


def test_poll() -> None:
    """The store is probed every 10 s, for the first time after 10 s."""
    world = World()
    world.keys.start()
    world.clock.advance(9.5)
    assert world.store.calls == []
    world.clock.advance(0.5)
    assert world.store.calls == ["status"]
    world.clock.pump([POLL_INTERVAL] * 3)
    assert world.store.calls == ["status"] * 4


@pytest.mark.parametrize("fault", [Unreachable("no route"), KeyStoreError("denied"), ZeroDivisionError()])
def test_down_and_back(fault: Exception) -> None:
    """After a failed probe the store is down: status() fails at once, until a probe succeeds. Each is one event."""
    world = World()
    world.keys.start()
    assert result_of(world.keys.status()) == 0.125
    assert world.keys.up
    world.store.fault = fault
    with capturedLogs() as events:
        world.clock.pump([POLL_INTERVAL] * 3)
    assert not world.keys.up
    (event,) = events
    assert event["log_level"].name == "error"
    assert event["log_format"] == "the key store is down: {why}"
    assert event["why"] in ("no route", "denied", "unexpected ZeroDivisionError from the key store")
    calls = list(world.store.calls)
    world.store.fault = None
    with pytest.raises(Unreachable, match="down for 20 s"):
        result_of(world.keys.status())
    assert world.store.calls == calls
    with capturedLogs() as events:
        world.clock.pump([POLL_INTERVAL] * 2)
    (event,) = events
    assert event["log_level"].name == "info"
    assert event["log_format"] == "the key store is back after {seconds:.0f} s"
    assert event["seconds"] == 30
    assert world.keys.up
    assert result_of(world.keys.status()) == 0.125


def test_unreachable_operation_means_down() -> None:
    """Any operation that finds the store out of reach says so for all; other errors of operations say nothing."""
    operations: list[Callable[[World], Deferred[Any]]] = [
        lambda world: world.keys.get("my-key"),
        lambda world: world.keys.create("my-key", new_key()),
        lambda world: world.keys.delete("my-key"),
        lambda world: world.keys.list("", ""),
        lambda world: world.keys.status(),
    ]
    for operation in operations:
        for fault, down in ((Unreachable("no route"), True), (KeyStoreError("denied"), False)):
            world = World()
            world.store.fault = fault
            with pytest.raises(type(fault)):
                result_of(operation(world))
            world.store.fault = None
            if down:
                with pytest.raises(Unreachable):
                    result_of(world.keys.status())
            else:
                result_of(world.keys.status())


def test_hanging_probe() -> None:
    """A probe unanswered when the next is due means that the store is down; there is never a second one under way."""
    world = World()
    world.keys.start()
    world.threads.by_hand = True
    world.clock.advance(POLL_INTERVAL)
    world.threads.calls[0].begin()
    world.clock.advance(POLL_INTERVAL - 0.5)
    with capturedLogs() as events:
        world.clock.advance(0.5)
        world.clock.pump([POLL_INTERVAL] * 2)
    assert [event["why"] for event in events] == ["no answer to a probe for 10 s"]
    assert len(world.threads.calls) == 1
    with pytest.raises(Unreachable):
        result_of(world.keys.status())
    world.threads.calls.pop().end()
    world.clock.advance(POLL_INTERVAL)
    world.threads.finish()
    world.threads.by_hand = False
    assert result_of(world.keys.status()) == 0.125


def outage(world: World, fault: Exception | None = None) -> None:
    """The store goes down, and the next poll notices."""
    world.store.fault = fault or Unreachable("no route")
    world.clock.advance(POLL_INTERVAL)


def test_offline() -> None:
    """While the store is down keys are answered for `offline` seconds, `any` and `unused` notwithstanding."""
    world = World(any=20, unused=15, offline=3600)
    world.keys.start()
    key = world.put()
    result_of(world.keys.get("my-key"))
    outage(world)
    for _ in range(359):
        world.clock.advance(POLL_INTERVAL)
    assert world.keys.peek("my-key") == key
    world.clock.advance(9.5)
    assert world.keys.peek("my-key") == key
    world.clock.advance(0.5)
    assert world.keys.peek("my-key") is None
    with pytest.raises(Unreachable):
        result_of(world.keys.get("my-key"))
    world.clock.pump([POLL_INTERVAL] * 4)
    assert keys_held(world) == set()


def test_offline_is_off() -> None:
    """With `offline` of 0 a key expires during an outage as ever."""
    world = World(any=20, unused=20, offline=0)
    world.keys.start()
    world.put()
    result_of(world.keys.get("my-key"))
    outage(world)
    assert world.keys.peek("my-key") is not None
    world.clock.advance(POLL_INTERVAL)
    assert world.keys.peek("my-key") is None
    with pytest.raises(Unreachable):
        result_of(world.keys.get("my-key"))


def test_expired_keys_are_not_answered_with_offline_off() -> None:
    """With `offline` of 0 an expired key is not answered, though it may be in memory until the next poll."""
    world = World(any=1, unused=1, offline=0)
    world.put()
    result_of(world.keys.get("my-key"))
    world.clock.advance(1)
    world.store.fault = Unreachable("no route")
    with pytest.raises(Unreachable):
        result_of(world.keys.get("my-key"))


def test_offline_does_not_shorten() -> None:
    """A key that has not expired is answered also when `offline` is over."""
    world = World(any=300, unused=300, offline=5)
    world.keys.start()
    world.put()
    result_of(world.keys.get("my-key"))
    outage(world)
    world.clock.advance(POLL_INTERVAL)
    assert world.keys.peek("my-key") is not None


def test_offline_ends_with_the_outage() -> None:
    """Once the store is back expired keys are read anew, and the next outage is counted from its own beginning."""
    world = World(any=5, unused=5, offline=25)
    world.keys.start()
    world.put()
    result_of(world.keys.get("my-key"))
    outage(world)
    world.clock.advance(POLL_INTERVAL)
    assert world.keys.peek("my-key") is not None
    world.store.fault = None
    world.clock.advance(POLL_INTERVAL)
    assert world.keys.peek("my-key") is None
    result_of(world.keys.get("my-key"))
    assert world.reads() == 2
    outage(world)
    world.clock.pump([POLL_INTERVAL] * 2)
    assert world.keys.peek("my-key") is not None


def test_key_that_expired_before_the_outage_was_noticed() -> None:
    """A key that expired between the beginning of an outage and the poll that notices it is answered again."""
    world = World(any=1, unused=1, offline=60)
    world.keys.start()
    key = world.put()
    world.clock.advance(POLL_INTERVAL)
    result_of(world.keys.get("my-key"))
    world.clock.advance(1)
    assert world.keys.peek("my-key") is None
    world.store.fault = KeyStoreError("unavailable")
    world.clock.advance(POLL_INTERVAL - 1)
    assert world.keys.peek("my-key") == key


def test_miss_in_an_outage() -> None:
    """A read that finds the store out of reach is answered with the expired key; without one it fails."""
    world = World(any=1, unused=1, offline=60)
    key = world.put()
    result_of(world.keys.get("my-key"))
    world.clock.advance(1)
    world.store.fault = Unreachable("no route")
    assert result_of(world.keys.get("my-key")) == key
    assert world.keys.peek("my-key") == key
    with pytest.raises(Unreachable):
        result_of(world.keys.get("other"))


def test_miss_with_another_error() -> None:
    """A read that fails otherwise does not bring an expired key back."""
    world = World(any=1, unused=1, offline=60)
    world.put()
    result_of(world.keys.get("my-key"))
    world.clock.advance(1)
    world.store.fault = KeyStoreError("denied")
    with pytest.raises(KeyStoreError, match="denied"):
        result_of(world.keys.get("my-key"))


@pytest.mark.parametrize("begun", [False, True])
def test_reads_that_hang_in_an_outage(begun: bool) -> None:
    """When the outage is noticed, those who wait for a read get the expired key at once, and the read is given up."""
    world = World(any=1, unused=1, offline=60)
    world.keys.start()
    key = world.put()
    world.put("other")
    result_of(world.keys.get("my-key"))
    world.clock.advance(1)
    world.threads.by_hand = True
    waiters = [world.keys.get("my-key"), world.keys.get("my-key")]
    without = world.keys.get("other")
    hanging = world.threads.calls[0]
    if begun:
        hanging.begin()
    world.clock.advance(POLL_INTERVAL)
    assert pending(waiters[0])
    world.clock.advance(POLL_INTERVAL)
    assert [result_of(waiter) for waiter in waiters] == [key, key]
    assert pending(without)
    if not begun:
        hanging.begin()
    hanging.end()
    assert world.reads() == 1 + begun
    assert world.keys.peek("my-key") == key
    world.threads.calls[1].begin()
    world.threads.calls[1].end()
    result_of(without)


def test_deleted_elsewhere() -> None:
    """A key that the store no longer has is not brought back by a later outage."""
    world = World(any=1, unused=1, offline=60)
    world.put()
    result_of(world.keys.get("my-key"))
    world.clock.advance(1)
    world.remove()
    with pytest.raises(KeyNotFound):
        result_of(world.keys.get("my-key"))
    world.store.fault = Unreachable("no route")
    with pytest.raises(Unreachable):
        result_of(world.keys.get("my-key"))


def test_deleted_in_an_outage() -> None:
    """A deleted key is not answered during an outage either, also if the store could not be told."""
    world = World(offline=60)
    world.put()
    result_of(world.keys.get("my-key"))
    world.store.fault = Unreachable("no route")
    with pytest.raises(Unreachable):
        result_of(world.keys.delete("my-key"))
    assert world.keys.peek("my-key") is None
    with pytest.raises(Unreachable):
        result_of(world.keys.get("my-key"))


# Closing


def test_close() -> None:
    """Closing stops the polls, closes the store, empties the cache, and leaves no timer. It may be repeated."""
    world = World()
    world.keys.start()
    world.put()
    result_of(world.keys.get("my-key"))
    result_of(world.keys.close())
    assert world.store.calls == ["get my-key", "close"]
    assert world.clock.getDelayedCalls() == []
    assert keys_held(world) == set()
    result_of(world.keys.close())
    assert world.store.calls == ["get my-key", "close"]


def test_close_waits_for_running_calls() -> None:
    """The store is closed when the calls under way have ended; those that come meanwhile are served too."""
    world = World()
    key = world.put()
    world.threads.by_hand = True
    reading = world.keys.get("my-key")
    creating = world.keys.create("other", new_key())
    first, second = world.keys.close(), world.keys.close()
    listing = world.keys.list("", "")
    for _ in range(3):
        assert pending(first)
        assert "close" not in world.store.calls
        world.threads.finish()
    assert result_of(reading) == key
    assert result_of(creating) is None
    assert result_of(listing) == (["my-key", "other"], "")
    assert pending(first)
    world.threads.finish()
    assert world.store.calls[-1] == "close"
    result_of(first)
    result_of(second)


def test_close_does_not_wait_for_a_probe() -> None:
    """A probe under way is given up, and is no outage."""
    world = World()
    world.keys.start()
    world.threads.by_hand = True
    world.clock.advance(POLL_INTERVAL)
    probe = world.threads.calls.pop()
    probe.begin()
    with capturedLogs() as events:
        closing = world.keys.close()
        world.threads.finish()
        result_of(closing)
        probe.end()
    assert events == []


@pytest.mark.parametrize("stuck", ["call", "close"])
def test_close_with_a_stuck_store(stuck: str) -> None:
    """Closing ends after a bounded time, whatever hangs, and tells."""
    world = World()
    world.threads.by_hand = True
    reading = world.keys.get("my-key") if stuck == "call" else None
    closing = world.keys.close()
    world.clock.advance(CLOSE_TIMEOUT - 0.5)
    assert pending(closing)
    with capturedLogs() as events:
        world.clock.advance(0.5)
    result_of(closing)
    with pytest.raises(KeyStoreError, match="closed"):
        result_of(world.keys.list("", ""))
    assert [event["log_format"] for event in events] == ["the key store is closed with {running} calls still under way"]
    while world.threads.calls:
        world.threads.finish()
    assert world.store.calls.count("close") == 1
    assert world.clock.getDelayedCalls() == []
    if reading is not None:
        with pytest.raises(KeyNotFound):
            result_of(reading)


def test_close_that_fails() -> None:
    """A store that fails to close is logged, and closed as far as anyone is concerned."""
    world = World()
    world.store.fault = KeyStoreError("no")
    with capturedLogs() as events:
        result_of(world.keys.close())
    assert [(event["log_format"], event["why"]) for event in events] == [("failed to close the key store: {why}", "no")]


def test_after_close() -> None:
    """A closed cache answers nothing, and does not touch the store."""
    world = World()
    world.put()
    result_of(world.keys.close())
    calls = list(world.store.calls)
    for call in (
        lambda: world.keys.get("my-key"),
        lambda: world.keys.create("other", new_key()),
        lambda: world.keys.delete("my-key"),
        lambda: world.keys.list("", ""),
        world.keys.status,
    ):
        with pytest.raises(KeyStoreError, match="closed"):
            result_of(call())
    assert world.store.calls == calls


def test_close_from_a_callback_of_close() -> None:
    """Closing again when told that it is closed is answered once."""
    world = World()
    world.threads.by_hand = True
    again: list[Deferred[None]] = []
    world.keys.close().addCallback(lambda _: again.append(world.keys.close()))
    world.threads.finish()
    assert result_of(again[0]) is None
