"""The entry point of the `kes` command: finds the command word and reports what goes wrong in one line."""

from __future__ import annotations

import difflib
import sys

from kes.cli.errors import CommandError

_USAGE = """\
Usage:
    kes [options] <command>

Commands:
    server                   Start a KES server.

Options:
    -v, --version            Print version information.
    -h, --help               Print command line options.
"""
_COMMANDS = ("server",)


def main(arguments: list[str] | None = None) -> int:
    """Run the command that `arguments` (default: the process's) name; the exit status."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    try:
        return _dispatch(command, rest)
    except CommandError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # cli.md 1.3; a server that is up takes the signal itself


def _dispatch(command: str, rest: list[str]) -> int:
    # Each command imports what it needs only when it runs: `kes --version` is instant.
    match command:
        case "server":
            from kes.cli.server import run

            return run(rest)
        case "-v" | "--version":
            from kes.cli.version import show

            show()
            return 0
        case "-h" | "--help" | "help":
            print(_USAGE, end="")
            return 0
        case "":
            print(_USAGE, end="", file=sys.stderr)
            return 2
    near = difflib.get_close_matches(command, _COMMANDS, 1)
    suggestion = f" Did you mean {near[0]!r}?" if near else ""
    raise CommandError(f"\"{command}\" is not a kes command.{suggestion} See 'kes --help'")
