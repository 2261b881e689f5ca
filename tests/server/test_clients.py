"""Clients, TLS proxies and changed files, as a running server has them."""

from __future__ import annotations

import json
import signal
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from twisted.internet.task import Clock

from kes.api.endpoint import Endpoint
from kes.certificate import make_client_certificate
from kes.errors import CertificateRequired
from kes.identity import APIKey
from kes.routes import ROUTES
from kes.server.http.request import Peer, Request
from kes.server.state import RouteSettings
from tests.support import ADMIN, APP, STRANGER, Client, Server, start, write_server_certificate

PROXY = APIKey.parse("kes:v1:ACQpoGqx3rHHjT938Hfu5hVVQJHZWSqVI2Xp1KlYxFVw")
HEADER = "X-Tls-Client-Cert"
SELF = "/v1/identity/self/describe"
REQUIRED = "tls: client certificate is required"
INVALID = "tls: the proxy has not forwarded exactly one valid client certificate"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clients")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """A server with the default verification, a TLS proxy, and a route that needs no identity."""
    cert, key = write_server_certificate(folder)
    proxy = {"identities": [PROXY.identity], "header": {"cert": HEADER}}
    with start(
        folder,
        tls={"cert": str(cert), "key": str(key), "proxy": proxy},
        api={"/v1/status": {"skip_auth": "true"}},
        log={"audit": "on"},
    ) as server:
        yield server


def certificate(key: APIKey) -> str:
    return quote(make_client_certificate(key, datetime.now(UTC))[0])


def audited(server: Server, path: str) -> dict[str, str]:
    """The request of the audit event for `path`, which no other test asks for."""
    request: dict[str, str] = json.loads(server.wait_for(f'"{path}"'))["request"]
    return request


def test_stranger(server: Server) -> None:
    """A self-signed certificate that the configuration does not name is refused, with one line that says all."""
    before = len(server.err)
    client = server.client(STRANGER)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        client.request("GET", "/version")
    line = server.wait_for(STRANGER.identity, errors=True)
    assert (
        f"refused the client certificate of identity {STRANGER.identity} from 127.0.0.1: it is self-signed. "
        "To admit it, add its authority to tls.ca, or assign the identity to a policy"
    ) in line
    assert server.client(ADMIN).request("GET", "/version").status == 200
    assert sum(STRANGER.identity in line for line in server.err[before:]) == 1


def test_no_certificate(server: Server) -> None:
    """With a route that needs no identity a client may come without a certificate; other routes tell it to have one."""
    client = server.client(None)
    for _ in range(3):
        assert client.request("GET", "/v1/status").status == 200
        assert client.request("GET", "/version").status == 200
        for path in (SELF, "/v1/metrics", "/v1/key/describe/x"):
            answer = client.request("GET", path)
            assert (answer.status, answer.message) == (400, REQUIRED)


def test_forwarded_client(server: Server) -> None:
    """A proxy's request is its client's: identity, policy and audit follow the forwarded certificate."""
    proxy = server.client(PROXY)
    answer = proxy.request("GET", SELF, headers={HEADER: certificate(ADMIN)})
    assert (answer.json["identity"], answer.json["admin"]) == (ADMIN.identity, True)
    answer = proxy.request("GET", SELF, headers={HEADER.lower(): certificate(APP)})
    assert (answer.json["identity"], answer.json["policy"]) == (APP.identity, "my-app")
    headers = {HEADER: certificate(APP), "X-Forwarded-For": "192.0.2.9, 10.0.0.1"}
    assert proxy.request("GET", "/v1/key/describe/forwarded", headers=headers).status == 403
    request = audited(server, "/v1/key/describe/forwarded")
    assert (request["identity"], request["ip"]) == (APP.identity, "192.0.2.9")


def test_forwarded_stranger(server: Server) -> None:
    """A forwarded certificate is verified like any other: by default a stranger's is refused."""
    answer = server.client(PROXY).request("GET", SELF, headers={HEADER: certificate(STRANGER)})
    assert (answer.status, answer.message) == (400, INVALID)
    line = server.wait_for("that a TLS proxy forwards", errors=True)
    assert f"refused the client certificate of identity {STRANGER.identity} that a TLS proxy forwards" in line


def test_proxy_itself(server: Server) -> None:
    """A proxy is no client: without a certificate to go by its requests are refused, save where none is needed."""
    proxy = server.client(PROXY)
    too_large = certificate(APP) + "%0A" * 6000
    for headers in ({}, {HEADER: ""}, {HEADER: "x"}, {HEADER: too_large}):
        answer = proxy.request("GET", SELF, headers=headers)
        assert (answer.status, answer.message) == (400, INVALID)
    assert proxy.request("GET", "/v1/status").status == 200
    assert proxy.request("GET", "/version").status == 400


def test_two_forwarded_certificates(server: Server) -> None:
    """Two headers with certificates are refused, as a client may have smuggled in one of them."""
    connection = server.client(PROXY).connection
    connection.putrequest("GET", SELF)
    connection.putheader(HEADER, certificate(APP))
    connection.putheader(HEADER, certificate(ADMIN))
    connection.endheaders()
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["message"]) == (400, INVALID)


def test_client_that_plays_proxy(server: Server) -> None:
    """From who is no proxy the headers mean nothing: neither identity nor address change."""
    headers = {HEADER: certificate(ADMIN), "X-Forwarded-For": "192.0.2.66"}
    client = server.client(APP)
    assert client.request("GET", SELF, headers=headers).json["identity"] == APP.identity
    assert client.request("GET", "/v1/key/describe/played", headers=headers).status == 403
    request = audited(server, "/v1/key/describe/played")
    assert (request["identity"], request["ip"]) == (APP.identity, "127.0.0.1")


ADDRESSES = {
    "none": (None, "127.0.0.1"),
    "one": ("192.0.2.9", "192.0.2.9"),
    "two": ("192.0.2.9,203.0.113.5", "192.0.2.9"),
    "IPv6": ("2001:DB8:0::9", "2001:db8::9"),
    "empty": ("", "127.0.0.1"),
    "empty-entry": (", 192.0.2.9", "127.0.0.1"),
    "word": ("unknown", "127.0.0.1"),
    "port": ("192.0.2.9:5678", "192.0.2.9"),
    "port-of-first": ("192.0.2.9:5678, 203.0.113.5:80", "192.0.2.9"),
    "brackets": ("[2001:DB8::9]", "2001:db8::9"),
    "brackets-and-port": ("[2001:db8::9]:80", "2001:db8::9"),
    "no-port": ("192.0.2.9:", "127.0.0.1"),
    "port-in-words": ("192.0.2.9:http", "127.0.0.1"),
    "two-ports": ("192.0.2.9:80:80", "127.0.0.1"),
    "IPv4-in-brackets": ("[192.0.2.9]:80", "127.0.0.1"),
    "open-bracket": ("[2001:db8::9", "127.0.0.1"),
    "scope-in-brackets": ('[fe80::1%","identity":"me]:80', "127.0.0.1"),
    "number": ("192.0.2.256", "127.0.0.1"),
    "scope": ('fe80::1%","identity":"me', "127.0.0.1"),
    "not-ASCII": ("\u0661.1.1.1".encode().decode("latin-1"), "127.0.0.1"),
    "long": ("1" * 20_000, "127.0.0.1"),
}


@pytest.mark.parametrize("name", ADDRESSES)
def test_forwarded_address(server: Server, name: str) -> None:
    """The client's address is the first one in the header. If that is no IP address, with or without a port, it is the
    proxy's."""
    forwarded, address = ADDRESSES[name]
    headers = {HEADER: certificate(APP)} | ({} if forwarded is None else {"X-Forwarded-For": forwarded})
    assert server.client(PROXY).request("GET", f"/v1/key/describe/address-{name}", headers=headers).status == 403
    request = audited(server, f"/v1/key/describe/address-{name}")
    assert (request["ip"], request["identity"]) == (address, APP.identity)


def test_refused_method_and_route(server: Server) -> None:
    """The audit log tells who asked also where that played no part in the answer."""
    client = server.client(APP)
    assert client.request("DELETE", "/v1/key/describe/method").status == 405
    assert audited(server, "/v1/key/describe/method")["identity"] == APP.identity
    headers = {HEADER: certificate(APP), "X-Forwarded-For": "192.0.2.9"}
    assert server.client(PROXY).request("GET", "/v1/no-route", headers=headers).status == 404
    request = audited(server, "/v1/no-route")
    assert (request["identity"], request["ip"]) == (APP.identity, "192.0.2.9")


class Channel:
    """Takes answers."""

    def __init__(self) -> None:
        self.codes: list[int] = []

    def sendAnswer(self, request: Request, code: int, *rest: object) -> None:
        self.codes.append(code)


def test_refusal_does_not_grow() -> None:
    """One refusal answers all requests of a connection, and keeps nothing of them alive, as raising it would."""
    refusal, channel = CertificateRequired(), Channel()
    (route,) = (route for route in ROUTES if route.path == SELF)
    state = SimpleNamespace(proxies=frozenset(), routes={route.path: RouteSettings(15.0, skip_auth=False)})
    endpoint = Endpoint(route, Clock())
    for _ in range(3):
        request = Request(channel, Peer("192.0.2.7", None, refusal), route.method.encode(), route.path.encode(), ())
        request.state = state
        assert endpoint.begin(request) == 0
        endpoint.render(request)
    assert channel.codes == [400] * 3
    assert refusal.__traceback__ is None


def certificate_of(client: Client) -> bytes | None:
    client.connection.connect()
    der = client.connection.sock.getpeercert(binary_form=True)
    assert client.request("GET", "/version").status == 200
    return der


def test_changed_certificate(tmp_path: Path) -> None:
    """After a reload new connections get the new certificate, and old ones go on; a bad pair changes nothing."""
    with start(tmp_path) as server:
        first, old = server.client(), (tmp_path / "server.crt").read_bytes()
        assert certificate_of(first) == ssl.PEM_cert_to_DER_cert(old.decode())
        cert, key = write_server_certificate(tmp_path)
        server.reload()
        assert first.request("GET", "/version").status == 200
        new = ssl.PEM_cert_to_DER_cert(cert.read_text())
        assert certificate_of(server.client()) == new
        key.write_text("rubbish")
        server.process.send_signal(signal.SIGHUP)
        line = server.wait_for("not reloaded", errors=True)
        assert f"tls.key {key}: holds no PEM private key" in line
        assert certificate_of(server.client()) == new
        assert first.request("GET", "/version").status == 200
