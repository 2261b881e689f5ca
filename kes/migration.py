"""Copying keys from one key store into another, byte for byte, and so that whatever happens no value is lost.

A copy counts once the target has given it back and the bytes were the source's. The source is never changed. One key's
failure does not keep the others from being copied. Nothing here writes to a terminal or takes a signal.

Replacing a key (`Mode.FORCE`) is deleting and creating it, as stores cannot do more, and a process may be killed at any
point. So the old value is first set aside in the target, as a *record*: a value under a name of its own, which says
which key it belongs to. From then on:

1. The record is written and read back. The key still has its old value.
2. The key is deleted. The old value is in the record, the new one in the source.
3. The key is created with the new value and read back. Both are in the target.
4. The record is deleted.

Every migration into a store, whatever its mode and pattern, begins by settling the records that it finds there: where
the key is missing its old value is put back, and the record goes once the key has its old or its new value again.
A key that has a third value is left to a person, and so is its record. Two migrations into one store at the same time
would settle each other's records, which loses nothing unless one of them is killed then: run one at a time.

Contract: cli.md 5.10, keystores.md 1.4, 1.8 and 1.9.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock

import msgspec

from kes.keystore import KeyExists, KeyNotFound, KeyStore, KeyStoreError, Unreachable, connect
from kes.keystore.memory import MemoryStore
from kes.keystore.settings import FSSettings, KeyStoreSettings
from kes.names import is_valid_name
from kes.pattern import Pattern

THREADS = 8  # calls that wait for the stores at once; more do not make a disk faster
TICK = 0.2  # seconds after which progress is told again even if no key was done
KEY_EXISTS = "key already exists"  # the reason why a key fails in Mode.CREATE

_RECORD_PREFIX = "kes-migrate-"
_is_record_name = re.compile(_RECORD_PREFIX + "[0-9a-f]{32}").fullmatch


class MigrationError(Exception):
    """There is nothing to migrate from, into or of; the text says why. Nothing was changed."""


class Mode(Enum):
    """What happens to a key whose name the target has already."""

    CREATE = "create"  # it fails
    MERGE = "merge"  # it is skipped
    FORCE = "force"  # it is replaced, unless the value is the same


class Result(Enum):
    MIGRATED = "migrated"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one key. `reason` is empty for one that was migrated."""

    name: str
    result: Result
    reason: str = ""


@dataclass(slots=True)
class Progress:
    """How many keys have been migrated, skipped and failed so far, of how many, in how many seconds."""

    total: int
    migrated: int = 0
    skipped: int = 0
    failed: int = 0
    seconds: float = 0.0

    @property
    def done(self) -> int:
        return self.migrated + self.skipped + self.failed

    @property
    def rate(self) -> float:
        """Keys done per second; 0 before the first."""
        return self.done / self.seconds if self.seconds > 0 else 0.0


@dataclass(slots=True)
class Report:
    """The end of a migration. `outcomes` has the keys that were skipped or failed, by name."""

    progress: Progress
    interrupted: bool = False
    outcomes: list[Outcome] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)  # what was done about an earlier, interrupted migration
    unsettled: list[str] = field(default_factory=list)  # and what a person has to look at

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.result is Result.FAILED]

    @property
    def skipped(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.result is Result.SKIPPED]

    def add(self, outcome: Outcome) -> None:
        """Count a key, and keep what is to be said about it."""
        match outcome.result:
            case Result.MIGRATED:
                self.progress.migrated += 1
                return
            case Result.SKIPPED:
                self.progress.skipped += 1
            case Result.FAILED:
                self.progress.failed += 1
        self.outcomes.append(outcome)


def is_same_store(one: KeyStoreSettings, other: KeyStoreSettings) -> bool:
    """Whether both are the same store: equal settings, or directories that are one by whatever path.

    A remote store that two different settings lead to is not recognised; a migration then finds every key in place
    with the same value, and changes nothing.
    """
    match one, other:
        case FSSettings(path=first), FSSettings(path=second):
            with suppress(OSError):  # it does not exist, so that only its path can tell
                return Path(first).samefile(second)
            return Path(first).resolve() == Path(second).resolve()
    return one == other


def open_source(settings: KeyStoreSettings) -> KeyStore:
    """Connect to the store to copy from. KeyStoreError, also for a directory that does not exist: it is not made."""
    if isinstance(settings, FSSettings) and not Path(settings.path).exists():
        raise KeyStoreError(f"key store directory {settings.path!r}: there is no such directory to migrate from")
    return connect(settings)


def open_target(settings: KeyStoreSettings, *, dry_run: bool) -> KeyStore:
    """Connect to the store to copy into. KeyStoreError. A dry run makes no directory; a missing one counts as empty."""
    if dry_run and isinstance(settings, FSSettings) and not Path(settings.path).exists():
        return MemoryStore()
    return connect(settings)


class Migration:
    """One migration of the keys whose names `pattern` matches. A dry run writes nothing and says what would happen."""

    def __init__(
        self,
        source: KeyStore,
        target: KeyStore,
        pattern: Pattern,
        mode: Mode,
        *,
        dry_run: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._target = target
        self._pattern = pattern
        self._mode = mode
        self._dry_run = dry_run
        self._clock = clock
        self._records = _Records(target)

    def run(self, tell: Callable[[Progress], None], stop: Event) -> Report:
        """Migrate, and return what came of it; blocks.

        `tell` is called in this thread, with the same object, when the number of keys is known, after each key and at
        least each `TICK` seconds. Once `stop` is set no further key is begun, and those that were are finished; the
        same happens if `tell` raises, before that goes on to the caller. Raises MigrationError for a pattern without a
        wildcard that is no key's name, and KeyStoreError if a store cannot be listed.
        """
        names = self._names(stop)
        report = Report(Progress(len(names)))
        unsettled: list[str] = []
        if not self._dry_run:
            report.settled, unsettled = self._records.settle_all()
        self._migrate_all(names, report, tell, stop)
        if unsettled or self._records.left:
            try:
                settled, report.unsettled = self._records.settle_all()
            except KeyStoreError as error:
                # The target has gone away meanwhile: what was done, and what was not, must be told all the more.
                settled, report.unsettled = [], [f"what is set aside cannot be settled, run it again: {error}"]
            report.settled += settled
        report.interrupted = stop.is_set() and (not names or report.progress.done < len(names))
        report.outcomes.sort(key=lambda outcome: outcome.name)
        return report

    def _names(self, stop: Event) -> list[str]:
        names = []
        for name in _walk(self._source, ""):
            if stop.is_set():
                return []
            if self._pattern.matches(name):
                names.append(name)
        if not names and self._pattern.literal is not None:
            raise MigrationError(f'key "{self._pattern.literal}" does not exist in the source')
        return names

    def _migrate_all(self, names: list[str], report: Report, tell: Callable[[Progress], None], stop: Event) -> None:
        start = self._clock()
        tell(report.progress)
        remaining, lock = iter(names), Lock()
        outcomes: SimpleQueue[Outcome | None] = SimpleQueue()  # None: a thread has ended

        def work() -> None:
            try:
                while not stop.is_set():
                    with lock:
                        name = next(remaining, None)
                    if name is None:
                        break
                    outcomes.put(self._migrate(name))
            except BaseException:
                stop.set()
                raise
            finally:
                outcomes.put(None)

        with ThreadPoolExecutor(THREADS, "migrate") as pool:
            threads = [pool.submit(work) for _ in range(THREADS)]
            running = len(threads)
            try:
                while running:
                    with suppress(Empty):
                        outcome = outcomes.get(timeout=TICK)
                        if outcome is None:
                            running -= 1
                            continue
                        report.add(outcome)
                    report.progress.seconds = self._clock() - start
                    tell(report.progress)
            except BaseException:
                stop.set()
                raise
        for thread in threads:
            thread.result()

    def _migrate(self, name: str) -> Outcome:
        try:
            value = self._source.get(name)
        except KeyStoreError as error:
            return Outcome(name, Result.FAILED, f"cannot be read in the source: {error}")
        if _is_record_name(name) and _Record.decode(value):
            return Outcome(name, Result.SKIPPED, "no key, but what an interrupted migration into the source set aside")
        try:
            if not self._is_taken(name, value):
                return Outcome(name, Result.MIGRATED)
            match self._mode:
                case Mode.CREATE:
                    return Outcome(name, Result.FAILED, KEY_EXISTS)
                case Mode.MERGE:
                    return Outcome(name, Result.SKIPPED, self._difference(name, value))
                case Mode.FORCE:
                    return self._replace(name, value)
        except KeyStoreError as error:
            return Outcome(name, Result.FAILED, str(error))

    def _is_taken(self, name: str, value: bytes) -> bool:
        """Whether the name is taken. If it is not, the key is created, except in a dry run."""
        if self._dry_run:
            return _exists(self._target, name)
        try:
            _create(self._target, name, value)
        except KeyExists:
            return True
        return False

    def _difference(self, name: str, value: bytes) -> str:
        try:
            return f"exists with {'the same' if self._target.get(name) == value else 'another'} value"
        except KeyStoreError as error:
            return f"exists, but cannot be read: {error}"

    def _replace(self, name: str, value: bytes) -> Outcome:
        try:
            old = self._target.get(name)
        except KeyStoreError as error:
            return Outcome(name, Result.FAILED, f"not replaced, as the value it has cannot be read: {error}")
        if old == value:
            return Outcome(name, Result.SKIPPED, "exists with the same value")
        if not self._dry_run:
            self._records.replace(name, old, value)
        return Outcome(name, Result.MIGRATED)


class _State(Enum):
    """What was found under the name of a key whose old value is set aside, and done about it."""

    OLD = "it has its old value"
    NEW = "it has its new value"
    PUT_BACK = "it was missing, and its old value was put back"
    OTHER = "it has neither its old nor its new value"


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kes-migrate", tag="v1"):
    """What is needed to undo or to finish the replacement of a key, wherever it stopped."""

    key: str
    old: bytes  # the value that is replaced
    new: str  # the SHA-256 of the one that replaces it, in hex

    @staticmethod
    def decode(value: bytes) -> _Record | None:
        """Return the record that `value` is, None if it is none."""
        try:
            record = msgspec.json.decode(value, type=_Record)
        except msgspec.MsgspecError:
            return None
        return record if is_valid_name(record.key) else None


class _Records:
    """The values that are set aside in a store while they are replaced; how and why is said at the top."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self.left = False  # whether `replace` had to leave one behind

    def replace(self, name: str, old: bytes, new: bytes) -> None:
        """Replace the value `old` of the key `name` by `new`.

        Raises KeyStoreError if it could not be done; its text says what the key has now.
        """
        record = _Record(name, old, hashlib.sha256(new).hexdigest())
        aside = _RECORD_PREFIX + secrets.token_hex(16)
        try:
            _create(self._store, aside, msgspec.json.encode(record))
        except KeyStoreError as error:
            self.left = not isinstance(error, KeyExists)  # perhaps it was stored nevertheless
            raise KeyStoreError(f"not replaced, as its old value cannot be set aside: {error}") from error
        try:
            with suppress(KeyNotFound):
                self._store.delete(name)
            _create(self._store, name, new)
        except KeyStoreError as error:
            try:
                state = self._settle(aside, record)
            except KeyStoreError as second:
                self.left = True
                raise KeyStoreError(f'{error}; its old value is kept as "{aside}": {second}') from error
            if state is _State.NEW:
                return
            if state is _State.OTHER:
                self.left = True
            raise KeyStoreError(f"{error}; {state.value}") from error
        try:
            self._store.delete(aside)
        except KeyStoreError:
            self.left = True

    def settle_all(self) -> tuple[list[str], list[str]]:
        """Settle all records of the store; return what was done, and what was found that was not to be settled."""
        settled: list[str] = []
        unsettled: list[str] = []
        for aside in list(_walk(self._store, _RECORD_PREFIX)):
            if not _is_record_name(aside):
                continue
            try:
                record = _Record.decode(self._store.get(aside))
                if record is None:
                    continue
                state = self._settle(aside, record)
            except KeyStoreError as error:
                unsettled.append(f'"{aside}", which an interrupted migration set aside: {error}')
                continue
            if state is _State.OTHER:
                unsettled.append(f'key "{record.key}": {state.value}; the old one is kept as "{aside}"')
            else:
                settled.append(f'key "{record.key}": a migration was interrupted while replacing it; {state.value}')
        return settled, unsettled

    def _settle(self, aside: str, record: _Record) -> _State:
        """See to it that the key has a value that it is to have, and if so, remove the record."""
        try:
            value = self._store.get(record.key)
        except KeyNotFound:
            _create(self._store, record.key, record.old)
            state = _State.PUT_BACK
        else:
            if value == record.old:
                state = _State.OLD
            elif hashlib.sha256(value).hexdigest() == record.new:
                state = _State.NEW
            else:
                return _State.OTHER
        self._store.delete(aside)
        return state


def _exists(store: KeyStore, name: str) -> bool:
    try:
        store.get(name)
    except KeyNotFound:
        return False
    except Unreachable:
        raise
    except KeyStoreError:
        return True  # it cannot be read, but it is there
    return True


def _create(store: KeyStore, name: str, value: bytes) -> None:
    """Create and read back. KeyExists and other KeyStoreErrors; a copy that is not the same is removed again."""
    try:
        store.create(name, value)
    except Unreachable:
        # It may have been stored, or not: if the name is taken now, what is there tells by whom.
        try:
            store.create(name, value)
        except KeyExists:
            if store.get(name) != value:
                raise
            return
    if store.get(name) != value:
        store.delete(name)
        raise KeyStoreError("the target gave back other bytes than it was given, so the copy was removed")


def _walk(store: KeyStore, prefix: str) -> Iterator[str]:
    """Return all names of a store that begin with `prefix`, page by page."""
    start_at = ""
    while True:
        names, following = store.list(prefix, start_at, 0)
        yield from names
        if not following:
            return
        if following <= start_at:
            raise KeyStoreError(f"the listing does not get past {start_at!r}")
        start_at = following
