"""What commands print, and how: text and styles for people, plain text and JSON for programs (cli.md 1.3, 1.5 to 1.7).

Only standard output decides which of the two it gets, and each stream for itself whether it is coloured: `X=$(kes …)`
captures plain text though errors go to a terminal. Nothing is ever asked of the terminal (no escape sequence that it
would have to answer), and no error holds an API key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final, TextIO

from kes.cli.errors import CommandError

PASSWORD_VARIABLES: Final = ("KES_KEY_PASSWORD_FILE", "KES_KEY_PASSWORD")

_MAX_PASSWORD_FILE: Final = 64 * 1024  # bytes
_SECRET = re.compile(r"kes:v1:[A-Za-z0-9+/=]+")


class OutputClosedError(BrokenPipeError):
    """Nobody reads standard output any more (`kes … | head -1`): the command ends, and says nothing."""


class Style:
    """The palette of cli.md 1.6 as functions of a text, which return it as it is where there is no colour."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled

    def bold(self, text: str) -> str:
        return self._with("1", text)

    def faint(self, text: str) -> str:
        return self._with("2", text)

    def header(self, text: str) -> str:
        """The header of a listing: underlined."""
        return self._with("4", text)

    def bold_header(self, text: str) -> str:
        return self._with("1;4", text)

    def label(self, text: str) -> str:
        """A label of the banner and of `--version`."""
        return self._with("38;2;38;139;210", text)

    def problem(self, text: str) -> str:
        """`Error:` and `WARNING:`."""
        return self._with("38;2;172;0;0", text)

    def identity(self, text: str) -> str:
        return self._with("38;2;46;66;209", text)

    def policy(self, text: str) -> str:
        return self._with("38;2;209;189;46", text)

    def allow(self, text: str) -> str:
        return self._with("38;2;0;215;0", text)

    def deny(self, text: str) -> str:
        return self._with("38;2;215;0;0", text)

    def bold_allow(self, text: str) -> str:
        return self._with("1;38;2;0;215;0", text)

    def bold_deny(self, text: str) -> str:
        return self._with("1;38;2;215;0;0", text)

    def alive(self, text: str) -> str:
        """The dot of `status`."""
        return self._with("1;38;2;0;247;0", text)

    def endpoint(self, text: str) -> str:
        return self._with("1;38;2;0;175;175", text)

    def _with(self, codes: str, text: str) -> str:
        return f"\x1b[{codes}m{text}\x1b[0m" if self.enabled and text else text


class Terminal:
    """Where a command's output goes. `style` is standard output's, `error_style` standard error's.

    A stream is None if the process was started without it (`>&-`).
    """

    def __init__(
        self,
        out: TextIO | None,
        err: TextIO | None,
        environ: Mapping[str, str],
        color: str = "auto",
        *,
        json: bool = False,
    ) -> None:
        self._out = out
        self._err = err
        self._environ = environ
        self._json = json
        self.interactive = _is_terminal(out)
        self.style = Style(enabled=_wants_color(out, environ, color))
        self.error_style = Style(enabled=_wants_color(err, environ, color))

    @property
    def wants_json(self) -> bool:
        """Whether the command was given `--json`: it prints one document by `json`, and nothing else."""
        return self._json

    @property
    def wants_prose(self) -> bool:
        """Whether a person reads the output: it is a terminal, and nobody asked for JSON."""
        return self.interactive and not self._json

    @property
    def width(self) -> int:
        """Columns of standard output, or those that COLUMNS says; 80 if nobody knows."""
        try:
            return int(self._environ["COLUMNS"])
        except (KeyError, ValueError):
            pass
        try:
            return os.get_terminal_size(self._out.fileno()).columns if self._out and self.interactive else 80
        except (OSError, ValueError):
            return 80

    def print(self, *lines: str, flush: bool = False) -> None:
        """Write lines to standard output. With `flush` they are there at once, for output that goes on."""
        self.write("".join(f"{line}\n" for line in lines), flush=flush)

    def write(self, text: str, *, flush: bool = False) -> None:
        """Write text to standard output as it is. OutputClosedError if nobody reads it any more."""
        with self._written() as out:
            out.write(text)
            if flush:
                out.flush()

    def flush(self) -> None:
        """See that all is written. Raises CommandError if it cannot be."""
        if self._out is not None:
            self.write("", flush=True)

    @contextmanager
    def _written(self) -> Iterator[TextIO]:
        if self._out is None:
            raise CommandError("cannot write to standard output: it is closed")
        try:
            yield self._out
        except BrokenPipeError:
            raise OutputClosedError from None
        except OSError as error:
            raise CommandError(f"cannot write to standard output: {error.strerror}") from None

    def rows(self, *rows: tuple[str, str]) -> None:
        """Write labels and, in one column, their values."""
        self.print(*(f"{self.style.faint(label)}{' ' * (11 - len(label))} {value}".rstrip() for label, value in rows))

    def write_bytes(self, data: bytes) -> None:
        """Write bytes to standard output as they are."""
        self.flush()
        with self._written() as out:
            out.buffer.write(data)

    def json(self, document: object, *, indent: bool = False) -> None:
        """Print one JSON document: compact, or, with `indent` and on a terminal, by two spaces."""
        from json import dumps

        if indent and self.interactive:
            self.print(dumps(document, ensure_ascii=False, indent=2))
        else:
            self.print(dumps(document, ensure_ascii=False, separators=(",", ":")))

    def error(self, text: str) -> None:
        self._notice(f"{self.error_style.problem('Error:')} ", text)

    def warning(self, text: str) -> None:
        self._notice(f"{self.error_style.problem('WARNING:')} ", text)

    def hint(self, text: str) -> None:
        """A line that helps with the error before or after it."""
        self._notice("Hint: ", text)

    def complain(self, text: str) -> None:
        """Write text to standard error as it is. There is nobody to tell where that fails."""
        if self._err is not None:
            with suppress(OSError):
                self._err.write(text)
                self._err.flush()

    def _notice(self, label: str, text: str) -> None:
        self.complain(f"{label}{one_line(text)}\n")

    def password(self, prompt: str, *, file: str | None = None, confirm: str = "") -> bytes:
        """A password, without its newline and never empty.

        From `file` if the user named one; else from the file or the text that an environment variable of
        PASSWORD_VARIABLES gives; else from the person at the controlling terminal, asked with `prompt` and, if given,
        again with `confirm`. Raises CommandError.
        """
        file_variable, variable = PASSWORD_VARIABLES
        file = file or self._environ.get(file_variable)
        if file:
            return _read_password(file)
        if self._environ.get(variable):
            return os.fsencode(self._environ[variable])
        password = self.ask(prompt)
        if not password:
            raise CommandError("the password is empty")
        if confirm and self.ask(confirm) != password:
            raise CommandError("passwords don't match")
        return password

    def ask(self, prompt: str) -> bytes:
        """What the person at the controlling terminal types, without echo. Raises CommandError if there is none."""
        import termios

        try:
            # Not standard input, which may be a pipe with something else in it (cli.md 2.3).
            descriptor = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            first, second = PASSWORD_VARIABLES
            raise CommandError(f"no terminal to ask for the password: set {first} or {second}") from None
        try:
            before = termios.tcgetattr(descriptor)
            quiet = [*before]
            quiet[3] &= ~termios.ECHO
            try:
                termios.tcsetattr(descriptor, termios.TCSAFLUSH, quiet)
                self._prompt(descriptor, prompt)
                line = _read_line(descriptor)
            finally:
                termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)
                self._prompt(descriptor, "\n")
        finally:
            os.close(descriptor)
        return line

    def _prompt(self, descriptor: int, text: str) -> None:
        # Standard error is the place for it, unless that is a file, where the person would not see it.
        if _is_terminal(self._err):
            self.complain(text)
        else:
            os.write(descriptor, text.encode())


def one_line(text: str) -> str:
    """`text` as one line that has no control characters and no API key."""
    hidden = _SECRET.sub("kes:v1:<not shown>", text.rstrip("\r\n"))
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in hidden)


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _wants_color(stream: TextIO | None, environ: Mapping[str, str], color: str) -> bool:
    if color != "auto":
        return color == "always"
    if environ.get("NO_COLOR"):
        return False
    if environ.get("CLICOLOR_FORCE"):
        return True
    return _is_terminal(stream) and environ.get("TERM") != "dumb"


def _read_line(descriptor: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(descriptor, 4096)
        if not more:
            break
        line += more
    return line.rstrip(b"\r\n")


def _read_password(path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib takes longer to import than most commands to run
            password = file.readline(_MAX_PASSWORD_FILE).rstrip(b"\r\n")
    except OSError as error:
        raise CommandError(f"cannot read the password file '{path}': {error.strerror}") from None
    if not password:
        raise CommandError(f"the password file '{path}' is empty")
    return password
