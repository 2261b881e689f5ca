"""`kes migrate` between directories, as people run it (cli.md 5.10)."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from kes.cli.migrate import Display, bar
from kes.cli.terminal import Terminal
from kes.migration import Progress
from tests.cli.run import Result, environment, kes, on_terminal
from tests.support import KES, TIMEOUT

OLD, NEW = b"old value", b"new value"
BEGINNING = "Starting key migration:\n\n"


class Stores:
    """Two directories of keys, `source` and `target`, and the config files that lead to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source, self.target = folder / "source", folder / "target"
        self.source.mkdir()
        self.target.mkdir()
        self.options = [f"--from={self.config(self.source)}", f"--to={self.config(self.target)}"]

    def config(self, directory: Path | str, name: str = "") -> Path:
        """A config file of nothing but the key store in `directory`."""
        path = self.folder / (name or f"{Path(directory).name}.yml")
        path.write_text(f"keystore: {{fs: {{path: {directory}}}}}\n")
        return path

    def fill(self, *names: str, **targets: bytes) -> None:
        """Put the keys `names` into the source with a new value, and `targets` into the target."""
        for name in names:
            (self.source / name).write_bytes(NEW)
        for name, value in targets.items():
            (self.target / name).write_bytes(value)

    def migrate(self, *arguments: str) -> Result:
        return kes("migrate", *self.options, *arguments, cwd=self.folder)

    def start(self, *arguments: str, **streams: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [KES, "migrate", *self.options, *arguments], cwd=self.folder, env=environment({}), text=True, **streams
        )

    def migrated(self) -> dict[str, bytes]:
        """What is in the target: every entry there is."""
        return {path.name: path.read_bytes() for path in self.target.iterdir()}


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return Stores(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount a small file system: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


# What is copied


def test_more_than_a_page(stores: Stores) -> None:
    """All of 2,100 keys are copied, each byte for byte and for its owner alone."""
    for number in range(2100):
        (stores.source / f"key-{number}").write_bytes(b"value %d" % number)
    result = stores.migrate()
    assert (result.status, result.err) == (0, "")
    # Lines of progress come by the clock, so that there may be any number of them.
    progress = r"(Migrated [ \d]{5}\d (key |keys) \.\.\.\n)*"
    assert re.fullmatch(f"{BEGINNING}{progress}Migrated   2100 keys successfully!\n", result.text)
    assert stores.migrated() == {f"key-{number}": b"value %d" % number for number in range(2100)}
    assert {path.stat().st_mode & 0o777 for path in stores.target.iterdir()} == {0o600}


def test_values_are_not_looked_at(stores: Stores) -> None:
    """Values that are no key, of any bytes, are copied as they are."""
    values = {"text": b"not a key\r\n", "binary": bytes(range(256)), "legacy": b'{"bytes":""}\n', "byte": b"\0"}
    for name, value in values.items():
        (stores.source / name).write_bytes(value)
    assert stores.migrate().status == 0
    assert stores.migrated() == values


def test_foreign_files(stores: Stores) -> None:
    """What is no key in the source's directory is not copied, and no error."""
    stores.fill("key", ".hidden", "notes.txt", "-", "k" * 81)
    (stores.source / "folder").mkdir()
    (stores.source / "loop").symlink_to("loop")
    os.mkfifo(stores.source / "pipe")
    assert stores.migrate().text == f"{BEGINNING}Migrated      1 keys successfully!\n"
    assert stores.migrated() == {"key": NEW}


def test_pattern(stores: Stores) -> None:
    """Only matching names are copied; none is success, as long as there was a wildcard."""
    stores.fill("my-app-1", "my-app-2", "my-app-10", "other")
    assert stores.migrate("my-app-[0-9]").text == f"{BEGINNING}Migrated      2 keys successfully!\n"
    assert stores.migrate(r"o\ther").status == 0
    assert sorted(stores.migrated()) == ["my-app-1", "my-app-2", "other"]
    assert stores.migrate("your-*").text == f"{BEGINNING}Migration succeeded! No keys migrated.\n"


def test_empty_source(stores: Stores) -> None:
    """A source without keys is success."""
    assert stores.migrate() == Result(0, f"{BEGINNING}Migration succeeded! No keys migrated.\n".encode(), "")


def test_name_that_matches_nothing(stores: Stores) -> None:
    """A name without a wildcard that no key has is an error."""
    stores.fill("key")
    result = stores.migrate("key-1499")
    assert result.status == 1
    assert result.err == 'Error: failed to migrate keys: key "key-1499" does not exist in the source\n'
    assert stores.migrated() == {}


# Existing keys


def test_existing_keys(stores: Stores) -> None:
    """A key that exists is an error that names it; the others are copied."""
    stores.fill("a", "b", "c", b=OLD)
    result = stores.migrate()
    assert (result.status, result.text) == (1, f"{BEGINNING}Migrated      2 keys.\n")
    assert result.err == (
        'Error: failed to migrate "b": key already exists\nHint: --merge skips keys that exist, --force replaces them\n'
    )
    assert stores.migrated() == {"a": NEW, "b": OLD, "c": NEW}
    result = stores.migrate()
    assert (result.status, result.err.splitlines()[-2]) == (1, "Error: failed to migrate 3 of 3 keys")
    assert result.err.splitlines()[:3] == [f'failed to migrate "{name}": key already exists' for name in "abc"]


def test_merge(stores: Stores) -> None:
    """--merge skips keys that exist, does not count them, and tells each and whether it differs."""
    stores.fill("a", "b", "c", b=OLD, c=NEW)
    assert stores.migrate("--merge") == Result(
        0,
        f"{BEGINNING}Migrated      1 keys successfully!\n".encode(),
        'Skipped "b": exists with another value\nSkipped "c": exists with the same value\n',
    )
    assert stores.migrated() == {"a": NEW, "b": OLD, "c": NEW}


def test_force(stores: Stores) -> None:
    """--force replaces what differs, and skips what does not."""
    stores.fill("a", "b", "c", b=OLD, c=NEW, d=OLD)
    assert stores.migrate("-f") == Result(
        0,
        f"{BEGINNING}Migrated      2 keys successfully!\n".encode(),
        'Skipped "c": exists with the same value\n',
    )
    assert stores.migrated() == {"a": NEW, "b": NEW, "c": NEW, "d": OLD}


# Failures


def test_source_that_cannot_be_read(stores: Stores) -> None:
    """A key that is empty or too long fails with its name and reason, and with --force its old value stays."""
    stores.fill("empty", "good", "long", empty=OLD, long=OLD)
    (stores.source / "empty").write_bytes(b"")
    (stores.source / "long").write_bytes(b"x" * (1 << 20 | 1))
    result = stores.migrate("--force")
    assert (result.status, result.text) == (1, f"{BEGINNING}Migrated      1 keys.\n")
    assert result.err.splitlines() == [
        "failed to migrate \"empty\": cannot be read in the source: key 'empty': a value has 1 to 1048576 bytes, not 0",
        "failed to migrate \"long\": cannot be read in the source: key 'long': a value has 1 to 1048576 bytes, "
        "not 1048577",
        "Error: failed to migrate 2 of 3 keys",
    ]
    assert stores.migrated() == {"empty": OLD, "good": NEW, "long": OLD}


def test_target_that_cannot_be_read(stores: Stores) -> None:
    """--force does not replace a value that it cannot keep."""
    stores.fill("a", "b", a=b"", b=OLD)
    result = stores.migrate("--force")
    assert (result.status, result.text) == (1, f"{BEGINNING}Migrated      1 keys.\n")
    assert 'Error: failed to migrate "a": not replaced, as the value it has cannot be read: ' in result.err
    assert stores.migrated() == {"a": b"", "b": NEW}


@pytest.mark.parametrize("mode", ["--merge", "--force"])
def test_full_disk(stores: Stores, small_disk: Path, mode: str) -> None:
    """When the target is full, keys that did not fit are listed, the others are whole, and no old value is lost.

    Once there is room, the same command completes the migration.
    """
    stores.options[1] = f"--to={stores.config(small_disk)}"
    names = [f"key-{number}" for number in range(40)]
    for name in names:
        (stores.source / name).write_bytes(NEW * 400)
    (small_disk / "key-0").write_bytes(OLD)
    (small_disk / "ballast").write_bytes(b"x" * (40 << 10))
    result = stores.migrate(mode)
    assert result.status == 1
    assert "No space left on device" in result.err
    assert re.fullmatch(r"Error: failed to migrate \d+ of 40 keys", result.err.splitlines()[-1])
    failed = set(re.findall(r'^failed to migrate "(\S+)"', result.err, re.MULTILINE))
    values = {path.name: path.read_bytes() for path in small_disk.iterdir()}
    assert values.pop("ballast")
    # Whether there was room left to put the old value back depends on which of the threads came first.
    aside = [values.pop(name) for name in [*values] if name.startswith("kes-migrate-")]
    assert set(values) | failed == set(names)
    assert {values[name] for name in values if name != "key-0"} == {NEW * 400}
    if "key-0" in values:
        assert values["key-0"] in (OLD, NEW * 400)
    else:
        assert [base64.b64encode(OLD) in record for record in aside] == [True]
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    assert stores.migrate(mode).status == 0
    assert {path.name for path in small_disk.iterdir()} == set(names)
    assert (small_disk / "key-0").read_bytes() == (OLD if mode == "--merge" else NEW * 400)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("--to t.yml", "no key store to migrate from: name its config file with --from"),
        ("--from s.yml", "no key store to migrate to: name its config file with --to"),
        ("--from s.yml --to t.yml --force --merge", "--force and --merge exclude each other"),
        ("--from s.yml --to t.yml a b", "unexpected argument \"b\". See 'kes migrate --help'"),
        ("--from s.yml --to t.yml -s 127.0.0.1", "--server and --to exclude each other"),
        ("--from s.yml --to t.yml -e tenant", "--enclave and --to exclude each other"),
        ("--from s.yml --to t.yml -a k1:x", "--api-key and --to exclude each other"),
        ("--from s.yml --target t.yml -k", "--insecure and --to exclude each other"),
        ("--from s.yml -s 127.0.0.1", "migrating to a KMS server is not supported: name a config file with --to"),
        ("--from s.yml --to t.yml [a-", 'malformed pattern "[a-": has a [ without its ]'),
        ("--from no.yml --to t.yml", "no.yml: cannot read the config file: No such file or directory"),
        ("--from s.yml --to no.yml", "no.yml: cannot read the config file: No such file or directory"),
        ("--from s.yml --to bad.yml", "bad.yml:2: keystore: given twice, first in line 1; write it once"),
        ("--from s.yml --to s.yml", "'s.yml' and 's.yml' name the same key store"),
        ("--from s.yml --to relative.yml", "'s.yml' and 'relative.yml' name the same key store"),
        ("--from s.yml --to link.yml", "'s.yml' and 'link.yml' name the same key store"),
        (
            "--from gone.yml --to t.yml",
            "gone.yml: cannot open the key store: key store directory 'gone': there is no such directory to migrate "
            "from",
        ),
        (
            "--from s.yml --to file.yml",
            "file.yml: cannot open the key store: key store directory '{folder}/s.yml': Not a directory",
        ),
    ],
)
def test_refused(stores: Stores, arguments: str, error: str) -> None:
    """What cannot be begun is one line, and neither reads nor makes a key or a directory."""
    stores.fill("key")
    stores.config(stores.source, "s.yml")
    stores.config(stores.target, "t.yml")
    stores.config("source/../source/", "relative.yml")
    stores.config("link", "link.yml")
    stores.config("gone", "gone.yml")
    stores.config("s.yml", "file.yml")
    (stores.folder / "link").symlink_to("source")
    (stores.folder / "bad.yml").write_text("keystore: {fs: {path: x}}\nkeystore: {fs: {path: y}}\n")
    before = sorted(stores.folder.rglob("*"))
    result = kes("migrate", *arguments.split(), cwd=stores.folder)
    assert result.error == error.format(folder=stores.folder)
    assert sorted(stores.folder.rglob("*")) == before


def test_other_sections_do_not_matter(stores: Stores) -> None:
    """Of the config files only the keystore section counts, and it may name environment variables."""
    stores.fill("key")
    config = stores.folder / "odd.yml"
    config.write_text("version: v9\ntls: {certificate: none}\nkeystore:\n  fs:\n    path: ${DIRECTORY}\n")
    options = ["migrate", stores.options[0], "--to", str(config)]
    assert kes(*options, cwd=stores.folder, env={"DIRECTORY": str(stores.target)}).status == 0
    assert stores.migrated() == {"key": NEW}
    assert kes(*options, cwd=stores.folder).error == (
        f"{config}:5: keystore.fs.path: the environment variable 'DIRECTORY' is not set; set it, or write the value "
        "here"
    )


# What is printed


def test_target_is_an_alias(stores: Stores) -> None:
    """--target is --to, as the manual has it."""
    stores.fill("key")
    stores.options[1] = stores.options[1].replace("--to", "--target")
    assert stores.migrate().status == 0
    assert stores.migrated() == {"key": NEW}


def test_quiet(stores: Stores) -> None:
    """--quiet prints nothing but errors."""
    stores.fill("a", "b", b=OLD)
    assert stores.migrate("-q", "--merge") == Result(0, b"", "")
    assert stores.migrate("-q", "b").error == 'failed to migrate "b": key already exists'


def test_json(stores: Stores) -> None:
    """--json prints one document with the four counts, also when keys fail."""
    stores.fill("a", "b", "c", b=OLD, c=NEW)
    (stores.source / "d").write_bytes(b"")
    result = stores.migrate("--json", "--merge")
    assert result.status == 1
    assert result.out == b'{"migrated":1,"skipped":2,"failed":1,"total":4}\n'
    assert json.loads(stores.migrate("--json", "x*").out) == {"migrated": 0, "skipped": 0, "failed": 0, "total": 0}


def test_dry_run(stores: Stores) -> None:
    """--dry-run tells what a run would do, and writes nothing, not even the target's directory."""
    stores.fill("a", "b", b=OLD)
    stores.target = stores.folder / "new"
    stores.options[1] = f"--to={stores.config(stores.target)}"
    assert stores.migrate("--dry-run") == Result(
        0, f"{BEGINNING}Would migrate      2 keys. Nothing was changed.\n".encode(), ""
    )
    assert not stores.target.exists()
    stores.target.mkdir()
    stores.fill(b=OLD)
    result = stores.migrate("--dry-run")
    assert (result.status, result.text) == (1, f"{BEGINNING}Would migrate      1 keys. Nothing was changed.\n")
    assert stores.migrate("--dry-run", "--force", "--json").out == b'{"migrated":2,"skipped":0,"failed":0,"total":2}\n'
    assert stores.migrated() == {"b": OLD}


def test_lines_of_progress() -> None:
    """In a pipe there is a line each second: the count in six columns, and `key` up to one, `keys` from two on."""
    steps = [(0.9, 0), (1.0, 0), (1.9, 1), (2.0, 1), (3.5, 2), (4.4, 3), (4.5, 123456)]
    out = StringIO()
    display = Display(Terminal(out, None, {}), Event(), clock=iter([0, *(seconds for seconds, _ in steps)]).__next__)
    display.begin()
    for _, count in steps:
        display.show(Progress(200_000, migrated=count))
    assert out.getvalue().removeprefix(BEGINNING).splitlines() == [
        "Migrated      0 key  ...",
        "Migrated      1 key  ...",
        "Migrated      2 keys ...",
        "Migrated 123456 keys ...",
    ]


@pytest.mark.parametrize(
    ("progress", "width", "expected"),
    [
        (Progress(0), 60, "0 of 0  ╌╌╌"),
        (Progress(2100, migrated=1000, skipped=50, seconds=2), 76, "1050 of 2100  ━━━"),
        (Progress(2100, migrated=2100, seconds=2), 76, "2100 of 2100  ━━━"),
        (Progress(2100, migrated=1000, failed=3, seconds=2), 30, "1003 of 2100   47%  502 key"),
        (Progress(9, migrated=3, seconds=1), 3, ""),
    ],
)
def test_bar(progress: Progress, width: int, expected: str) -> None:
    """The bar begins with the counts, and leaves three columns free: none for the cursor, and two for `^C`."""
    text = bar(progress, width)
    assert text.startswith(expected)
    assert len(text) <= max(0, width - 3)


def test_bar_in_full() -> None:
    """The bar tells how much is done, how fast, how long it may take, and what failed."""
    progress = Progress(2000, migrated=497, failed=3, seconds=2)
    assert bar(progress, 200) == f" 500 of 2000  {'━' * 10}{'╌' * 30}   25%  250 keys/s, 6s left, 3 failed"
    assert bar(progress, 200, stopping=True).endswith("25%  250 keys/s, stopping, 3 failed")


class Screen(StringIO):
    """Standard output that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_bar_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bar covers the one before, and in the end blanks cover it and the `^C` of who interrupted it."""
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    display = Display(Terminal(screen, None, {"COLUMNS": "80"}), Event(), clock=iter([0, 0, 0.05, 1]).__next__)
    display.begin()
    long, short = Progress(2000, migrated=100, failed=1, seconds=1), Progress(2000, migrated=2000)
    for progress in (long, long, short):  # the second comes too early
        display.show(progress)
    display.clear()
    drawn = [bar(progress, 80) for progress in (long, short)]
    assert screen.getvalue().removeprefix(BEGINNING).split("\r") == [
        "",
        drawn[0],
        drawn[0],
        drawn[1].ljust(len(drawn[0]) + 2),
        drawn[1],
        " " * (len(drawn[1]) + 2),
        "",
    ]


def test_terminal(stores: Stores) -> None:
    """On a terminal there is a bar, which is gone in the end, and no escape sequence."""
    stores.fill(*(f"key-{number}" for number in range(50)))
    status, shown = on_terminal(KES, "migrate", *stores.options, cwd=stores.folder, columns=80)
    assert status == 0
    assert "\x1b" not in shown
    assert " 0 of 50  ╌╌╌" in shown
    *_, blank, last, nothing = re.split("[\r\n]", shown)
    assert (blank.strip(), last, nothing) == ("", "Migrated     50 keys successfully!", "")


def test_terminal_with_much_to_tell(stores: Stores) -> None:
    """On a terminal no more than 20 skipped keys are listed, and how many more there are."""
    names = [f"key-{number:02}" for number in range(50)]
    stores.fill(*names, **dict.fromkeys(names, NEW))
    _, shown = on_terminal(KES, "migrate", "--merge", *stores.options, cwd=stores.folder, columns=80)
    assert len(re.findall('^Skipped "key-', shown, re.MULTILINE)) == 20
    assert shown.endswith("… and 30 more; redirect standard error to get them all\n")
    assert stores.migrate("--merge").err.count("Skipped") == 50


def test_closed_pipe(stores: Stores) -> None:
    """Nobody reading the progress ends the migration silently; what was begun is settled."""
    names = [f"key-{number}" for number in range(200)]
    stores.fill(*names, **dict.fromkeys(names, OLD))
    reader, writer = os.pipe()
    os.close(reader)
    with stores.start("--force", stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        _, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, errors) == (128 + signal.SIGPIPE, "")
    assert sorted(stores.migrated()) == sorted(names)


# Interruptions


MANY = 5000


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(stores: Stores, number: int, status: int) -> None:
    """A signal ends a migration with its status after the keys under way; --merge completes it."""
    for index in range(MANY):
        (stores.source / f"key-{index}").write_bytes(b"value %d" % index)
    with stores.start(stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for(process, lambda: Target(stores.target).keys)
        process.send_signal(number)
        output, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == status
    migrated = stores.migrated()
    assert 0 < len(migrated) < MANY
    assert output.splitlines()[-1] == f"Migrated {len(migrated):6} keys."
    assert errors == (
        f"Error: interrupted after {len(migrated)} of {MANY} keys; run it again with --merge for the others\n"
    )
    for index in range(1000, MANY):  # the rest would only take time
        (stores.source / f"key-{index}").unlink()
    assert stores.migrate("--merge", "--quiet") == Result(0, b"", "")
    assert stores.migrated() == migrated | {f"key-{index}": b"value %d" % index for index in range(1000)}


def test_ignored_signal(stores: Stores) -> None:
    """A signal that the process was started to ignore, as in a shell's background, does not stop it."""
    for index in range(500):
        (stores.source / f"key-{index}").write_bytes(NEW)
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", KES, "migrate", *stores.options]
    with subprocess.Popen(command, env=environment({}), stdout=subprocess.PIPE) as process:
        wait_for(process, lambda: Target(stores.target).keys)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert len(stores.migrated()) == 500


def test_killed_while_replacing(stores: Stores) -> None:
    """Whenever --force is killed, each key has its old or new value, or its old one is set aside; a rerun finishes.

    Each round gives all keys new values and kills the process once some have theirs.
    """
    names = [f"key-{number}" for number in range(300)]
    stores.fill(*names, **dict.fromkeys(names, OLD))
    set_aside = 0
    for number in range(8):
        new = b"value of round %d" % number
        before = Target(stores.target).values()
        assert set(before) == set(names)
        for name in names:
            (stores.source / name).write_bytes(new)
        enough = random.randint(1, 60)
        with stores.start("--force", stdout=subprocess.DEVNULL) as process:
            wait_for(process, lambda: Target(stores.target).count(new) >= enough)  # noqa: B023
            process.kill()
        target = Target(stores.target)
        set_aside += len(target.aside)
        for name in names:
            assert target.keys.get(name) == new or before[name] in (target.keys.get(name), target.aside.get(name))
    assert set_aside  # otherwise it was never killed where it matters
    assert stores.migrate("--force").status == 0
    assert Target(stores.target) == Target(stores.source)


class Target:
    """What lies in a directory: keys, and by their keys' names the old values that were set aside."""

    def __init__(self, directory: Path) -> None:
        self.keys: dict[str, bytes] = {}
        self.aside: dict[str, bytes] = {}
        for path in directory.iterdir():
            try:
                value = path.read_bytes()
            except FileNotFoundError:
                continue  # it has just been removed
            if path.name.startswith("kes-migrate-"):
                record = json.loads(value)
                self.aside[record["key"]] = base64.b64decode(record["old"])
            elif not path.name.startswith("."):  # what the store writes before it has its name
                self.keys[path.name] = value

    def values(self) -> dict[str, bytes]:
        """The values that the keys have, or are to get back."""
        return self.aside | self.keys

    def count(self, value: bytes) -> int:
        return list(self.keys.values()).count(value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Target) and (self.keys, self.aside) == (other.keys, other.aside)

    __hash__ = None


def wait_for(process: subprocess.Popen[Any], reached: Callable[[], object]) -> None:
    """Look until the migration has got to where it is wanted."""
    while not reached():
        assert process.poll() is None, "the migration ended before"
