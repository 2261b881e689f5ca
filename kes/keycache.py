"""The cache in front of the key store, and the only door through which the server reaches it.

A hit answers at once: no thread, no Deferred, no timer. A miss reads the store in a thread, once for however many ask
for the same key meanwhile. A key that was deleted or created through this cache is never answered from what was read
before. Once it has expired, a key is used only while the store is down, for as long as the configuration allows, and
is dropped from memory soon after. Rules: README section 6 "Cache", keystores.md 1.6.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from kes.crypto import Key
from kes.crypto.storedkey import InvalidStoredKey, decode, encode
from kes.keystore import PAGE, KeyNotFound, KeyStore, KeyStoreError, Unreachable

POLL_INTERVAL = 10.0  # seconds between probes of the store; one still unanswered at the next is a failed one
MAX_KEYS = 100_000  # keys in the cache, of about 1 KiB each
CLOSE_TIMEOUT = 20.0  # seconds; more than any request may take, so that only a stuck store is left behind

# An outage is known at the latest at the end of the second poll that it meets. Keys that expired meanwhile must be
# there still; a third interval allows for polls that come late.
_RETAINED = 3 * POLL_INTERVAL  # seconds

_P = ParamSpec("_P")
_T = TypeVar("_T")

log = Logger()


class Run(Protocol):
    """Calls a function in a thread.

    Cancelling the Deferred fires it with CancelledError at once. If no thread has begun with the call by then, it is
    never made; otherwise it goes on to its end, and its outcome is dropped. RuntimeError: no thread is to be had.
    """

    def __call__(self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Deferred[_T]: ...


class Timer(Protocol):
    """What the cache needs of an IDelayedCall."""

    def active(self) -> bool: ...
    def cancel(self) -> None: ...


class Clock(Protocol):
    """What the cache needs of an IReactorTime."""

    def seconds(self) -> float: ...
    def callLater(self, delay: float, function: Callable[..., Any], /) -> Timer: ...


class KeyCache:
    """The keys of `store`.

    Every Deferred may be cancelled, and otherwise fails only with `KeyStoreError` or a subclass of it. `any`, `unused`
    and `offline` are the settings `cache.expiry.*` in seconds: for how long a key may be used after it was read, after
    it was last used, and during an outage whatever the other two say; 0 is not at all.
    """

    def __init__(
        self,
        store: KeyStore,
        run: Run,
        clock: Clock,
        *,
        any: float,  # noqa: A002 - the setting's name
        unused: float,
        offline: float,
        max_keys: int = MAX_KEYS,
    ) -> None:
        self.hits = 0
        self.misses = 0
        self._store = store
        self._run = run
        self._clock = clock
        self._seconds = clock.seconds
        self._any = any
        self._unused = unused
        self._offline = offline
        self._max_keys = max_keys
        self._entries: dict[str, _Entry] = {}  # in the order in which they were read
        self._reads: dict[str, _Read] = {}
        self._down_since: float | None = None
        self._serve_until = 0.0  # before that time expired keys are used too
        self._polling = LoopingCall(self._tick)
        self._polling.clock = cast(IReactorTime, clock)
        self._probe: Deferred[float] | None = None
        self._running = 0  # calls whose end is waited for
        self._closers: list[Deferred[None]] = []
        self._deadline: Timer | None = None
        self._closed = False

    @property
    def up(self) -> bool:
        """Whether the store was reached when it was called or probed last."""
        return self._down_since is None

    @property
    def size(self) -> int:
        """How many keys are in memory, those among them that have expired but would serve during an outage."""
        return len(self._entries)

    def start(self) -> None:
        """Start the store, and begin to probe it, first in `POLL_INTERVAL` seconds. Call it once."""
        self._store.start()
        self._polling.start(POLL_INTERVAL, now=False).addErrback(
            lambda failure: log.failure("the key store is no longer probed", failure)
        )

    def peek(self, name: str) -> Key | None:
        """Return the key if it is in the cache and may be used, and count that as a hit and as its last use."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        now = self._seconds()
        if (now >= entry.expiry or now - entry.used >= self._unused) and now >= self._serve_until:
            return None
        entry.used = now
        self.hits += 1
        return entry.key

    def get(self, name: str) -> Deferred[Key]:
        """Return the key, from the store if need be. Fails with `KeyNotFound`, or if what is stored is not a key.

        Cancelling it leaves others who wait for the same key undisturbed.
        """
        key = self.peek(name)
        if key is not None:
            return succeed(key)
        self.misses += 1
        read = self._reads.get(name)
        if read is not None:
            return read.join()
        read = self._reads[name] = _Read()
        waiter = read.join()
        read.call = call = self._call(partial(_read, self._store, name))
        call.addCallback(self._read_ended, name, read).addErrback(self._read_failed, name, read)
        return waiter

    def create(self, name: str, key: Key) -> Deferred[None]:
        """Store a new key; fails with `KeyExists`. Cancelled, it may have been stored or not."""

        def ended(failure: Failure | None) -> None:
            # What was cached was another key of that name, which some other server has deleted.
            if failure is None:
                self.forget(name)

        return self._change(partial(_create, self._store, name, key), ended)

    def delete(self, name: str) -> Deferred[None]:
        """Delete a key; from now on it is not answered from the cache, whatever becomes of this call."""
        self.forget(name)
        # A read that began meanwhile may have come before the deletion.
        return self._change(partial(self._store.delete, name), lambda _: self.forget(name))

    def forget(self, name: str) -> None:
        """Drop a key from the cache. A read of it under way is no longer kept: it answers those who wait for it now."""
        self._entries.pop(name, None)
        self._reads.pop(name, None)

    def list(self, prefix: str, start_at: str) -> Deferred[tuple[list[str], str]]:
        """Return a page of names and where the next one starts: `KeyStore.list`."""
        return self._call(partial(self._store.list, prefix, start_at, PAGE))

    def status(self) -> Deferred[float]:
        """Return the store's latency in seconds; fails with `Unreachable` at once while it is known to be down."""
        if self._down_since is not None:
            seconds = self._seconds() - self._down_since
            return fail(Unreachable(f"the key store has been down for {seconds:.0f} s"))
        return self._call(self._store.status)

    def close(self, timeout: float = CLOSE_TIMEOUT) -> Deferred[None]:
        """Stop probing, let the calls under way end, close the store. Fires then, or after `timeout` seconds.

        May be called again. Calls made meanwhile are still served; when the store is closed they fail.
        """
        closer: Deferred[None] = Deferred()
        self._closers.append(closer)
        if len(self._closers) == 1:
            self._deadline = self._clock.callLater(timeout, self._close_anyway)
            if self._polling.running:
                self._polling.stop()
            if self._probe is not None:
                self._probe.cancel()
            self._close_if_idle()
        elif self._deadline is None:
            closer.callback(None)
        return closer

    def _call(self, function: Callable[[], _T]) -> Deferred[_T]:
        """Call a function of the store in a thread."""
        if self._closed:
            return fail(KeyStoreError("the key store is closed"))
        self._running += 1
        return self._run(_only_store_errors, function).addBoth(self._ended)

    def _ended(self, result: _T | Failure) -> _T | Failure:
        self._running -= 1
        if isinstance(result, Failure) and result.check(RuntimeError):
            result = Failure(KeyStoreError(f"the call was not made: {result.value}"))
        if isinstance(result, Failure) and isinstance(result.value, Unreachable):
            self._went_down(result.value)
        self._close_if_idle()
        return result

    def _change(self, function: Callable[[], None], ended: Callable[[Failure | None], None]) -> Deferred[None]:
        """Call a function that changes the store, and `ended` when it is over, also if it was given up meanwhile.

        So what is cancelled here is the waiting, not the call: the cache must know when the store has changed.
        """
        waiter: Deferred[None] = Deferred()

        def unless_given_up() -> None:
            if waiter.called:
                raise KeyStoreError("given up")  # to tell `ended`: nobody else listens any more
            function()

        def deliver(result: Failure | None) -> None:
            ended(result)
            waiter.callback(result)  # does nothing if it was cancelled

        self._call(unless_given_up).addBoth(deliver)
        return waiter

    def _read_ended(self, key: Key, name: str, read: _Read) -> None:
        if self._reads.get(name) is read:
            del self._reads[name]
            self._keep(name, key)
        read.fire(key)

    def _read_failed(self, failure: Failure, name: str, read: _Read) -> None:
        if self._reads.get(name) is read:
            del self._reads[name]
            if isinstance(failure.value, KeyNotFound):
                self._entries.pop(name, None)  # expired, but an outage would bring it back
        read.fire(failure)

    def _keep(self, name: str, key: Key) -> None:
        self._entries.pop(name, None)  # the new one goes to the end
        if len(self._entries) >= self._max_keys:
            del self._entries[next(iter(self._entries))]
        now = self._seconds()
        self._entries[name] = _Entry(key, now + self._any, now)

    def _tick(self) -> None:
        if self._probe is None:
            self._probe = self._call(self._store.status)
            self._probe.addBoth(self._probed)
        else:  # not a second one: a store that hangs would take a thread each time
            self._went_down(Unreachable(f"no answer to a probe for {POLL_INTERVAL:.0f} s"))
        self._sweep()

    def _probed(self, result: float | Failure) -> None:
        self._probe = None
        if isinstance(result, Failure):
            self._went_down(result.value)
        else:
            self._came_back()

    def _went_down(self, why: BaseException | None) -> None:
        if self._down_since is not None or self._closers:
            return
        self._down_since = self._seconds()
        log.error("the key store is down: {why}", why=str(why))
        if not self._offline:
            return
        self._serve_until = self._down_since + self._offline
        for name, read in [*self._reads.items()]:
            entry = self._entries.get(name)
            if entry is not None:
                read.give_up(entry.key)

    def _came_back(self) -> None:
        if self._down_since is not None:
            log.info("the key store is back after {seconds:.0f} s", seconds=self._seconds() - self._down_since)
            self._down_since = None
            self._serve_until = 0.0

    def _sweep(self) -> None:
        """Drop the keys that expired so long ago that no outage can bring them back."""
        now = self._seconds()
        if now < self._serve_until:
            return
        latest = now - _RETAINED if self._offline else now
        unused = latest - self._unused
        for name in [name for name, e in self._entries.items() if e.expiry <= latest or e.used <= unused]:
            del self._entries[name]

    def _close_if_idle(self) -> None:
        if self._closers and not self._running and not self._closed:
            self._close_store().addBoth(lambda _: self._report_closed())

    def _close_anyway(self) -> None:
        log.warn("the key store is closed with {running} calls still under way", running=self._running)
        if not self._closed:
            self._close_store()
        self._report_closed()

    def _close_store(self) -> Deferred[None]:
        self._closed = True
        self._entries.clear()
        return self._run(self._store.close).addErrback(
            lambda failure: log.error("failed to close the key store: {why}", why=str(failure.value))
        )

    def _report_closed(self) -> None:
        if self._deadline is None:
            return
        if self._deadline.active():
            self._deadline.cancel()
        self._deadline = None
        for closer in [*self._closers]:
            closer.callback(None)


class _Entry:
    """A key, when it expires whether it is used or not, and when it was last used: seconds of the clock."""

    __slots__ = ("expiry", "key", "used")

    def __init__(self, key: Key, expiry: float, used: float) -> None:
        self.key = key
        self.expiry = expiry
        self.used = used


class _Read:
    """A read of one key under way, and those who wait for it."""

    __slots__ = ("_waiters", "call")

    def __init__(self) -> None:
        self._waiters: list[Deferred[Key]] = []
        self.call: Deferred[Key] | None = None

    def join(self) -> Deferred[Key]:
        waiter: Deferred[Key] = Deferred(self._leave)
        self._waiters.append(waiter)
        return waiter

    def fire(self, result: Key | Failure) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.called:  # the callbacks of an earlier one may have cancelled it
                waiter.callback(result)

    def give_up(self, key: Key) -> None:
        """Answer with `key` instead."""
        self.fire(key)
        if self.call is not None:
            self.call.cancel()

    def _leave(self, waiter: Deferred[Key]) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
            if not self._waiters and self.call is not None:
                self.call.cancel()


def _only_store_errors(function: Callable[[], _T]) -> _T:
    """Call `function`. What a store raises against its contract is an error of the store, not of the server."""
    try:
        return function()
    except KeyStoreError:
        raise
    except Exception as e:
        # The type alone: the text may quote what was read.
        raise KeyStoreError(f"unexpected {type(e).__name__} from the key store") from e


def _read(store: KeyStore, name: str) -> Key:
    value = store.get(name)
    try:
        return decode(value)
    except InvalidStoredKey as e:
        raise KeyStoreError(f"key {name!r}: what is stored is not a key: {e}") from None


def _create(store: KeyStore, name: str, key: Key) -> None:
    store.create(name, encode(key))
