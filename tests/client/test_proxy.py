"""Proxies: which endpoints are reached through one, and how."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kes.certificate import make_server_certificate
from kes.client import ConfigurationError, ConnectionFailed, TLSError, TLSProblem
from kes.client.endpoint import parse_endpoints
from kes.client.proxy import Proxies, Proxy
from tests.client.fake import DROP, FakeServer, reply

PROXY = {"HTTPS_PROXY": "http://proxy.example:3128"}


def through(endpoint: str, **environ: str) -> Proxy | None:
    return Proxies.from_environment(environ).proxy_of(parse_endpoints(endpoint)[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://proxy.example:3128", Proxy("proxy.example", 3128)),
        ("proxy.example", Proxy("proxy.example", 80)),
        ("http://[::1]:1/", Proxy("::1", 1)),
        ("http://me:a%3Ab@p:1", Proxy("p", 1, "Basic bWU6YTpi")),
    ],
)
def test_proxy(text: str, expected: Proxy) -> None:
    """HTTPS_PROXY is a host, perhaps with port and password; both spellings count."""
    assert through("kes:1", HTTPS_PROXY=text) == through("kes:1", https_proxy=text) == expected


def test_proxy_that_closes(connect: Callable[..., Any], fake: Callable[..., FakeServer]) -> None:
    """A proxy that closes the connection is reported as that."""
    proxy = fake(lambda _: DROP, tls=False)
    with pytest.raises(ConnectionFailed, match="the proxy closed the connection"):
        connect("kes.example.com", environ={"HTTPS_PROXY": proxy.address}).version()


@pytest.mark.parametrize("text", ["https://proxy:1", "socks5://proxy:1", "http://me:hidden@proxy:0"])
def test_unsupported(text: str) -> None:
    """A proxy that cannot be used is refused; its password is not repeated."""
    with pytest.raises(ConfigurationError) as caught:
        through("kes:1", HTTPS_PROXY=text)
    assert "hidden" not in str(caught.value)


def test_password_is_not_shown() -> None:
    """The repr does not show the credentials."""
    assert "bWU6" not in repr(through("kes:1", HTTPS_PROXY="http://me:hidden@p:1"))


@pytest.mark.parametrize("endpoint", ["127.0.0.1:1", "127.8.8.8", "localhost:1", "[::1]:1"])
def test_loopback(endpoint: str) -> None:
    """Loopback is never proxied."""
    assert through(endpoint, **PROXY) is None


@pytest.mark.parametrize(
    ("exceptions", "endpoint", "direct"),
    [
        ("", "kes.example.com", False),
        ("*", "kes.example.com", True),
        ("example.com", "kes.example.com", True),
        (".example.com", "kes.example.com", True),
        ("*.example.com", "kes.example.com", True),
        ("example.com", "kesexample.com", False),
        ("example.com, other", "other:1", True),
        ("kes:1", "kes:1", True),
        ("kes:1", "kes:2", False),
        ("10.0.0.0/8", "10.1.2.3:1", True),
        ("10.0.0.0/8", "11.1.2.3:1", False),
        ("10.1.2.3", "10.1.2.3:1", True),
        ("10.1.2.3:1", "10.1.2.3:2", False),
        ("fd00::/8", "[fd00::1]:1", True),
        ("[fd00::1]:1", "[fd00::1]:1", True),
        ("[fd00::1]:2", "[fd00::1]:1", False),
    ],
)
def test_exceptions(exceptions: str, endpoint: str, direct: bool) -> None:
    """NO_PROXY lists addresses, networks and domains, perhaps with a port."""
    assert (through(endpoint, **PROXY, NO_PROXY=exceptions) is None) is direct


def test_tunnel(connect: Callable[..., Any], tmp_path: Path) -> None:
    """Through a proxy the server itself is verified and gets the request; the password is the proxy's alone."""
    certificate = tmp_path / "server.pem"
    certificate.write_bytes(b"".join(make_server_certificate(["10.1.2.3"], datetime.now(UTC))))
    with FakeServer(lambda _: reply(body={"version": "v"}), certificate, tunnel=True) as proxy:
        environ = {"HTTPS_PROXY": f"http://me:word@{proxy.address}"}
        client = connect("10.1.2.3:7373", ca_file=str(certificate), environ=environ)
        assert (client.version().version, client.version().endpoint) == ("v", "10.1.2.3:7373")
        other = connect("10.1.2.4:7373", ca_file=str(certificate), environ=environ)
        with pytest.raises(TLSError) as caught:
            other.version()
    first, second, third, *_ = proxy.requests
    assert (first.method, first.path) == ("CONNECT", "10.1.2.3:7373")
    assert b"Proxy-Authorization: Basic bWU6d29yZA==\r\n" in first.body
    assert (second.method, second.path, third.connection) == ("GET", "/version", 1)
    assert caught.value.kind is TLSProblem.NAME_MISMATCH
    assert "10.1.2.3" in caught.value.names


def test_connect(connect: Callable[..., Any], fake: Callable[..., FakeServer]) -> None:
    """The proxy is asked to connect, with its password; its refusal is a lost connection, and nothing was sent."""
    proxy = fake(lambda _: reply(407), tls=False)
    client = connect("kes.example.com", environ={"HTTPS_PROXY": f"http://me:word@{proxy.address}"})
    with pytest.raises(ConnectionFailed, match="the proxy refused with status 407") as caught:
        client.create_key("k")
    assert not caught.value.sent
    assert (proxy.requests[0].method, proxy.requests[0].path) == ("CONNECT", "kes.example.com:443")
