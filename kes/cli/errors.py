"""The one error of the command line: `Error: ` and its text on standard error, exit status 1 (cli.md 1.3)."""

from __future__ import annotations


class CommandError(Exception):
    """What a person did or met that ends the command; the text is one line. `hints` are lines that say what to do."""

    def __init__(self, message: str, *hints: str) -> None:
        super().__init__(message)
        self.hints = hints
