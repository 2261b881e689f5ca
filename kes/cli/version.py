"""`kes --version`: four lines about the program (cli.md 5.1)."""

from __future__ import annotations

from kes.server.banner import program_rows


def show() -> None:
    for label, value, note in program_rows():
        print(f"{label:<10} {value:<22} {note}".rstrip())
