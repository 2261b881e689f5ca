"""The reference in docs/cli.md, from the table: `python -m kes.cli.reference docs/cli.md` writes it anew.

What stands above the mark in the file stays as it is. What examples print is what `kes.cli.examples` has recorded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from kes.cli.command import Command, line_of
from kes.cli.examples import recorded
from kes.cli.table import ROOT
from kes.cli.usage import argument_help, option_help, option_label, options, synopsis

MARK: Final = "<!-- From here on written by `python -m kes.cli.reference docs/cli.md`. -->\n"


def render(page: str) -> str:
    """`page` with the reference as it is now."""
    head, mark, _ = page.partition(MARK)
    if not mark:
        raise ValueError("the page has no mark for the reference")
    return f"{head}{MARK}\n" + "\n".join(_sections((ROOT,), recorded()))


def _sections(path: tuple[Command, ...], outputs: Mapping[str, str]) -> Iterator[str]:
    command = path[-1]
    yield from (f"### `{line_of(path)}`", "", command.summary, "")
    for paragraph in command.description:
        yield from (paragraph, "")
    yield from ("```", *synopsis(path), "```", "")
    if command.arguments:
        yield from ("| argument | |", "| --- | --- |")
        yield from (_row(argument.name, argument_help(argument)) for argument in command.arguments)
        yield ""
    yield from ("| option | | variables |", "| --- | --- | --- |")
    for option in options(command):
        yield _row(option_label(option), option_help(option), ", ".join(f"`{name}`" for name in option.variables))
    yield ""
    for purpose, line in command.examples:
        yield from (purpose, "", "```console", f"$ {line}", *outputs.get(line, "").splitlines(), "```", "")
    for child in command.commands:
        yield from _sections((*path, child), outputs)


def _row(label: str, *cells: str) -> str:
    # A bar would end the cell, also within backquotes.
    escaped = label.replace("|", r"\|")
    return " | ".join((f"| `{escaped}`", *cells)).rstrip() + " |"


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(render(file.read_text(encoding="utf-8")), encoding="utf-8")
