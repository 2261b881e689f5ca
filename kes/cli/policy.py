"""`kes policy info|show` (cli.md 5.5)."""

from __future__ import annotations

from kes.cli.client import attempt, connect
from kes.cli.command import Given, shown
from kes.cli.terminal import Terminal
from kes.cli.text import UNKNOWN, rfc3339, timestamp


def info(given: Given, terminal: Terminal) -> None:
    with connect(given, terminal) as client, attempt(client):
        policy = client.describe_policy(given.words[0])
    if terminal.wants_json:
        document = {
            "name": policy.name,
            "created_at": rfc3339(policy.created_at),
            "created_by": policy.created_by,
        }
        terminal.json(document, indent=True)
        return
    rows = [("Name", terminal.style.policy(policy.name))]
    if policy.created_at is not None:
        rows.append(("Date", timestamp(policy.created_at)))
    if policy.created_by:
        rows.append(("Created by", terminal.style.identity(policy.created_by)))
    terminal.rows(*rows)


def show(given: Given, terminal: Terminal) -> None:
    name = given.words[0]
    with connect(given, terminal) as client, attempt(client, f"show policy '{shown(name)[1:-1]}'"):
        policy = client.read_policy(name)
    if not terminal.wants_prose:
        document: dict[str, object] = {}
        if policy.allow:
            document["allow"] = {path: {} for path in policy.allow}
        if policy.deny:
            document["deny"] = {path: {} for path in policy.deny}
        document |= {"created_at": rfc3339(policy.created_at), "created_by": policy.created_by}
        terminal.json(document, indent=True)
        return
    style = terminal.style
    lines = []
    if policy.allow:
        lines += [style.bold_allow("Allow:"), *(f"  · {path}" for path in policy.allow)]
    if policy.allow and policy.deny:
        lines.append("")
    if policy.deny:
        lines += [style.bold_deny("Deny:"), *(f"  · {path}" for path in policy.deny)]
    if lines:
        lines += ["", ""]
    lines += [f"Created at: {timestamp(policy.created_at)}", f"Created by: {policy.created_by or UNKNOWN}"]
    terminal.print(*lines)
