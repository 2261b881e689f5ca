"""`kes status` (cli.md 5.8): how a server, or each of several, is, and its key store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kes.cli.client import attempt, connect, open_client, settings
from kes.cli.command import Given
from kes.cli.errors import CommandError
from kes.cli.terminal import Terminal
from kes.cli.text import size
from kes.client import ConfigurationError, Route, Status
from kes.client.endpoint import parse_endpoints
from kes.config.duration import render


def run(given: Given, terminal: Terminal) -> int:
    """1 if a server, or with --check a key store, is out of reach."""
    if given.flag("all"):
        if given.flag("api"):
            raise CommandError("--all and --api exclude each other")
        return _all(given, terminal)
    with connect(given, terminal) as client, attempt(client):
        status = client.status()
        routes = client.routes() if given.flag("api") else None
    if terminal.wants_json:
        document: object = _document(status) if routes is None else [_route(route) for route in routes]
        terminal.json(document, indent=not given.flag("short"))
    else:
        terminal.print(*_lines(status, terminal, short=given.flag("short")))
        if routes is not None:
            terminal.print("", *_table(routes, terminal))
    return _verdict([status], given, terminal)


def _all(given: Given, terminal: Terminal) -> int:
    made = settings(given, terminal)
    try:
        endpoints = parse_endpoints(made.server)
    except ConfigurationError as error:
        raise CommandError(str(error)) from None
    found, documents, failed = list[Status](), list[dict[str, object]](), False
    for number, endpoint in enumerate(map(str, endpoints)):
        lines = []
        with open_client(replace(made, server=endpoint), terminal) as client:
            try:
                with attempt(client):
                    status = client.status()
            except CommandError as error:
                failed = True
                documents.append({"endpoint": endpoint, "error": str(error)})
                lines = [f"{terminal.style.deny('●')} {terminal.style.endpoint(endpoint)}", f"  {error}"]
            else:
                found.append(status)
                documents.append({"endpoint": endpoint, **_document(status)})
                lines = _lines(status, terminal, short=given.flag("short"))
        if not terminal.wants_json:
            terminal.print(*([""] if number and not given.flag("short") else []), *lines, flush=True)
    if terminal.wants_json:
        terminal.json(documents, indent=not given.flag("short"))
    return max(int(failed), _verdict(found, given, terminal))


def _verdict(found: Sequence[Status], given: Given, terminal: Terminal) -> int:
    unreachable = [status.endpoint for status in found if status.keystore_unreachable]
    if not unreachable or not given.flag("check"):
        return 0
    terminal.error(f"the key store of {', '.join(unreachable)} is not reachable")
    return 1


def _lines(status: Status, terminal: Terminal, *, short: bool) -> list[str]:
    style = terminal.style
    first = f"{style.alive('●')} {style.endpoint(status.endpoint)}"
    if short:
        return [first]
    rows = (
        ("Version", status.version),
        ("Uptime", _uptime(status.uptime)),
        ("Latency", render(round(status.latency, 3))),
        ("OS", status.os),
        ("CPUs", f"{status.num_cpu_used or status.num_cpu} {status.arch}"),
        ("Keystore", style.deny("unreachable") if status.keystore_unreachable else _keystore(status)),
        ("Memory", ""),
        ("· Heap", size(status.mem_heap_used)),
        ("· Stack", size(status.mem_stack_used)),
    )
    return [first, *(f"  {style.faint(label)}{' ' * (8 - len(label))} {value}".rstrip() for label, value in rows)]


def _keystore(status: Status) -> str:
    return render(status.keystore_latency / 1000)


def _uptime(seconds: int) -> str:
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds > 86400:
        return f"{days} days {hours % 24} hours"
    if seconds > 3600:
        return f"{hours} hours"
    return f"{minutes} minutes" if seconds > 60 else f"{seconds} seconds"


def _table(routes: Sequence[Route], terminal: Terminal) -> list[str]:
    header = terminal.style.bold_header
    lines = [f"  {header('Method')}  {header('API')}{' ' * 25} {header('Timeout')}"]
    lines += (f"  {r.method:<7} {r.path:<28} {render(r.timeout) if r.timeout else 'Inf'}" for r in routes)
    return lines


def _document(status: Status) -> dict[str, object]:
    """The JSON form, without what is zero or false."""
    document = {
        "version": status.version,
        "os": status.os,
        "arch": status.arch,
        "uptime": status.uptime,
        "num_cpu": status.num_cpu,
        "num_cpu_used": status.num_cpu_used,
        "mem_heap_used": status.mem_heap_used,
        "mem_stack_used": status.mem_stack_used,
        "keystore_latency": status.keystore_latency,
        "keystore_unreachable": status.keystore_unreachable,
        "keystore_unavailable": status.keystore_unreachable,
    }
    return {name: value for name, value in document.items() if value}


def _route(route: Route) -> dict[str, object]:
    return {"method": route.method, "path": route.path, "max_body": route.max_body, "timeout": route.timeout}
