"""`kes identity info` (cli.md 5.6): what a server knows of an identity, by default of the one that asks."""

from __future__ import annotations

from kes.cli.client import attempt, connect
from kes.cli.command import Given
from kes.cli.terminal import Terminal
from kes.cli.text import rfc3339, timestamp
from kes.client import IdentityInfo


def run(given: Given, terminal: Terminal) -> None:
    myself = not given.words
    with connect(given, terminal) as client, attempt(client):
        found = client.describe_self() if myself else client.describe_identity(given.words[0])
    if terminal.wants_json:
        terminal.json(_document(found))
        return
    style = terminal.style
    rows = [("Identity", style.identity(found.identity))]
    if found.policy and not myself:
        rows.append(("Policy", style.policy(found.policy)))
    if found.created_at is not None:
        rows.append(("Created At", timestamp(found.created_at)))
    rows.append(("Role", "Admin" if found.admin else "User"))
    if found.created_by:
        rows.append(("Created By", style.identity(found.created_by)))
    terminal.rows(*rows)
    if found.policy and myself:
        terminal.print("")
        terminal.rows(("Policy", style.policy(found.policy)))
        for label, dot, paths in (
            ("Allow", style.allow("·"), found.allow),
            ("Deny", style.deny("·"), found.deny),
        ):
            if paths:
                terminal.rows((label, ""))
                terminal.print(*(f"{'':<11} {dot} {path}" for path in paths))


def _document(found: IdentityInfo) -> dict[str, object]:
    """The JSON form, without what is empty."""
    document: dict[str, object] = {
        "identity": found.identity,
        "admin": found.admin,
        "policy": found.policy,
        "created_at": rfc3339(found.created_at) if found.created_at is not None else "",
        "created_by": found.created_by,
        "allow": {path: {} for path in found.allow},
        "deny": {path: {} for path in found.deny},
    }
    return {name: value for name, value in document.items() if value}
