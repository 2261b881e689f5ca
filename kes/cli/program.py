"""`kes` itself: `--version` and `--auto-completion` (cli.md 5.1, 5.12), and `kes update` (5.11)."""

from __future__ import annotations

import os
import sys

from kes.cli.command import Given, NothingToDo
from kes.cli.errors import CommandError
from kes.cli.terminal import Terminal


def run(given: Given, terminal: Terminal) -> None:
    if given.flag("version"):
        _version(terminal)
    elif given.flag("auto-completion"):
        from kes.cli.completion import install

        install(os.environ, sys.argv[0], terminal)
    else:
        raise NothingToDo


def _version(terminal: Terminal) -> None:
    from kes.version import ARCH, COMMIT, OS, RUNTIME, VERSION, program_rows

    if terminal.wants_json:
        terminal.json({"version": VERSION, "commit": COMMIT, "runtime": RUNTIME, "os": OS, "arch": ARCH})
        return
    rows = list(program_rows())
    width = max(22, *(len(value) for _, value, note in rows if note))
    for label, value, note in rows:
        padded = terminal.style.label(label) + " " * (10 - len(label))
        terminal.print(f"{padded} {value:<{width}} {terminal.style.faint(note)}".rstrip())


def update(_given: Given, _terminal: Terminal) -> None:
    raise CommandError(
        "kes does not update itself: upgrade it with the package manager that installed it, such as "
        "'pip install --upgrade kes'"
    )
