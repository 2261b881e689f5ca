"""Where servers are: the text that names them (cli.md 2.2), and how near each is (cli.md 3.4).

The text is strict about what it would otherwise have to guess: user names, queries and fragments are errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import msgspec

from kes.client.errors import ConfigurationError

if TYPE_CHECKING:
    from ipaddress import IPv4Interface, IPv6Interface

DEFAULT: Final = "127.0.0.1:7373"
PORT: Final = 443  # of an endpoint without one
RESOLVE_TIMEOUT: Final = 2.0  # seconds for the names of all endpoints, which are looked up at once
_URL = re.compile(r"https://(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([^\s/?#@:\[\]]+))(?::([0-9]{1,5}))?((?:/[!$-;=@-~]*)?)")


class Endpoint(msgspec.Struct, frozen=True):
    """One server. `path` is in front of every request's path; it is empty or begins with a slash."""

    host: str
    port: int = PORT
    path: str = ""

    @property
    def authority(self) -> str:
        """Host and port as people write them, and the Host header sends them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORT else f"{host}:{self.port}"

    def __str__(self) -> str:
        return self.authority + self.path


def parse_endpoints(text: str) -> tuple[Endpoint, ...]:
    """The endpoints of a comma-separated text; each once, in its order. Raises ConfigurationError."""
    endpoints = dict.fromkeys(_parse(item) for item in map(str.strip, text.split(",")) if item)
    if not endpoints:
        raise ConfigurationError("no server is given")
    return tuple(endpoints)


def _parse(text: str) -> Endpoint:
    url = text.removeprefix("http://")
    url = (url if url.startswith("https://") else f"https://{url}").rstrip("/")
    match = _URL.fullmatch(url)
    port = int(match[3] or PORT) if match else 0
    if match is None or not 0 < port < 65536:
        # What is wrong may be a password in front of an '@'.
        raise ConfigurationError(f"invalid server {text.rpartition('@')[2][:128]!r}: expected HOST or HOST:PORT")
    try:
        host = match[1] or (match[2] if match[2].isascii() else match[2].encode("idna").decode())
    except UnicodeError:
        raise ConfigurationError(f"invalid server {text[:128]!r}: not a host name") from None
    return Endpoint(host.lower(), port, match[4])


class Nearness(IntEnum):
    OWN_HOST = 0
    SAME_SUBNET = 1
    OTHER = 2


def resolve(host: str) -> str | None:
    """The first address of a host name; None if it has none. Blocks."""
    import socket

    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return None


def interfaces() -> list[IPv4Interface | IPv6Interface]:
    """The addresses of this machine, each with its network."""
    from ipaddress import ip_interface

    import ifaddr

    found = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            address = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            found.append(ip_interface(f"{address}/{ip.network_prefix}"))
    return found


def nearness(
    endpoints: Sequence[Endpoint],
    resolve: Callable[[str], str | None],
    interfaces: Callable[[], list[IPv4Interface | IPv6Interface]],
) -> dict[Endpoint, Nearness]:
    """How near each endpoint is, in the order of nearness, and else in theirs.

    Names are looked up in threads of their own, for a lookup cannot be given up; one that takes longer than
    RESOLVE_TIMEOUT is not waited for.
    """
    import time
    from threading import Thread

    addresses: dict[str, str | None] = {}

    def look_up(host: str) -> None:
        addresses[host] = resolve(host)

    hosts = {endpoint.host for endpoint in endpoints} - {"localhost"}
    threads = []
    for host in hosts:
        thread = Thread(target=look_up, args=(host,), daemon=True)
        with suppress(RuntimeError):  # the system allows no further thread: how near the host is stays unknown
            thread.start()
            threads.append(thread)
    deadline = time.monotonic() + RESOLVE_TIMEOUT
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    local = interfaces()
    found = {
        endpoint: Nearness.OWN_HOST if endpoint.host == "localhost" else _nearness(addresses.get(endpoint.host), local)
        for endpoint in endpoints
    }
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _nearness(address: str | None, local: list[IPv4Interface | IPv6Interface]) -> Nearness:
    from ipaddress import ip_address

    if address is None:
        return Nearness.OTHER
    ip = ip_address(address.partition("%")[0])
    if ip.is_loopback or any(ip == interface.ip for interface in local):
        return Nearness.OWN_HOST
    if any(ip in interface.network for interface in local):
        return Nearness.SAME_SUBNET
    return Nearness.OTHER
