"""Where connections to an HTTP server come from: kept or new ones, direct or through the proxy of the environment."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore

from kes.keystore.deadline import Backend

_CONNECTIONS = 40  # at most, and kept: the server's 32 store threads, and what runs in the background
_IDLE = 5.0  # seconds that a connection is kept without a request


class Connections:
    """Pools of connections under `context`, on which no wait goes beyond a deadline (`kes.keystore.deadline`).

    A connection must stand in `connect` seconds, and TLS on it in as many. Raises `ValueError` for a proxy in the
    environment that cannot be used; its text has no password.
    """

    def __init__(self, context: ssl.SSLContext, *, clock: Callable[[], float], connect: float) -> None:
        settings: dict[str, Any] = {
            "ssl_context": context,
            "max_connections": _CONNECTIONS,
            "max_keepalive_connections": _CONNECTIONS,
            "keepalive_expiry": _IDLE,
            "network_backend": Backend(clock=clock, connect=connect),
        }
        proxies = getproxies()
        self._direct = httpcore.ConnectionPool(**settings)
        self._proxied: dict[str, httpcore.ConnectionPool] = {}  # by the scheme of the URL that is asked for
        for scheme in ("http", "https"):
            proxy = proxies.get(scheme) or proxies.get("all")
            if proxy:
                self._proxied[scheme] = _proxy_pool(proxy, settings)

    def pool(self, url: str) -> httpcore.ConnectionPool:
        """Return the pool for requests to `url`."""
        parts = urlsplit(url)
        proxied = self._proxied.get(parts.scheme)
        if proxied is None or proxy_bypass(parts.netloc):
            return self._direct
        return proxied

    def close(self) -> None:
        """Close all connections. Requests under way fail."""
        for pool in (self._direct, *self._proxied.values()):
            pool.close()


def _proxy_pool(proxy: str, settings: dict[str, Any]) -> httpcore.HTTPProxy:
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{parts.scheme} is not supported; write the URL of an http or https proxy")
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    host = parts.hostname
    if not host:
        raise ValueError("no host in its URL")
    auth = None
    if parts.username is not None:
        auth = (unquote(parts.username).encode(), unquote(parts.password or "").encode())
    return httpcore.HTTPProxy(
        httpcore.URL(scheme=parts.scheme, host=host, port=port, target="/"),
        proxy_auth=auth,
        # The proxy's certificate is checked as the system has it; that of the server behind it as `settings` have it.
        proxy_ssl_context=ssl.create_default_context() if parts.scheme == "https" else None,
        **settings,
    )
