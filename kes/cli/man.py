"""Manual pages from the table: `python -m kes.cli.man DIR` writes kes(1), and one page for each of its commands.

The pages depend on nothing but the table and the version, so two runs write the same bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kes import __version__
from kes.cli.command import Command, line_of
from kes.cli.table import ROOT
from kes.cli.usage import argument_help, option_help, option_label, options, synopsis

_EXIT: Final = (
    ("0", "Success. An empty listing is one."),
    ("1", 'Any failure. Standard error says which in one line that begins with "Error:".'),
    ("2", "There was nothing to do, and the usage was printed."),
    ("130, 143", "Ended by SIGINT or SIGTERM."),
)


def write(folder: Path) -> list[Path]:
    """Write all pages into `folder`, which is made at need; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in pages():
        path = folder / f"{name}.1"
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def pages() -> Iterator[tuple[str, str]]:
    """Name and text of each page."""
    yield "kes", _page((ROOT,))
    for command in ROOT.commands:
        yield f"kes-{command.name}", _page((ROOT, command))


def _page(path: tuple[Command, ...]) -> str:
    command, name = path[-1], "-".join(c.name for c in path)
    parts = [
        f'.TH {_text(name.upper())} 1 "" "kes {_text(__version__)}" "kes"',
        ".SH NAME",
        f"{_text(name)} \\- {_text(command.summary.rstrip('.'))}",
        ".SH SYNOPSIS",
        *(line for form in _forms(path) for line in (f"\\fB{_text(form)}\\fR", ".br")),
    ]
    if command.description:
        parts += [".SH DESCRIPTION", *_paragraphs(command)]
    parts += _details(command, ".SH")
    if command is ROOT:
        parts += [".SH COMMANDS"]
        for child in command.commands:
            parts += _item(f"kes-{child.name}(1)", child.summary)
    else:
        for child in command.commands:
            parts += [f".SH {_text(line_of((*path, child)).upper())}", _text(child.summary), *_paragraphs(child)]
            parts += [".PP", *(f"\\fB{_text(form)}\\fR" for form in synopsis((*path, child)))]
            parts += _details(child, ".SS")
    parts += _environment(command)
    parts += [".SH EXIT STATUS"]
    for status, meaning in _EXIT:
        parts += _item(status, meaning)
    others = ["kes"] if command is not ROOT else [f"kes-{child.name}" for child in command.commands]
    parts += [".SH SEE ALSO", _text(", ".join(f"{other}(1)" for other in others))]
    return "\n".join((*parts, ""))


def _forms(path: tuple[Command, ...]) -> Iterator[str]:
    """How the command and those below it are called; of `kes` only how it is itself, as each has its own page."""
    if path[-1] is ROOT or not path[-1].commands:
        yield from synopsis(path)
        return
    if path[-1].run:
        yield next(synopsis(path))
    for child in path[-1].commands:
        yield from synopsis((*path, child))


def _details(command: Command, heading: str) -> Iterator[str]:
    """Arguments, options and examples."""
    if command.arguments:
        yield f"{heading} Arguments"
        for argument in command.arguments:
            yield from _item(argument.name, argument_help(argument))
    yield f"{heading} Options"
    for option in options(command):
        yield from _item(option_label(option), option_help(option))
    if command.examples:
        yield f"{heading} Examples"
        for purpose, line in command.examples:
            yield from (".PP", _text(purpose), ".RS", ".nf", _text(line), ".fi", ".RE")


def _environment(command: Command) -> Iterator[str]:
    """The variables that the options of `command` and the commands below it are read from."""
    below = [command] if command is ROOT else list(command.tree())
    found = {option.name: option for c in below for option in c.options if option.variables}
    if found:
        yield ".SH ENVIRONMENT"
    for option in found.values():
        yield from _item(", ".join(option.variables), f"Read in this order where --{option.name} is not given.")


def _paragraphs(command: Command) -> Iterator[str]:
    for paragraph in command.description:
        yield from (".PP", _text(paragraph))


def _item(label: str, text: str) -> tuple[str, ...]:
    return ".TP", f"\\fB{_text(label)}\\fR", _text(text)


def _text(text: str) -> str:
    """`text` as roff prints it: no line of it is a request, and hyphens stay what can be typed."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    for page in write(Path(sys.argv[1])):
        print(page)
