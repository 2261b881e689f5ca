"""Help texts, from the table: what `--help` and `kes help` print, and commands that are given nothing to do."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from kes.cli.command import HELP, Argument, Command, Given, Option, find, line_of, unknown
from kes.cli.errors import CommandError
from kes.cli.table import ROOT
from kes.cli.terminal import Style, Terminal

_WIDEST = 100  # columns; longer lines are hard to read
_NARROWEST = 40
_INDENT = 4
_LABEL = 30  # the widest label that has its text beside it


def show(given: Given, terminal: Terminal) -> None:
    """`kes help [COMMAND...]`. Raises CommandError for a command that there is not."""
    path, _, rest = find(ROOT, given.words)
    if rest:
        raise CommandError(unknown(path, rest[0]))
    terminal.write(render(path, terminal.style, terminal.width))


def render(path: Sequence[Command], style: Style, width: int) -> str:
    """The help of the command at the end of `path`, as wide as a terminal of `width` columns lets it be."""
    command = path[-1]
    width = max(_NARROWEST, min(width, _WIDEST))
    lines = [*_wrap(command.summary, width, 0)]
    for paragraph in command.description:
        lines += ["", *_wrap(paragraph, width, 0)]
    head = style.bold
    lines += ["", head("Usage:"), *(f"{' ' * _INDENT}{line}" for line in synopsis(path))]
    for title, rows in (
        ("Arguments:", [(a.name, argument_help(a)) for a in command.arguments]),
        ("Commands:", [(c.name, c.summary) for c in command.commands]),
        ("Options:", [(option_label(o, align=True), option_help(o) + _variables(o)) for o in options(command)]),
    ):
        if rows:
            lines += ["", head(title), *_columns(rows, width)]
    if command.examples:
        lines += ["", head("Examples:")]
        for purpose, line in command.examples:
            lines += [*_wrap(purpose, width, _INDENT), f"{' ' * 2 * _INDENT}{line}"]
    return "\n".join((*lines, ""))


def synopsis(path: Sequence[Command]) -> Iterator[str]:
    """The forms in which the command at the end of `path` may be called, one a line."""
    command, line = path[-1], line_of(path)
    if command.run:
        words = "".join(f" {_placeholder(argument)}" for argument in command.arguments)
        yield f"{line} [options]{words}" if len(path) > 1 else f"{line} [options]"
    if command.commands:
        yield f"{line} [options] <command>" if len(path) == 1 else f"{line} <command>"


def options(command: Command) -> tuple[Option, ...]:
    return (*command.options, HELP)


def option_label(option: Option, *, align: bool = False) -> str:
    """How the option is written: `-s, --server HOST[:PORT]`; with `align`, long names stand below each other."""
    short = f"-{option.short}, " if option.short else "    " if align else ""
    names = ", --".join((option.name, *option.aliases))
    return f"{short}--{names}{' ' if option.value else ''}{option.value}"


def option_help(option: Option) -> str:
    """What the option does."""
    repeated = " May be repeated, or given several values separated by commas." if option.many else ""
    return option.help + repeated


def argument_help(argument: Argument) -> str:
    return f"{argument.help} May be repeated." if argument.many else argument.help


def _placeholder(argument: Argument) -> str:
    name = f"{argument.name}..." if argument.many else argument.name
    return f"[{name}]" if argument.optional else name


def _variables(option: Option) -> str:
    """The variables most used of those that the option's value may come from."""
    return f" [${', $'.join(option.variables[:2])}]" if option.variables else ""


def _columns(rows: Iterable[tuple[str, str]], width: int) -> Iterator[str]:
    """Labels, and texts that begin in one column beside them, or below where there is no room."""
    rows = list(rows)
    beside = [len(label) for label, _ in rows if len(label) <= _LABEL]
    column = _INDENT + max(beside, default=_LABEL) + 2
    if width - column < _NARROWEST - 2 * _INDENT:
        column = 3 * _INDENT
    for label, text in rows:
        first, *more = _wrap(text, width, column)
        if _INDENT + len(label) + 2 > column:
            yield f"{' ' * _INDENT}{label}"
            yield first
        else:
            yield f"{' ' * _INDENT}{label}".ljust(column) + first[column:]
        yield from more


def _wrap(text: str, width: int, indent: int) -> list[str]:
    margin = " " * indent
    return textwrap.wrap(
        text, width, initial_indent=margin, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False
    )
