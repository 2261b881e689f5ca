"""Listening addresses as text: `IP:port`, `:port` and `[IPv6]:port` (contract section 1).

Nothing is resolved: a host name is refused, not looked up.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from kes.config.errors import InvalidTextError

_ADDRESS = re.compile(r"(?:\[(?P<bracketed>[^\[\]]*)\]|(?P<plain>[^\[\]:]*)):(?P<port>[^\[\]:]*)")
_PORT = re.compile(r"[0-9]{1,5}")


class Address(NamedTuple):
    """Where to listen: an IP address without brackets, or `""` for every interface (IPv4 and IPv6), and a port."""

    interface: str
    port: int

    def __str__(self) -> str:
        return f"[{self.interface}]:{self.port}" if ":" in self.interface else f"{self.interface}:{self.port}"


DEFAULT = Address("0.0.0.0", 7373)  # noqa: S104 - the contract's default is every interface


def parse(text: str) -> Address:
    """Return the address in `text`; port 0 stands for any free one.

    Raises InvalidTextError if the host is no IP address (one with a zone such as `%eth0` is none either) or the port
    is missing or no number from 0 to 65535.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None:
        hint = "put an IPv6 address in brackets, as in [::]:7373" if text.count(":") > 1 else "write IP:port or :port"
        raise InvalidTextError(text, f"is not an address: {hint}")
    host, port = match["bracketed"] or match["plain"] or "", match["port"]
    if host and not _is_ip(host):
        raise InvalidTextError(host, "is not a valid IP address")
    if _PORT.fullmatch(port) is None or int(port) > 65535:
        raise InvalidTextError(port, "is not a valid port: write a number from 0 to 65535")
    return Address(host, int(port))


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text
