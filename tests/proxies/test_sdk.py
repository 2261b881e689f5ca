"""The official Go SDK through each TLS proxy, as it is with a direct connection."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.program import build, check, needs
from tests.proxies.proxies import HAProxy, HAProxy2, Nginx, Proxy, make_identities
from tests.support import start

# HAProxy breaks off the handshake, and the SDK does not always call it by that name; nginx has the server answer.
NO_CERTIFICATE = ["client: no certificate is a connection error"]
# nginx keeps the head of an HTTP/2 answer back until there is some of its body, and the SDK waits for it.
HEAD_ALONE = [
    "ErrorLog: a failed read is an event",
    "ErrorLog: WriteTo",
    "sdk: every call of the client was made and answered",
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("interop"))


@pytest.mark.parametrize(
    ("kind", "protocol", "without"),
    [
        (Nginx, "HTTP/1.1", NO_CERTIFICATE),
        (Nginx, "HTTP/2.0", [*NO_CERTIFICATE, *HEAD_ALONE]),
        (HAProxy, "HTTP/1.1", NO_CERTIFICATE),
        (HAProxy, "HTTP/2.0", NO_CERTIFICATE),
        (HAProxy2, "HTTP/2.0", NO_CERTIFICATE),
    ],
)
def test_the_sdk_gets_what_it_expects(
    tmp_path: Path, program: Path, kind: type[Proxy], protocol: str, without: list[str]
) -> None:
    """The checks of the interoperability program pass through a proxy, but those that a proxy cannot pass."""
    tls = {**make_identities(tmp_path), "auth": "off"}
    with start(tmp_path, tls=tls, **needs(tmp_path)) as server, kind(tmp_path, server.port) as proxy:
        check(program, proxy.port, tmp_path / "public.crt", protocol, without)
