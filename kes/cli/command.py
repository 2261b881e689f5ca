"""What a command is, and how its arguments are read (cli.md 1.2, 1.3).

A command is a row of `kes.cli.table`, and nothing else says what it takes: parsing, help, completion, man pages and
docs/cli.md all come from there. To add one:

1. Write a `Command` in kes/cli/table.py, under its parent, with the options and arguments it takes. Options that many
   commands share (`JSON`, `COLOR`, `*CLIENT`) are defined there.
2. Write the function that its `run` names, `module:function`. It is imported only when the command runs:

       def run(given: Given, terminal: Terminal) -> int | None:
           given.words            # the arguments; their number has been checked against the row
           given.flag("force")    # a boolean
           given.text("server")   # str, or None if neither given nor defaulted
           given.texts("dns")     # of an option that repeats
           given.seconds("rate")  # a duration
           terminal.print(...)    # see kes.cli.terminal

   It returns the exit status (None is 0), raises CommandError for what ends it with `Error: …` and status 1, and
   NothingToDo for usage on standard error and status 2.
3. Run `python -m kes.cli.reference docs/cli.md`.

Nothing here imports more than the standard library, and little of that: completion runs at each press of a key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from kes.cli.errors import CommandError

_TRUTH: Final = {"true": True, "false": False, "1": True, "0": False, "t": True, "f": False}
_SIMILARITY: Final = 0.8  # of difflib; below it are words that somebody meant: `login` is no misspelling of `log`
_MAX_SHOWN: Final = 64  # characters of a person's own text that an error repeats


class NothingToDo(Exception):
    """The command was given nothing to do: its usage goes to standard error, and the exit status is 2.

    The text, if any, says what is missing.
    """


@dataclass(frozen=True, slots=True)
class Option:
    """`--name`, or a boolean `--name[=false]` if there is no `value`.

    `parse` turns the value's text into what the command gets; its ValueError is the reason that the user is shown. With
    `many`, values may be repeated and separated by commas. `variables` are environment variables that a command reads
    where the option is missing; they are documented here and read there. `secret` values are in no error.
    """

    name: str
    help: str
    short: str = ""
    value: str = ""  # what help calls the value: FILE and DIR are completed as such
    parse: Callable[[str], object] = str
    choices: tuple[str, ...] = ()  # of a value; completed, and checked by `parse`
    default: object = None
    many: bool = False
    aliases: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Argument:
    """A positional argument. Optional ones and one of `many` come last."""

    name: str
    help: str
    optional: bool = False
    many: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Command:
    """One word of the command line: what runs, or what other words come after, or both (`kes identity`)."""

    name: str
    summary: str  # one sentence
    run: str = ""
    options: tuple[Option, ...] = ()
    arguments: tuple[Argument, ...] = ()
    commands: tuple[Command, ...] = ()
    description: tuple[str, ...] = ()  # paragraphs
    examples: tuple[tuple[str, str], ...] = ()  # what it does, command line
    aliases: tuple[str, ...] = ()
    # Of the root: command lines of earlier versions, without `kes`, and of a command its former options, with the
    # sentence that says what to use today.
    former: Mapping[str, str] = field(default_factory=dict)

    def child(self, word: str) -> Command | None:
        return next((c for c in self.commands if word == c.name or word in c.aliases), None)

    def option(self, name: str) -> Option | None:
        return next((o for o in self.options if name == o.name or name in o.aliases), None)

    def shorthand(self, letter: str) -> Option | None:
        return next((o for o in self.options if letter == o.short), None)

    def tree(self) -> Iterator[Command]:
        """The command and all below it."""
        yield self
        for command in self.commands:
            yield from command.tree()


HELP: Final = Option("help", "Print this help.", short="h")


@dataclass(frozen=True, slots=True)
class Given:
    """What a command line says: the command, its options' values and its arguments."""

    path: tuple[Command, ...]  # from the root to the command
    words: tuple[str, ...] = ()
    values: Mapping[str, object] = field(default_factory=dict)

    @property
    def command(self) -> Command:
        return self.path[-1]

    @property
    def help(self) -> bool:
        """Whether help is asked for. Nothing else has been checked then."""
        return bool(self.values.get(HELP.name))

    def is_set(self, name: str) -> bool:
        """Whether the option is on the command line."""
        return name in self.values

    def flag(self, name: str) -> bool:
        return self._value(name) is True

    def text(self, name: str) -> str | None:
        value = self._value(name)
        assert value is None or isinstance(value, str), name
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._value(name)
        assert value is None or isinstance(value, tuple), name
        return value or ()

    def seconds(self, name: str) -> float:
        value = self._value(name)
        assert isinstance(value, float), name
        return value

    def _value(self, name: str) -> object:
        if name in self.values:
            return self.values[name]
        option = self.command.option(name)
        assert option is not None, name
        return option.default


def duration(text: str) -> float:
    """The value of an option in seconds. ValueError if the text is no duration."""
    from kes.config.duration import parse
    from kes.config.errors import InvalidTextError

    try:
        return parse(text)
    except InvalidTextError as error:
        raise ValueError(error.problem.removeprefix("is ")) from None


def one_of(*choices: str) -> Callable[[str], str]:
    """A parser of options that takes `choices` in any case."""

    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"write {', '.join(choices[:-1])} or {choices[-1]}")
        return text.lower()

    return parse


def shown(text: str) -> str:
    """`text` as an error may repeat it: in double quotes, escaped and cut, or a placeholder if it may be a secret."""
    if "kes:" in text or "v1:" in text or "PRIVATE KEY" in text:
        return "<a secret, not shown>"
    cut = text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut) + '"'


def line_of(path: Sequence[Command]) -> str:
    """How the command at the end of `path` is called: `kes key create`."""
    return " ".join(command.name for command in path)


def find(root: Command, arguments: Sequence[str]) -> tuple[tuple[Command, ...], list[str], list[str]]:
    """The commands that words of `arguments` name, from `root` on; the options between these words; what follows.

    Options may stand anywhere, so what follows one is a word only if no command below takes it for a value; an option
    that takes a value in some commands only (`-s`) takes none when a command's name follows.
    """
    path, options, position = [root], list[str](), 0
    while position < len(arguments) and arguments[position] != "--":
        argument = arguments[position]
        if argument.startswith("-") and argument != "-":
            following = arguments[position + 1 : position + 2]
            size = 2 if following and _takes(path[-1], argument, following[0]) else 1
            options += arguments[position : position + size]
            position += size
            continue
        child = path[-1].child(argument)
        if child is None:
            break
        path.append(child)
        position += 1
    return tuple(path), options, list(arguments[position:])


def _takes(command: Command, argument: str, following: str) -> bool:
    """Whether `following` is the value of the option or group of short options `argument`, in any command below."""
    meanings = {_awaits_value(below, argument) for below in command.tree()}
    return True in meanings and (False not in meanings or command.child(following) is None)


def _awaits_value(command: Command, argument: str) -> bool | None:
    """Whether the value of `argument` comes after it in `command`; None if `command` has no such option."""
    if argument.startswith("--"):
        option = command.option(argument[2:])  # none if the argument has its value after `=`
        return None if option is None else bool(option.value)
    for length, letter in enumerate(argument[1:], 2):
        option = command.shorthand(letter)
        if option is None:
            return None
        if option.value:
            return length == len(argument)  # else it follows the letter directly
    return False


def parse(root: Command, arguments: Sequence[str]) -> Given:
    """What `arguments` say. Nothing after `--help` is read.

    Raises CommandError, with the words of cli.md 1.3, or NothingToDo.
    """
    path, options, rest = find(root, arguments)
    command = path[-1]
    strange = rest[1:2] if rest[:1] == ["--"] else rest[:1]
    if strange and command.commands and not command.arguments:
        raise CommandError(unknown(path, strange[0], _replacement(path, rest)))
    values, words = _Reader(path).read([*options, *rest])
    given = Given(path, tuple(words), values)
    if given.help:
        return given
    if not command.run:
        raise NothingToDo
    required = [a.name for a in command.arguments if not a.optional]
    if len(words) < len(required):
        if not words:
            raise NothingToDo(f"missing argument {required[0]}. {_see(path)}")
        raise CommandError(f"missing argument {required[len(words)]}. {_see(path)}")
    if len(words) > len(command.arguments) and not any(a.many for a in command.arguments):
        message = f"unexpected argument {shown(words[len(command.arguments)])}. {_see(path)}"
        raise CommandError(message + _replacement(path, words))
    return given


def unknown(path: Sequence[Command], word: str, replacement: str = "") -> str:
    """The error for a word that names no command below the end of `path`.

    It ends with `replacement`, or else with the command that the word is most likely a misspelling of.
    """
    from difflib import get_close_matches

    names = [name for c in path[-1].commands for name in (c.name, *c.aliases)]
    if not replacement and (near := get_close_matches(word, names, 1, _SIMILARITY)):
        replacement = f". Did you mean '{line_of(path)} {near[0]}'?"
    return f"{shown(word)} is not a {path[-1].name} command. {_see(path)}{replacement}"


def _replacement(path: Sequence[Command], words: Sequence[str]) -> str:
    """What to use instead of a command of an earlier version, as the end of an error; empty if it never was one."""
    line = [*(command.name for command in path[1:]), *(word for word in words if not word.startswith("-"))]
    for length in range(len(line), 0, -1):
        replacement = path[0].former.get(" ".join(line[:length]))
        if replacement is not None:
            return f". {replacement}"
    return ""


def _see(path: Sequence[Command]) -> str:
    return f"See '{line_of(path)} --help'"


class _Reader:
    """Reads the options and arguments of one command."""

    def __init__(self, path: Sequence[Command]) -> None:
        self._path = path
        self._command = path[-1]
        self._values: dict[str, object] = {}
        self._rest: list[str] = []

    def read(self, arguments: Sequence[str]) -> tuple[dict[str, object], list[str]]:
        words: list[str] = []
        self._rest = list(reversed(arguments))
        while self._rest and not self._values.get("help"):
            argument = self._rest.pop()
            if argument == "--":
                words += reversed(self._rest)
                break
            if argument.startswith("--"):
                self._long(argument)
            elif argument.startswith("-") and argument != "-":
                self._short(argument[1:])
            else:
                words.append(argument)
        return self._values, words

    def _long(self, argument: str) -> None:
        name, equals, value = argument[2:].partition("=")
        option = HELP if name == HELP.name else self._command.option(name)
        if option is None:
            former = self._command.former.get(f"--{name}")
            raise self._error(f"unknown flag: --{_plain(name)}", f". {former}" if former else "")
        if equals:
            self._set(option, value)
        elif option.value:
            self._set(option, self._next(f"--{name}"))
        else:
            self._values[option.name] = True

    def _short(self, letters: str) -> None:
        while letters:
            letter, group, letters = letters[0], letters, letters[1:]
            option = HELP if letter == HELP.short else self._command.shorthand(letter)
            if option is None:
                raise self._error(f"unknown shorthand flag: '{_plain(letter)}' in -{_plain(group)}")
            if letters.startswith("=") or (option.value and letters):
                self._set(option, letters.removeprefix("="))
                return
            if option.value:
                self._set(option, self._next(f"'{letter}' in -{_plain(group)}"))
            else:
                self._values[option.name] = True

    def _next(self, flag: str) -> str:
        if not self._rest:
            raise self._error(f"flag needs an argument: {flag}")
        return self._rest.pop()

    def _set(self, option: Option, text: str) -> None:
        try:
            if not option.value:
                self._values[option.name] = _truth(text)
            elif option.many:
                before = self._values.get(option.name, ())
                assert isinstance(before, tuple)
                self._values[option.name] = (*before, *(option.parse(item.strip()) for item in text.split(",")))
            else:
                self._values[option.name] = option.parse(text)
        except ValueError as error:
            quoted = "<not shown>" if option.secret else shown(text)
            raise self._error(f'invalid argument {quoted} for "--{option.name}" flag: {error}') from None

    def _error(self, message: str, advice: str = "") -> CommandError:
        return CommandError(f"{message}. {_see(self._path)}{advice}")


def _truth(text: str) -> bool:
    if text.lower() not in _TRUTH:
        raise ValueError("write true or false")
    return _TRUTH[text.lower()]


def _plain(text: str) -> str:
    """`text` as an error may repeat it, without quotes."""
    return shown(text).strip('"')
