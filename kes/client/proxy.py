"""Which endpoints are reached through an HTTP proxy: HTTPS_PROXY and NO_PROXY. Loopback never is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from kes.client.endpoint import Endpoint
from kes.client.errors import ConfigurationError

_PROXY = re.compile(r"(?:http://)?(?:([^/?#@]*)@)?(\[[0-9A-Fa-f:.]+\]|[^\s/?#@:\[\]]+)(?::([0-9]{1,5}))?/?")


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that is asked to CONNECT. `authorization` is a header's value."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxy, if any, and what is reached without it, in the form of NO_PROXY."""

    proxy: Proxy | None = None
    exceptions: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Proxies:
        """The setting of HTTPS_PROXY and NO_PROXY, in capitals or not. Raises ConfigurationError."""
        text = environ.get("HTTPS_PROXY") or environ.get("https_proxy")
        if not text:
            return cls()
        exceptions = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
        return cls(_parse(text), tuple(item.strip().lower() for item in exceptions.split(",") if item.strip()))

    def proxy_of(self, endpoint: Endpoint) -> Proxy | None:
        """The proxy for an endpoint, None if it is reached directly."""
        if self.proxy is None or _is_loopback(endpoint.host):
            return None
        if any(_is_excepted(endpoint, exception) for exception in self.exceptions):
            return None
        return self.proxy


def _parse(text: str) -> Proxy:
    match = _PROXY.fullmatch(text)
    port = int(match[3] or 80) if match else 0
    if match is None or not 0 < port < 65536:
        # The text may hold a password, so it is not repeated.
        raise ConfigurationError("HTTPS_PROXY is invalid: expected http://HOST:PORT or http://USER:PASSWORD@HOST:PORT")
    authorization = ""
    if match[1]:
        from base64 import b64encode
        from urllib.parse import unquote_to_bytes

        user, _, password = match[1].partition(":")
        credentials = unquote_to_bytes(user) + b":" + unquote_to_bytes(password)
        authorization = f"Basic {b64encode(credentials).decode()}"
    return Proxy(match[2].strip("[]"), port, authorization)


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address

    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _is_excepted(endpoint: Endpoint, exception: str) -> bool:
    """Whether an item of NO_PROXY covers an endpoint: `*`, an address, a network, or a domain and all below it."""
    from ipaddress import ip_address, ip_network

    if exception == "*":
        return True
    name, colon, port = exception.rpartition(":")
    if colon and port.isdecimal() and (":" not in name or name.startswith("[")):
        if int(port) != endpoint.port:
            return False
        exception = name
    exception = exception.strip("[]")
    try:
        return ip_address(endpoint.host) in ip_network(exception, strict=False)
    except ValueError:
        domain = exception.removeprefix("*").removeprefix(".")
        return endpoint.host == domain or (bool(domain) and endpoint.host.endswith(f".{domain}"))
