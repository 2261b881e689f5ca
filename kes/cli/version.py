"""`kes --version`: four lines about the program (cli.md 5.1)."""

from __future__ import annotations

from kes.server.banner import program_rows


def show() -> None:
    rows = list(program_rows())
    width = max(22, *(len(value) for _, value, note in rows if note))
    for label, value, note in rows:
        print(f"{label:<10} {value:<{width}} {note}".rstrip())
