"""The start-up output (contract section 1; layout in cli.md 5.2): what runs, where, and who may do what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TextIO

import ifaddr

from kes.version import program_rows

READY = "=> Server is up and running..."
RELOADED = "=> Reloading configuration after SIGHUP signal completed."
GOODBYE = "=> Stopping server... Goodbye."
DOCS = "README.md and docs/ of this distribution"

_LABEL = 12  # columns
_VALUE = 24
_COLOUR = "\x1b[38;2;38;139;210m"  # cli.md 1.6
_FAINT = "\x1b[2m"
_RESET = "\x1b[0m"

AUTH_TEXTS = {
    True: "on (a client's certificate must chain to a trusted authority)",
    False: "off (any client certificate is accepted)",
    None: "authorities and config (a client's certificate must chain to a trusted authority or be named in the config)",
}


@dataclass(frozen=True, slots=True)
class Banner:
    """The values of the start-up output. `api_key` is None except in dev mode."""

    kms: str
    urls: tuple[str, ...]
    api_key: str | None
    admin: str
    auth: bool | None
    error_level: str
    audit_level: str | None
    mlock: bool


def addresses(interface: str, port: int) -> tuple[str, ...]:
    """The URLs under which a listener is reached.

    The address it is bound to; for an unspecified one those of all interfaces that are up, without link-local and
    multicast ones, IPv4 only if there is any. If the system does not tell them, the unspecified one after all.
    """
    bound = ip_address(interface)
    found = [bound]
    if bound.is_unspecified:
        try:
            adapters = list(ifaddr.get_adapters())
        except OSError:
            adapters = []
        known = (
            ip_address(ip.ip if isinstance(ip.ip, str) else ip.ip[0])
            for adapter in adapters
            if _is_up(adapter.name)
            for ip in adapter.ips
        )
        usable = list(dict.fromkeys(ip for ip in known if not (ip.is_link_local or ip.is_multicast)))
        found = [ip for ip in usable if ip.version == 4] or usable or [bound]
    return tuple(f"https://{ip if ip.version == 4 else f'[{ip}]'}:{port}/" for ip in found)


def _is_up(adapter: str) -> bool:
    try:
        return bool(int(Path(f"/sys/class/net/{adapter}/flags").read_text(), 16) & 1)
    except (OSError, ValueError):
        return True


def wants_colour(out: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether labels are coloured: on a terminal that can, unless the user says otherwise (cli.md 1.6)."""
    if environ.get("NO_COLOR"):
        return False
    if environ.get("CLICOLOR_FORCE"):
        return True
    return out.isatty() and environ.get("TERM") != "dumb"


def render(banner: Banner, last: str, *, colour: bool) -> str:
    """The whole text; `last` is its last line. Colours only if asked for: a pipe gets no escape sequences."""
    lines = []
    rows = list(_rows(banner))
    width = max(_VALUE, *(len(value) + 2 for _, value, note in rows if note))
    for label, value, note in rows:
        padded = f"{label:<{_LABEL}}"
        if colour and label:
            padded = f"{_COLOUR}{label}{_RESET}{' ' * (_LABEL - len(label))}"
        if note:
            value = f"{value:<{width}}{_FAINT + note + _RESET if colour else note}"
        lines.append((padded + value).rstrip())
    return "\n".join(("", *lines, "", last, ""))


def _rows(banner: Banner) -> Iterator[tuple[str, str, str]]:
    yield from program_rows()
    yield "", "", ""
    yield "KMS", banner.kms, ""
    for index, url in enumerate(banner.urls):
        yield "" if index else "API", f"· {url}", ""
    yield "", "", ""
    yield "Docs", DOCS, ""
    yield "", "", ""
    if banner.api_key is not None:
        yield "API Key", banner.api_key, ""
    yield "Admin", banner.admin, ""
    yield "Auth", AUTH_TEXTS[banner.auth], ""
    yield "Logs", f"error=stderr level={banner.error_level}", ""
    if banner.audit_level is not None:
        yield "", f"audit=stdout level={banner.audit_level}", ""
    if banner.mlock:
        yield "MLock", "enabled", ""
