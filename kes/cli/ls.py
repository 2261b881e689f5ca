"""Listings of keys, policies and identities: `kes ls`, `kes key ls`, `kes policy ls`, `kes identity ls` (cli.md 5.3).

A listing is complete, whatever the server's pages are, or it is an error.
"""

from __future__ import annotations

from kes.cli.client import attempt, connect
from kes.cli.command import Given
from kes.cli.errors import CommandError
from kes.cli.terminal import Terminal


def run(given: Given, terminal: Terminal) -> None:
    """`kes ls`."""
    if given.flag("identity") and given.flag("policy"):
        raise CommandError("--identity and --policy exclude each other")
    _list(given, terminal, "Identity" if given.flag("identity") else "Policy" if given.flag("policy") else "Key")


def keys(given: Given, terminal: Terminal) -> None:
    _list(given, terminal, "Key", "list keys")


def policies(given: Given, terminal: Terminal) -> None:
    _list(given, terminal, "Policy", "list policies")


def identities(given: Given, terminal: Terminal) -> None:
    _list(given, terminal, "Identity", "list identities")


def _list(given: Given, terminal: Terminal, kind: str, purpose: str = "") -> None:
    prefix = given.words[0] if given.words else ""
    with connect(given, terminal) as client, attempt(client, purpose):
        match kind:
            case "Identity":
                names = client.list_identities(prefix)
            case "Policy":
                names = client.list_policies(prefix)
            case _:
                names = client.list_keys(prefix)
    if terminal.wants_json:
        terminal.json(names)
    elif names:
        terminal.print(terminal.style.header(kind), *names)
