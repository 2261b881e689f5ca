"""The migration engine on stores in memory, some of which fail or are killed at a chosen call (cli.md 5.10)."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest

from kes.keystore import KeyExists, KeyNotFound, KeyStore, KeyStoreError, Unreachable
from kes.keystore.fs import FSStore
from kes.keystore.memory import MemoryStore
from kes.keystore.settings import FSSettings, MemorySettings
from kes.migration import (
    THREADS,
    Migration,
    MigrationError,
    Mode,
    Outcome,
    Progress,
    Report,
    Result,
    is_same_store,
    open_source,
    open_target,
)
from kes.pattern import parse

OLD, NEW, OTHER = b"old value", b"new value", b"another value"
RECORD = re.compile("kes-migrate-[0-9a-f]{32}").fullmatch


class Killed(BaseException):
    """The process ends here."""


class Hooked(MemoryStore):
    """A store in memory that calls `hook(call, name, when)` before and after what it does; the hook may raise."""

    def __init__(self, **values: bytes) -> None:
        super().__init__()
        self.hook: Callable[[str, str, str], None] = lambda call, name, when: None
        for name, value in values.items():
            super().create(name.replace("_", "-"), value)

    def create(self, name: str, value: bytes) -> None:
        self.hook("create", name, "before")
        super().create(name, value)
        self.hook("create", name, "after")

    def get(self, name: str) -> bytes:
        self.hook("get", name, "before")
        return super().get(name)

    def delete(self, name: str) -> None:
        self.hook("delete", name, "before")
        super().delete(name)
        self.hook("delete", name, "after")

    def list(self, prefix: str, start_at: str, limit: int) -> tuple[list[str], str]:
        self.hook("list", prefix, "before")
        return super().list(prefix, start_at, limit)


def failing(*points: tuple[str, str, str], error: type[BaseException] = KeyStoreError) -> Callable[..., None]:
    """A hook that raises at each of `points` (call, name, when), once."""
    left = [*points]

    def hook(call: str, name: str, when: str) -> None:
        point = (call, "RECORD" if RECORD(name) else name, when)
        if point in left:
            left.remove(point)
            raise error(" ".join(point))

    return hook


def migrate(
    source: KeyStore,
    target: KeyStore,
    mode: Mode = Mode.CREATE,
    pattern: str = "*",
    *,
    dry_run: bool = False,
    tell: Callable[[Progress], None] = lambda progress: None,
    stop: threading.Event | None = None,
) -> Report:
    migration = Migration(source, target, parse(pattern), mode, dry_run=dry_run)
    return migration.run(tell, stop or threading.Event())


def contents(store: KeyStore) -> dict[str, bytes]:
    """All names of a store and their values."""
    names, following = store.list("", "", 0)
    while following:
        more, following = store.list("", following, 0)
        names += more
    return {name: store.get(name) for name in names}


def counts(report: Report) -> tuple[int, int, int, int]:
    progress = report.progress
    return progress.migrated, progress.skipped, progress.failed, progress.total


def record(key: str, old: bytes, new: bytes) -> bytes:
    """What a replacement sets aside, as it lies in the stores of those who upgrade."""
    return json.dumps(
        {
            "kes-migrate": "v1",
            "key": key,
            "old": b64encode(old).decode(),
            "new": hashlib.sha256(new).hexdigest(),
        }
    ).encode()


ASIDE = "kes-migrate-" + "0" * 32


# Copying


def test_copies_everything() -> None:
    """All keys are copied byte for byte, over several pages, and the source is as it was."""
    values = {f"key-{number}": b"value \x00\xff %d\n" % number for number in range(2100)}
    source, target = Hooked(), Hooked()
    for name, value in values.items():
        source.create(name, value)
    assert counts(migrate(source, target)) == (2100, 0, 0, 2100)
    assert contents(target) == contents(source) == values


def test_pattern() -> None:
    """Only keys whose whole name matches are copied."""
    source, target = Hooked(a1=NEW, a2=NEW, a10=NEW, b1=NEW), Hooked()
    assert counts(migrate(source, target, pattern="a[0-9]")) == (2, 0, 0, 2)
    assert contents(target) == {"a1": NEW, "a2": NEW}


def test_name_that_matches_nothing() -> None:
    """A name that is no key's is an error before anything is written; a wildcard may match nothing."""
    source, target = Hooked(a=NEW), Hooked()
    with pytest.raises(MigrationError, match=r'^key "b" does not exist in the source$'):
        migrate(source, target, pattern=r"\b")
    assert counts(migrate(source, target, pattern="b*")) == (0, 0, 0, 0)
    assert contents(target) == {}


def test_existing_key_fails() -> None:
    """Without a mode, a key that exists is left and fails, also with the same value, and the others are copied."""
    source, target = Hooked(a=NEW, b=NEW, c=NEW), Hooked(b=OLD, c=NEW)
    report = migrate(source, target)
    assert counts(report) == (1, 0, 2, 3)
    assert report.failed == [Outcome(name, Result.FAILED, "key already exists") for name in "bc"]
    assert contents(target) == {"a": NEW, "b": OLD, "c": NEW}


def test_merge_skips() -> None:
    """--merge leaves keys that exist, and tells which of them differ."""
    source, target = Hooked(a=NEW, b=NEW, c=NEW), Hooked(b=OLD, c=NEW)
    report = migrate(source, target, Mode.MERGE)
    assert counts(report) == (1, 2, 0, 3)
    assert [(outcome.name, outcome.reason) for outcome in report.skipped] == [
        ("b", "exists with another value"),
        ("c", "exists with the same value"),
    ]
    assert contents(target) == {"a": NEW, "b": OLD, "c": NEW}


def test_merge_over_what_cannot_be_read() -> None:
    """--merge skips a key whose present value cannot be read, and says so."""
    source, target = Hooked(a=NEW), Hooked(a=OLD)
    target.hook = failing(("get", "a", "before"))
    report = migrate(source, target, Mode.MERGE)
    assert report.skipped == [Outcome("a", Result.SKIPPED, "exists, but cannot be read: get a before")]


def test_force_replaces() -> None:
    """--force replaces what differs, skips what does not, creates what is missing, and leaves nothing else behind."""
    source, target = Hooked(a=NEW, b=NEW, c=NEW), Hooked(b=OLD, c=NEW, d=OTHER)
    report = migrate(source, target, Mode.FORCE)
    assert counts(report) == (2, 1, 0, 3)
    assert report.skipped == [Outcome("c", Result.SKIPPED, "exists with the same value")]
    assert contents(target) == {"a": NEW, "b": NEW, "c": NEW, "d": OTHER}
    assert (report.settled, report.unsettled) == ([], [])


def test_force_writes_nothing_where_nothing_differs() -> None:
    """--force on a store that has all keys already never deletes or adds an entry."""
    source, target = Hooked(a=NEW), Hooked(a=NEW)
    target.hook = failing(("delete", "a", "before"), ("create", "RECORD", "before"), error=Killed)
    assert counts(migrate(source, target, Mode.FORCE)) == (0, 1, 0, 1)


@pytest.mark.parametrize(
    ("mode", "expected"), [(Mode.CREATE, (1, 0, 2, 3)), (Mode.MERGE, (1, 2, 0, 3)), (Mode.FORCE, (2, 1, 0, 3))]
)
def test_dry_run(mode: Mode, expected: tuple[int, int, int, int]) -> None:
    """A dry run counts as the run would, and changes nothing, not even what an interrupted migration left."""
    source, target = Hooked(a=NEW, b=NEW, c=NEW), Hooked(b=OLD, c=NEW)
    target.create(ASIDE, record("x", OLD, NEW))
    before = contents(target)

    def no_writes(call: str, name: str, when: str) -> None:
        assert call in ("get", "list")

    target.hook = no_writes
    assert counts(migrate(source, target, mode, dry_run=True)) == expected
    assert contents(target) == before


def test_dry_run_over_what_cannot_be_read() -> None:
    """A dry run sees that a key exists though it cannot be read, and that a store that is away says nothing."""
    for error, result in ((KeyStoreError, Result.SKIPPED), (Unreachable, Result.FAILED)):
        source, target = Hooked(a=NEW), Hooked(a=OLD)
        target.hook = failing(("get", "a", "before"), ("get", "a", "before"), error=error)
        report = migrate(source, target, Mode.MERGE, dry_run=True)
        assert [outcome.result for outcome in report.outcomes] == [result]


# Failures


def test_failures_are_listed() -> None:
    """A key that cannot be read or written fails with its reason, sorted by name; the others are copied."""
    source, target = Hooked(a=NEW, b=NEW, c=NEW, d=NEW), Hooked()
    source.hook = failing(("get", "d", "before"))
    target.hook = failing(("create", "b", "before"))
    report = migrate(source, target)
    assert counts(report) == (2, 0, 2, 4)
    assert [(outcome.name, outcome.reason) for outcome in report.failed] == [
        ("b", "create b before"),
        ("d", "cannot be read in the source: get d before"),
    ]
    assert contents(target) == {"a": NEW, "c": NEW}


class Lossy(Hooked):
    """A store that loses the last byte of `NEW`."""

    def create(self, name: str, value: bytes) -> None:
        super().create(name, value[:-1] if value == NEW else value)


def test_copy_that_reads_back_differently() -> None:
    """A copy that is not the source's value fails, and is not left for a next run to take for the key."""
    target = Lossy()
    report = migrate(Hooked(a=NEW), target)
    assert [outcome.reason for outcome in report.failed] == [
        "the target gave back other bytes than it was given, so the copy was removed"
    ]
    assert contents(target) == {}


def test_replacement_that_reads_back_differently() -> None:
    """If a replacement comes out wrong, the old value is put back."""
    target = Lossy(a=OLD)
    report = migrate(Hooked(a=NEW), target, Mode.FORCE)
    assert [outcome.reason for outcome in report.failed] == [
        "the target gave back other bytes than it was given, so the copy was removed; "
        "it was missing, and its old value was put back"
    ]
    assert contents(target) == {"a": OLD}


@pytest.mark.parametrize("when", ["before", "after"])
def test_create_whose_answer_was_lost(when: str) -> None:
    """A create without an answer is tried again; the conflict that this may give is our own, and no conflict."""
    target = Hooked()
    target.hook = failing(("create", "a", when), error=Unreachable)
    assert counts(migrate(Hooked(a=NEW), target)) == (1, 0, 0, 1)
    assert contents(target) == {"a": NEW}


def test_create_without_an_answer_that_someone_else_won() -> None:
    """If what is found after a create without an answer is not our value, the key exists, and is left."""
    target = Hooked()
    fail = failing(("create", "a", "before"), error=Unreachable)

    def hook(call: str, name: str, when: str) -> None:
        try:
            fail(call, name, when)
        except Unreachable:
            MemoryStore.create(target, name, OTHER)
            raise

    target.hook = hook
    assert [outcome.reason for outcome in migrate(Hooked(a=NEW), target).failed] == ["key already exists"]
    assert contents(target) == {"a": OTHER}


def test_old_value_that_cannot_be_read() -> None:
    """--force never removes a value that it could not keep."""
    target = Hooked(a=OLD)
    target.hook = failing(("get", "a", "before"))
    report = migrate(Hooked(a=NEW), target, Mode.FORCE)
    assert [outcome.reason for outcome in report.failed] == [
        "not replaced, as the value it has cannot be read: get a before"
    ]
    assert contents(target) == {"a": OLD}


@pytest.mark.parametrize("when", ["before", "after"])
def test_old_value_that_cannot_be_set_aside(when: str) -> None:
    """--force never removes a value whose copy is not safe, and cleans up if the copy was made after all."""
    target = Hooked(a=OLD)
    target.hook = failing(("create", "RECORD", when))
    report = migrate(Hooked(a=NEW), target, Mode.FORCE)
    assert [outcome.reason for outcome in report.failed] == [
        f"not replaced, as its old value cannot be set aside: create RECORD {when}"
    ]
    assert contents(target) == {"a": OLD}


@pytest.mark.parametrize(
    ("points", "reason", "left"),
    [
        ([("delete", "a", "before")], "delete a before; it has its old value", OLD),
        ([("delete", "a", "after")], "delete a after; it was missing, and its old value was put back", OLD),
        ([("create", "a", "later")], "create a later; it was missing, and its old value was put back", OLD),
        ([("create", "a", "after")], "", NEW),
        ([("delete", "RECORD", "before")], "", NEW),
    ],
)
def test_failed_replacement(points: list[tuple[str, str, str]], reason: str, left: bytes) -> None:
    """Wherever a replacement fails, the key ends up with one of the two values, and nothing else stays."""
    target = Hooked(a=OLD)
    fail = failing(*points)
    deleted = False

    def hook(call: str, name: str, when: str) -> None:
        nonlocal deleted
        fail(call, name, "later" if deleted and (call, when) == ("create", "before") else when)
        deleted |= (call, name, when) == ("delete", "a", "after")

    target.hook = hook
    report = migrate(Hooked(a=NEW), target, Mode.FORCE)
    assert [outcome.reason for outcome in report.failed] == ([reason] if reason else [])
    assert contents(target) == {"a": left}
    assert report.unsettled == []


def test_store_that_goes_away_while_replacing() -> None:
    """If the old value cannot be put back either, it stays set aside, is reported, and the next run puts it back."""
    target = Hooked(a=OLD)
    gone = False

    def hook(call: str, name: str, when: str) -> None:
        nonlocal gone
        gone |= (call, name, when) == ("delete", "a", "after")
        if gone and call in ("create", "delete"):
            raise Unreachable("gone")

    target.hook = hook
    report = migrate(Hooked(a=NEW), target, Mode.FORCE)
    target.hook = failing()
    [aside] = contents(target)
    assert [outcome.reason for outcome in report.failed] == [f'gone; its old value is kept as "{aside}": gone']
    assert report.unsettled == [f'"{aside}", which an interrupted migration set aside: gone']
    report = migrate(Hooked(), target)
    assert report.settled == [
        'key "a": a migration was interrupted while replacing it; it was missing, and its old value was put back'
    ]
    assert contents(target) == {"a": OLD}


# Being killed


@pytest.mark.parametrize("again", [*Mode])
def test_killed_anywhere(again: Mode) -> None:
    """Killed before or after any call, a replacement never loses both values; any next run leaves the key whole.

    A next run with --force finishes the replacement.
    """
    number = 0
    while True:
        source, target = Hooked(a=NEW), Hooked(a=OLD)
        calls = 0

        def hook(call: str, name: str, when: str, last: int = number) -> None:
            nonlocal calls
            if calls == last:
                raise Killed
            calls += 1

        target.hook = hook
        try:
            migrate(source, target, Mode.FORCE)
        except Killed:
            target.hook = failing()
        else:
            break
        kept = b" ".join(contents(target).values())
        assert OLD in kept or NEW in kept or b64encode(OLD) in kept
        assert contents(source) == {"a": NEW}
        report = migrate(source, target, again)
        assert report.unsettled == []
        assert contents(target) in ([{"a": NEW}] if again is Mode.FORCE else [{"a": OLD}, {"a": NEW}])
        number += 1
    assert number == 13  # as many calls, before and after; fewer would mean that it is not killed where it matters


@pytest.mark.parametrize(
    ("present", "after", "settled"),
    [
        (None, OLD, "it was missing, and its old value was put back"),
        (OLD, OLD, "it has its old value"),
        (NEW, NEW, "it has its new value"),
    ],
)
def test_settling(present: bytes | None, after: bytes, settled: str) -> None:
    """A run of any pattern first settles what an earlier one set aside, from a source that knows nothing of it."""
    target = Hooked() if present is None else Hooked(a=present)
    target.create(ASIDE, record("a", OLD, NEW))
    report = migrate(Hooked(b=NEW), target, pattern="b")
    assert report.settled == [f'key "a": a migration was interrupted while replacing it; {settled}']
    assert contents(target) == {"a": after, "b": NEW}


def test_third_value() -> None:
    """A key that has a value that no migration gave it is left, and so is what was set aside; it is reported."""
    target = Hooked(a=OTHER)
    target.create(ASIDE, record("a", OLD, NEW))
    before = contents(target)
    for mode in (Mode.CREATE, Mode.MERGE):
        report = migrate(Hooked(), target, mode)
        assert report.unsettled == [
            f'key "a": it has neither its old nor its new value; the old one is kept as "{ASIDE}"'
        ]
        assert contents(target) == before


def test_third_value_replaced() -> None:
    """Once the key has been given its new value, what was set aside earlier goes."""
    target = Hooked(a=OTHER)
    target.create(ASIDE, record("a", OLD, NEW))
    report = migrate(Hooked(a=NEW), target, Mode.FORCE)
    assert report.unsettled == []
    assert contents(target) == {"a": NEW}


@pytest.mark.parametrize(
    "value",
    [b"x", b"{}", record("a", OLD, NEW)[:-1], record("../a", OLD, NEW), record("a", OLD, NEW).replace(b"v1", b"v2")],
)
def test_key_named_like_a_record(value: bytes) -> None:
    """A key that is only named as what is set aside is a key: it is copied, and left where it is."""
    source, target = Hooked(), Hooked()
    for store in (source, target):
        store.create(ASIDE, value)
    target.create("kes-migrate-me", NEW)
    assert counts(migrate(source, target, Mode.MERGE)) == (0, 1, 0, 1)
    assert counts(migrate(source, Hooked())) == (1, 0, 0, 1)
    assert contents(target) == {ASIDE: value, "kes-migrate-me": NEW}


def test_record_in_the_source() -> None:
    """What was set aside in the source, when that was a target, is no key and not copied; it is reported."""
    source, target = Hooked(a=NEW), Hooked()
    source.create(ASIDE, record("a", OLD, NEW))
    report = migrate(source, target)
    assert [(outcome.name, outcome.reason) for outcome in report.skipped] == [
        (ASIDE, "no key, but what an interrupted migration into the source set aside")
    ]
    assert contents(target) == {"a": NEW}


# Stopping, progress, listings


def test_stop_settles_the_key() -> None:
    """A stop amid a replacement waits until the key is settled; no further key is begun, and that is reported."""
    source, target, stop = Hooked(), Hooked(), threading.Event()
    for number in range(100):
        source.create(f"k{number}", NEW)
        target.create(f"k{number}", OLD)

    def hook(call: str, name: str, when: str) -> None:
        if (call, when) == ("delete", "after"):
            stop.set()

    target.hook = hook
    report = migrate(source, target, Mode.FORCE, stop=stop)
    assert report.interrupted
    assert 0 < report.progress.done < 100
    values = contents(target)
    assert len(values) == 100
    assert [*values.values()].count(NEW) == report.progress.migrated == report.progress.done


def test_stop_before_the_first_key() -> None:
    """A stop while the source is listed writes nothing, and is no "no such key"."""
    target, stop = Hooked(), threading.Event()
    stop.set()
    report = migrate(Hooked(a=NEW), target, pattern="a", stop=stop)
    assert report.interrupted
    assert counts(report) == (0, 0, 0, 0)
    assert contents(target) == {}


def test_stop_after_the_last_key() -> None:
    """A stop that comes when all is done is none."""
    stop = threading.Event()

    def tell(progress: Progress) -> None:
        if progress.done:
            stop.set()

    assert not migrate(Hooked(a=NEW), Hooked(), tell=tell, stop=stop).interrupted


def test_progress() -> None:
    """Progress is told before the first key and after each, in the caller's thread, up to the total."""
    source = Hooked(a=NEW, b=NEW, c=NEW)
    told: list[tuple[int, int]] = []
    threads = set()

    def tell(progress: Progress) -> None:
        told.append((progress.done, progress.total))
        threads.add(threading.current_thread())

    migrate(source, Hooked(b=NEW), Mode.MERGE, tell=tell)
    assert sorted(set(told)) == [*told[:1], (1, 3), (2, 3), (3, 3)]
    assert told[0] == (0, 3)
    assert threads == {threading.current_thread()}


def test_progress_while_the_store_is_slow() -> None:
    """Progress is told also while nothing comes to an end."""
    told = threading.Semaphore(0)
    source = Hooked(a=NEW)

    def wait(call: str, name: str, when: str) -> None:
        assert call != "get" or all(told.acquire(timeout=20) for _ in range(3))

    source.hook = wait
    migrate(source, Hooked(), tell=lambda progress: told.release())


def test_rate() -> None:
    """The rate is what was done by the seconds it took, and 0 as long as no time has passed."""
    assert Progress(9, migrated=1, skipped=2, failed=3, seconds=2.0).rate == 3.0
    assert Progress(9, migrated=1).rate == 0.0


class Broken(Exception):
    pass


def test_caller_that_fails() -> None:
    """If telling progress fails, keys that were begun are finished, no more are begun, and the error goes on."""
    source, target, stop = Hooked(), Hooked(), threading.Event()
    stopped: list[bool] = []
    for number in range(100):
        source.create(f"k{number}", NEW)
        target.create(f"k{number}", OLD)

    def wait_from_the_second_on(call: str, name: str, when: str) -> None:
        if (call, when) == ("get", "before") and name != "k0":
            stopped.append(stop.wait(20))

    def tell(progress: Progress) -> None:
        if progress.done:
            raise Broken

    source.hook = wait_from_the_second_on
    with pytest.raises(Broken):
        migrate(source, target, Mode.FORCE, tell=tell, stop=stop)
    assert all(stopped)
    values = contents(target)
    assert len(values) == 100
    assert 1 <= [*values.values()].count(NEW) <= 1 + THREADS
    assert set(values.values()) == {OLD, NEW}


class Endless(MemoryStore):
    def list(self, prefix: str, start_at: str, limit: int) -> tuple[list[str], str]:
        return ["a"], "a"


def test_listing_that_does_not_end() -> None:
    """A store whose listing goes round in circles is an error, not an endless run."""
    with pytest.raises(KeyStoreError, match=r"^the listing does not get past 'a'$"):
        migrate(Endless(), Hooked())


@pytest.mark.parametrize("which", ["source", "target"])
def test_store_that_cannot_be_listed(which: str) -> None:
    """A store that cannot be listed ends the migration before anything is written."""
    source, target = Hooked(a=NEW), Hooked()
    {"source": source, "target": target}[which].hook = failing(
        ("list", "" if which == "source" else "kes-migrate-", "before"), error=Unreachable
    )
    with pytest.raises(Unreachable):
        migrate(source, target)
    assert contents(target) == {}


# Opening


def test_same_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two paths are the same store if they lead to the same directory, whether it exists yet or not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("keys")
    here = FSSettings(str(tmp_path / "keys"))
    others = [FSSettings(path) for path in ("keys", "./x/../keys/", "link")]
    for _ in range(2):
        assert [is_same_store(here, other) for other in others] == [True] * 3
        assert not is_same_store(here, FSSettings("key"))
        (tmp_path / "keys").mkdir(exist_ok=True)
    assert is_same_store(MemorySettings(), MemorySettings())
    assert not is_same_store(MemorySettings(), here)


def test_source_that_does_not_exist(tmp_path: Path) -> None:
    """A source that is missing is an error, and is not made."""
    with pytest.raises(KeyStoreError, match="there is no such directory to migrate from"):
        open_source(FSSettings(str(tmp_path / "keys")))
    assert [*tmp_path.iterdir()] == []


def test_target_that_does_not_exist(tmp_path: Path) -> None:
    """A target that is missing is made, but by no dry run, to which it is an empty store."""
    settings = FSSettings(str(tmp_path / "keys"))
    target = open_target(settings, dry_run=True)
    with pytest.raises(KeyNotFound):
        target.get("a")
    assert [*tmp_path.iterdir()] == []
    assert isinstance(open_target(settings, dry_run=False), FSStore)
    assert isinstance(open_target(settings, dry_run=True), FSStore)
    target.create("a", NEW)
    with pytest.raises(KeyExists):
        target.create("a", NEW)
