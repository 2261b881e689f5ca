"""`kes migrate`: copies keys between two key stores (cli.md 5.10). What is done to them is `kes.migration`'s.

Progress goes to standard output; which keys were skipped or failed, and why, follows on standard error once all are
done. Standard output gets nothing after the first line there.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from threading import Event
from types import FrameType

from kes.cli.command import Given, shown
from kes.cli.errors import CommandError
from kes.cli.terminal import Terminal, one_line
from kes.config import duration
from kes.config.errors import ConfigError
from kes.config.loader import load_keystore
from kes.keystore import KeyStore, KeyStoreError
from kes.keystore.settings import KeyStoreSettings
from kes.migration import (
    KEY_EXISTS,
    Migration,
    MigrationError,
    Mode,
    Progress,
    Report,
    is_same_store,
    open_source,
    open_target,
)
from kes.pattern import Pattern, PatternError, parse

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LINE = 1.0  # seconds between two lines of progress
_REDRAW = 0.1  # and between two states of the bar
_ECHO = len("^C")  # what a terminal shows behind the bar when it is interrupted
_MOST_LINES = 20  # of keys that were skipped, and of those that failed, on a terminal
_AGAIN = {
    Mode.CREATE: "run it again with --merge for the others",
    Mode.MERGE: "run it again for the others",
    Mode.FORCE: "run it again for the others",
}


def run(given: Given, terminal: Terminal) -> int:
    """Migrate; the exit status. Raises CommandError for what keeps it from beginning, and if a key failed."""
    mode = _mode(given)
    source_file, target_file = _files(given)
    pattern = _pattern(given)
    quiet, dry_run = given.flag("quiet"), given.flag("dry-run")
    source_settings = _settings(source_file, terminal, quiet=quiet)
    target_settings = _settings(target_file, terminal, quiet=quiet)
    if is_same_store(source_settings, target_settings):
        raise CommandError(f"'{source_file}' and '{target_file}' name the same key store")
    with (
        closing(_opened(source_file, lambda: open_source(source_settings))) as source,
        closing(_opened(target_file, lambda: open_target(target_settings, dry_run=dry_run))) as target,
        _deferred_signals() as (stop, received),
    ):
        for file, store in () if quiet else ((source_file, source), (target_file, target)):
            for warning in store.warnings:
                terminal.warning(f"{file}: {warning}")
        display = Display(terminal, stop, silent=quiet or terminal.wants_json, dry_run=dry_run)
        migration = Migration(source, target, pattern, mode, dry_run=dry_run)
        display.begin()
        try:
            report = migration.run(display.show, stop)
        except (MigrationError, KeyStoreError) as error:
            raise CommandError(f"failed to migrate keys: {error}") from error
        finally:
            display.clear()
    display.end(report)
    if terminal.wants_json:
        progress = report.progress
        counts = {"migrated": progress.migrated, "skipped": progress.skipped, "failed": progress.failed}
        terminal.json({**counts, "total": progress.total})
    terminal.flush()
    return _conclude(report, terminal, mode, quiet=quiet, number=received[0] if report.interrupted else 0)


def _mode(given: Given) -> Mode:
    if given.flag("force") and given.flag("merge"):
        raise CommandError("--force and --merge exclude each other")
    return Mode.FORCE if given.flag("force") else Mode.MERGE if given.flag("merge") else Mode.CREATE


def _files(given: Given) -> tuple[str, str]:
    """The two config files."""
    source, target = given.text("from"), given.text("to")
    if not source:
        raise CommandError("no key store to migrate from: name its config file with --from")
    kms = next((name for name in ("server", "enclave", "api-key", "insecure") if given.is_set(name)), None)
    if kms and target:
        raise CommandError(f"--{kms} and --to exclude each other")
    if kms:
        raise CommandError("migrating to a KMS server is not supported: name a config file with --to")
    if not target:
        raise CommandError("no key store to migrate to: name its config file with --to")
    return source, target


def _pattern(given: Given) -> Pattern:
    text = given.words[0] if given.words else "*"
    try:
        return parse(text)
    except PatternError as error:
        raise CommandError(f"malformed pattern {shown(text)}: {error}") from None


def _settings(file: str, terminal: Terminal, *, quiet: bool) -> KeyStoreSettings:
    try:
        settings, warnings = load_keystore(file, os.environ)
    except ConfigError as error:
        raise CommandError(str(error)) from error
    for warning in () if quiet else warnings:
        terminal.warning(warning)
    return settings


def _opened(file: str, connect: Callable[[], KeyStore]) -> KeyStore:
    try:
        store = connect()
    except KeyStoreError as error:
        raise CommandError(f"{file}: cannot open the key store: {error}") from error
    store.start()
    return store


@contextmanager
def _deferred_signals() -> Iterator[tuple[Event, list[int]]]:
    """Let signals that end the process set an event, for as long as keys are under way; and collect their numbers.

    One that is ignored, as in a shell's background, stays ignored.
    """
    stop, received = Event(), list[int]()

    def receive(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        stop.set()

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    taken = [number for number in _SIGNALS if before[number] is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, receive)
    try:
        yield stop, received
    finally:
        for number in taken:
            signal.signal(number, before[number])


def _conclude(report: Report, terminal: Terminal, mode: Mode, *, quiet: bool, number: int) -> int:
    """Say on standard error what is to be said about single keys; the exit status, of `number` if that is a signal."""
    if not quiet:
        for note in report.settled:
            terminal.warning(note)
        _list(terminal, [f'Skipped "{outcome.name}": {outcome.reason}' for outcome in report.skipped])
    failed = [f'failed to migrate "{outcome.name}": {outcome.reason}' for outcome in report.failed]
    problems = failed + report.unsettled
    progress = report.progress
    if number:
        _list(terminal, problems)
        terminal.error(f"interrupted after {progress.done} of {progress.total} keys; {_AGAIN[mode]}")
        return 128 + number
    hints = ["--merge skips keys that exist, --force replaces them"] if _conflicts(report, mode) else []
    if len(problems) == 1:
        raise CommandError(problems[0], *hints)
    if problems:
        _list(terminal, problems)
        raise CommandError(
            f"failed to migrate {len(failed)} of {progress.total} keys"
            if failed
            else f"{len(problems)} keys that an earlier migration was replacing need to be looked at",
            *hints,
        )
    return 0


def _conflicts(report: Report, mode: Mode) -> bool:
    return mode is Mode.CREATE and any(outcome.reason == KEY_EXISTS for outcome in report.failed)


def _list(terminal: Terminal, lines: list[str]) -> None:
    """Write lines to standard error: all of them, unless a person would have to scroll for what comes after."""
    if len(lines) > _MOST_LINES and sys.stderr is not None and sys.stderr.isatty():
        more = f"… and {len(lines) - _MOST_LINES} more; redirect standard error to get them all"
        lines = [*lines[:_MOST_LINES], more]
    terminal.complain("".join(f"{one_line(line)}\n" for line in lines))


class Display:
    """Progress on standard output: a line each second, or, on a terminal, a bar that is drawn over itself.

    The bar is blanks and a carriage return, and no escape sequence: it needs nothing of the terminal, and leaves it as
    it was.
    """

    def __init__(
        self,
        terminal: Terminal,
        stop: Event,
        *,
        silent: bool = False,
        dry_run: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._terminal = terminal
        self._clock = clock
        self._stop = stop
        self._silent = silent
        self._dry_run = dry_run
        self._verb = "Would migrate" if dry_run else "Migrated"
        self._bar = not silent and terminal.interactive and os.environ.get("TERM") != "dumb"
        self._next = 0.0
        self._drawn = 0  # characters of the bar that is on the screen

    def begin(self) -> None:
        if not self._silent:
            self._terminal.print("Starting key migration:", "", flush=True)
            self._next = self._clock() + (0 if self._bar else _LINE)

    def show(self, progress: Progress) -> None:
        """Show the progress, if it is time to."""
        now = self._clock()
        if self._silent or now < self._next:
            return
        self._next = now + (_REDRAW if self._bar else _LINE)
        if self._bar:
            text = bar(progress, self._terminal.width, stopping=self._stop.is_set())
            self._terminal.write(f"\r{text.ljust(self._drawn)}\r{text}", flush=True)
            self._drawn = len(text) + _ECHO
        else:
            count = progress.migrated
            self._terminal.print(f"{self._verb} {count:6} {'keys' if count > 1 else 'key '} ...", flush=True)

    def clear(self) -> None:
        """Take the bar from the screen, with the `^C` behind it."""
        if self._drawn:
            with suppress(CommandError, BrokenPipeError):  # the terminal is gone, which is not the news
                self._terminal.write("\r" + " " * min(self._drawn, self._terminal.width - 1) + "\r", flush=True)

    def end(self, report: Report) -> None:
        """Print the last line."""
        if self._silent:
            return
        count = report.progress.migrated
        complete = not (report.interrupted or report.unsettled or report.progress.failed)
        if self._dry_run:
            self._terminal.print(f"{self._verb} {count:6} keys. Nothing was changed.")
        elif not complete:
            self._terminal.print(f"{self._verb} {count:6} keys.")
        elif count:
            self._terminal.print(f"{self._verb} {count:6} keys successfully!")
        else:
            self._terminal.print("Migration succeeded! No keys migrated.")


def bar(progress: Progress, width: int, *, stopping: bool = False) -> str:
    """The progress as one line of a terminal of `width` columns: counts, a bar, rate and time left.

    Room for the echo of an interrupt is left behind it, as a second line could not be taken back.
    """
    width = max(0, width - 1 - _ECHO)
    total, done = progress.total, progress.done
    share = done / total if total else 0.0
    left = f"{done:{len(str(total))}} of {total}"
    right = f"{int(share * 100):3}%  {progress.rate:.0f} keys/s"
    if stopping:
        right += ", stopping"
    elif progress.rate and done < total:
        right += f", {duration.render(max(1, round((total - done) / progress.rate)))} left"
    if progress.failed:
        right += f", {progress.failed} failed"
    room = min(width - len(left) - len(right) - 4, 40)
    if room < 5:
        return f"{left}  {right}"[:width]
    filled = int(share * room)
    return f"{left}  {'━' * filled}{'╌' * (room - filled)}  {right}"
