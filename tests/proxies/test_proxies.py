"""TLS proxies in front of a server: its clients are who they are, and nobody else (contract section 5)."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509

from kes.certificate import make_client_certificate
from kes.identity import APIKey
from kes.server.tls import MAX_FORWARDED
from tests.certificates import CLIENT, DAY, NOW, SERVER, Made, make
from tests.documents import ROOT, blocks
from tests.openbao.server import free_ports
from tests.proxies.proxies import DOCUMENT, HAProxy, HAProxy2, Nginx, OptionalHAProxy, Proxy, make_identities
from tests.support import (
    ADMIN,
    APP,
    KES,
    STRANGER,
    TIMEOUT,
    Answer,
    Client,
    Server,
    client_context,
    require_tool,
    run,
    start,
    write_config,
)

SELF = "/v1/identity/self/describe"
INVALID = "tls: the proxy has not forwarded exactly one valid client certificate"
ROOT_CA = make("root", ca=True)
MIDDLE, TRUSTED_MIDDLE = make("middle", ROOT_CA, ca=True), make("trusted middle", make("unseen", ca=True), ca=True)
# Its names alone are more than may be forwarded.
BIG = make("big", ROOT_CA, extensions=[x509.SubjectAlternativeName([x509.DNSName(f"n{i}.test") for i in range(2000)])])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("proxies")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """A server with the default verification, and a route that needs no identity."""
    (folder / "authorities.crt").write_bytes(ROOT_CA.pem + TRUSTED_MIDDLE.pem)
    tls = {**make_identities(folder), "ca": str(folder / "authorities.crt")}
    with start(folder, tls=tls, api={"/v1/ready": {"skip_auth": "true"}}, log={"audit": "on"}) as server:
        yield server


@pytest.fixture(scope="module", params=[Nginx, HAProxy, HAProxy2])
def proxy(request: pytest.FixtureRequest, folder: Path, server: Server) -> Iterator[Proxy]:
    with request.param(folder, server.port) as proxy:
        yield proxy


def context(folder: Path, who: APIKey | Made | None) -> ssl.SSLContext:
    """The TLS context of a client that trusts the proxy's certificate and nothing else."""
    if not isinstance(who, Made):
        return client_context(folder, who, folder / "public.crt")
    context = client_context(folder, None, folder / "public.crt")
    pem = folder / "made.pem"
    pem.write_bytes(who.pem + who.key_pem)
    context.load_cert_chain(pem)
    return context


@pytest.fixture
def client(folder: Path, proxy: Proxy) -> Iterator[Any]:
    """Makes connections through the proxy: `client(ADMIN)`."""
    clients: list[Client] = []

    def connect(who: APIKey | Made | None) -> Client:
        clients.append(Client(proxy.port, context(folder, who)))
        return clients[-1]

    yield connect
    for one in clients:
        one.close()


def audited(server: Server, path: str) -> dict[str, str]:
    """The request of the audit event for `path`, which no other test asks for."""
    request: dict[str, str] = json.loads(server.wait_for(f'"{path}"'))["request"]
    return request


def pem(key: APIKey) -> str:
    return make_client_certificate(key, NOW)[0].decode()


def test_document_shows_what_runs() -> None:
    """What the document shows of the samples stands in them."""
    for language, sample in (("nginx", "etc/nginx/kes.conf"), ("haproxy", "etc/haproxy/haproxy.cfg")):
        block = blocks(DOCUMENT, language)[0]
        assert block in (ROOT / sample).read_text()


def test_identity(client: Any) -> None:
    """A client of the proxy is who its certificate says, request by request on connections that all share."""
    admin, app = client(ADMIN), client(APP)
    for _ in range(3):
        answer = admin.request("GET", SELF).json
        assert (answer["identity"], answer["admin"]) == (ADMIN.identity, True)
        answer = app.request("GET", SELF).json
        assert (answer["identity"], answer["policy"]) == (APP.identity, "my-app")


def test_policy(client: Any, proxy: Proxy) -> None:
    """What a policy allows is done, and nothing else."""
    name = f"my-app-{proxy.port}"
    app = client(APP)
    assert app.request("PUT", f"/v1/key/create/{name}").status == 200
    data_key = app.request("PUT", f"/v1/key/generate/{name}", {"context": "Y29udGV4dA=="}).json
    body = {"ciphertext": data_key["ciphertext"], "context": "Y29udGV4dA=="}
    assert app.request("PUT", f"/v1/key/decrypt/{name}", body).json["plaintext"] == data_key["plaintext"]
    refused = app.request("DELETE", f"/v1/key/delete/{name}")
    assert (refused.status, refused.message) == (403, "not authorized: insufficient permissions")
    assert client(ADMIN).request("DELETE", f"/v1/key/delete/{name}").status == 200


# What the proxy must not change: statuses, messages, spellings of paths. None may do what the plain spelling may not.
REQUESTS: dict[str, tuple[str, str, Any]] = {
    "no route": ("GET", "/v1/nothing", None),
    "method": ("DELETE", "/v1/status", None),
    "name": ("PUT", "/v1/key/create/my-app%C3%A9", None),
    "name with a slash": ("PUT", "/v1/key/create/my-app%2Fx", None),
    "missing key": ("PUT", "/v1/key/generate/my-app-missing", None),
    "bad body": ("PUT", "/v1/key/encrypt/my-app-x", b"nonsense"),
    "large body": ("PUT", "/v1/key/encrypt/my-app-x", b"x" * (1024 * 1024 + 1)),
    "large body, not allowed": ("PUT", "/v1/key/encrypt/other", b"x" * (1024 * 1024 + 1)),
    "not allowed": ("PUT", "/v1/key/generate/other", None),
    "denied": ("PUT", "/v1/key/generate/my-app-internal", None),
    "denied, encoded": ("PUT", "/v1/key/generate/my-app-intern%61l", None),
    "denied, encoded twice": ("PUT", "/v1/key/generate/my-app-intern%2561l", None),
    "denied, slashes": ("PUT", "/v1//key//generate/my-app-internal", None),
    "denied, dots": ("PUT", "/v1/key/create/../generate/my-app-internal", None),
    "denied, encoded dots": ("PUT", "/v1/key/create/%2e%2e/generate/my-app-internal", None),
    "denied, query": ("PUT", "/v1/key/generate/my-app-internal?x=/v1/key/generate/my-app", None),
    "head": ("HEAD", "/v1/status", None),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_same_answer_as_for_a_direct_client(client: Any, server: Server, name: str) -> None:
    """Status, body, type of content and Allow are the server's own."""

    def shown(answer: Answer) -> tuple[Any, ...]:
        return answer.status, answer.body, answer.headers.get("content-type"), answer.headers.get("allow")

    direct, through = server.client(APP), client(APP)
    method, path, body = REQUESTS[name]
    assert shown(through.request(method, path, body)) == shown(direct.request(method, path, body))


@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies(client: Any, proxy: Proxy, chunked: bool) -> None:
    """A body near the limit, and its answer, arrive whole; with or without its length told before."""
    name, plaintext = f"my-app-large-{proxy.port}-{chunked}", bytes(range(256)) * 2800
    app = client(APP)
    assert app.request("PUT", f"/v1/key/create/{name}").status == 200
    body = {"plaintext": base64.b64encode(plaintext).decode()}
    sealed = app.request("PUT", f"/v1/key/encrypt/{name}", body, chunked=chunked)
    opened = app.request("PUT", f"/v1/key/decrypt/{name}", sealed.json, chunked=chunked)
    assert base64.b64decode(opened.json["plaintext"]) == plaintext


ISSUED = {
    "by an authority": (make("issued", ROOT_CA, usages=[CLIENT]), True),
    "by a trusted authority in between": (make("issued", TRUSTED_MIDDLE), True),
    "by an unknown authority in between": (make("issued", MIDDLE), False),
    "by another authority": (make("foreign", make("other", ca=True)), False),
    "by another authority of that name": (make("foreign", make("root", ca=True)), False),
    "expired": (make("expired", ROOT_CA, until=NOW - DAY / 2), False),
    "not valid yet": (make("early", ROOT_CA, since=NOW + DAY / 2), False),
    "for servers": (make("server", ROOT_CA, usages=[SERVER]), False),
    "self-signed": (make("alone"), False),
    "an authority's": (ROOT_CA, False),
}


@pytest.mark.parametrize("name", ISSUED)
def test_issued_certificates(client: Any, server: Server, proxy: Proxy, name: str) -> None:
    """A forwarded certificate is verified as one of a handshake is: by the server, whatever the proxy thinks of it."""
    certificate, trusted = ISSUED[name]
    path = f"/v1/key/describe/issued-{list(ISSUED).index(name)}-{proxy.port}"
    answer = client(certificate).request("GET", path)
    if trusted:
        assert (answer.status, answer.message) == (403, "not authorized: insufficient permissions")
    else:
        assert (answer.status, answer.message) == (400, INVALID)
    assert audited(server, path)["identity"] == (certificate.identity if trusted else "")


def test_stranger(client: Any) -> None:
    """Who is not named by the config gets no further through a proxy than without."""
    answer = client(STRANGER).request("GET", "/version")
    assert (answer.status, answer.message) == (400, INVALID)


def test_no_certificate(client: Any, proxy: Proxy) -> None:
    """Who has no certificate is refused: in the handshake by HAProxy, by the server behind nginx."""
    if isinstance(proxy, Nginx):
        none = client(None)
        assert none.request("GET", SELF).message == INVALID
        assert none.request("GET", "/v1/ready").status == 200
    else:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            client(None).request("GET", SELF)


def test_optional_certificate(folder: Path, server: Server) -> None:
    """HAProxy as the document has it for routes without authentication: others still need a certificate."""
    with OptionalHAProxy(folder, server.port) as proxy:
        none, app = (Client(proxy.port, context(folder, who)) for who in (None, APP))
        assert none.request("GET", "/v1/ready").status == 200
        spoofed = {"X-Tls-Client-Cert": quote(pem(ADMIN))}
        assert none.request("GET", SELF, headers=spoofed).message == INVALID
        assert app.request("GET", SELF, headers=spoofed).json["identity"] == APP.identity
        none.close()
        app.close()


def test_certificate_too_large(client: Any, proxy: Proxy) -> None:
    """A certificate of more than can be forwarded is the client's problem, and nobody else's."""
    assert len(BIG.pem) > MAX_FORWARDED
    answer = client(BIG).request("GET", SELF)
    assert (answer.status, answer.message) == (400, INVALID)
    assert client(APP).request("GET", SELF).json["identity"] == APP.identity


@pytest.mark.parametrize(("address", "source"), [("127.0.0.1", "127.0.0.9"), ("::1", "::1")])
def test_address(folder: Path, server: Server, proxy: Proxy, address: str, source: str) -> None:
    """The audit log has the address that the client came from, IPv4 or IPv6."""
    connection = http.client.HTTPSConnection(
        address, proxy.port, context=context(folder, APP), timeout=TIMEOUT, source_address=(source, 0)
    )
    path = f"/v1/key/describe/address-{source.count(':')}-{proxy.port}"
    connection.request("GET", path)
    assert connection.getresponse().status == 403
    connection.close()
    assert audited(server, path) == {"ip": source, "path": path, "method": "GET", "identity": APP.identity}


def raw(proxy: Proxy, folder: Path, request: str) -> bytes:
    """What the proxy answers to the bytes of one HTTP/1.1 request of APP, up to the end of the connection."""
    plain = socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT)
    with context(folder, APP).wrap_socket(plain, server_hostname="127.0.0.1") as connection:
        connection.sendall(request.encode())
        answer = b""
        with suppress(ssl.SSLError, ConnectionError):
            while data := connection.recv(65536):
                answer += data
    return answer


FORGED = quote(pem(ADMIN))
SPOOFS: dict[str, tuple[list[str], str]] = {
    "certificate": ([f"X-Tls-Client-Cert: {FORGED}"], ""),
    "other case": ([f"x-TLS-client-CERT: {FORGED}"], ""),
    "twice": ([f"X-Tls-Client-Cert: {FORGED}", f"X-Tls-Client-Cert: {FORGED}"], ""),
    "underscores": ([f"X_Tls_Client_Cert: {FORGED}"], ""),
    "named as a header of the connection": (
        [f"X-Tls-Client-Cert: {FORGED}", "Connection: close, X-Tls-Client-Cert, X-Forwarded-For"],
        "",
    ),
    "address": (["X-Forwarded-For: 192.0.2.66"], ""),
    "addresses": (
        ["X-Forwarded-For: 192.0.2.66, 192.0.2.67", "x-forwarded-for: 192.0.2.68", "X-Real-IP: 192.0.2.69"],
        "",
    ),
    "in the trailer": (
        ["Transfer-Encoding: chunked", "Trailer: X-Tls-Client-Cert"],
        f"0\r\nX-Tls-Client-Cert: {FORGED}\r\nX-Forwarded-For: 192.0.2.66\r\n\r\n",
    ),
    "in the body": (
        ["Content-Length: 0"],
        f"GET {SELF} HTTP/1.1\r\nHost: kes\r\nX-Tls-Client-Cert: {FORGED}\r\nConnection: close\r\n\r\n",
    ),
}


@pytest.mark.parametrize("name", SPOOFS)
def test_spoofed_headers(folder: Path, server: Server, proxy: Proxy, name: str) -> None:
    """What a client itself sends of what a proxy tells is not believed: neither identity nor address change."""
    headers, rest = SPOOFS[name]
    marker = f"spoof-{list(SPOOFS).index(name)}-{proxy.port}"
    before = len(server.out)
    request = [f"PUT /v1/key/generate/{marker} HTTP/1.1", "Host: kes", *headers]
    if not any("onnection:" in header for header in headers) and name != "in the body":
        request.append("Connection: close")
    answer = raw(proxy, folder, "\r\n".join([*request, "", rest]))
    assert answer.startswith(b"HTTP/1.1 403 "), answer
    event = audited(server, f"/v1/key/generate/{marker}")
    assert (event["identity"], event["ip"]) == (APP.identity, "127.0.0.1")
    assert not any(ADMIN.identity in line or "192.0.2." in line for line in server.out[before:])


def test_spoofed_headers_over_http2(folder: Path, server: Server, proxy: Proxy) -> None:
    """The same from a client with HTTP/2."""
    context(folder, APP)
    path = f"/v1/key/describe/spoofed-h2-{proxy.port}"
    headers = (f"x-tls-client-cert: {FORGED}", "x-forwarded-for: 192.0.2.66")
    result = run(
        require_tool("curl"),
        *("--silent", "--show-error", "--http2", "--write-out", "%{http_version} %{http_code}", "--output", "answer"),
        *("--cacert", "public.crt", "--cert", f"client-{APP.identity}.pem"),
        *(word for header in headers for word in ("--header", header)),
        f"https://127.0.0.1:{proxy.port}{path}",
        cwd=folder,
    )
    assert result.stdout == "2 403", result.stderr
    event = audited(server, path)
    assert (event["identity"], event["ip"]) == (APP.identity, "127.0.0.1")


def test_resumed_session(folder: Path, proxy: Proxy) -> None:
    """A client that resumes its TLS session with the proxy is still the one that began it."""
    settings = context(folder, APP)
    session = None
    for resumed in (False, True):
        plain = socket.create_connection(("127.0.0.1", proxy.port), TIMEOUT)
        with settings.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as connection:
            connection.sendall(f"GET {SELF} HTTP/1.1\r\nHost: kes\r\n\r\n".encode())
            answer = b""
            while b"}\n" not in answer:
                answer += connection.recv(65536)
            assert APP.identity.encode() in answer
            assert connection.session_reused is resumed
            session = connection.session


def subscribe(client: Client, log: str = "audit") -> http.client.HTTPResponse:
    """An open stream of a log, through the proxy."""
    client.connection.request("GET", f"/v1/log/{log}")
    response = client.connection.getresponse()
    assert (response.status, response.getheader("content-type")) == (200, "application/x-ndjson")
    return response


def test_log_stream(client: Any, proxy: Proxy) -> None:
    """Events reach a subscriber while the stream goes on: the proxy holds none back, nor the head of the answer."""
    subscribe(client(ADMIN), "error")  # has an answer, and no event
    stream = subscribe(client(ADMIN))
    app = client(APP)
    for n in range(3):
        path = f"/v1/key/describe/streamed-{n}-{proxy.port}"
        assert app.request("GET", path).status == 403
        while (event := json.loads(stream.readline()))["request"]["path"] != path:
            pass
        assert event["request"]["identity"] == APP.identity


def test_nothing_in_temporary_files(folder: Path, server: Server) -> None:
    """nginx writes neither bodies nor answers to files, which hold plaintexts: it would say so in its log."""
    with Nginx(folder, server.port) as proxy:
        app = Client(proxy.port, context(folder, APP))
        assert app.request("PUT", "/v1/key/create/my-app-files").status == 200
        body = {"plaintext": base64.b64encode(bytes(700_000)).decode()}
        for _ in range(5):
            assert app.request("PUT", "/v1/key/encrypt/my-app-files", body).status == 200
        app.close()
    log = (folder / "nginx.log").read_text()
    assert "temporary file" not in log


def test_proxy_reload(folder: Path, server: Server, proxy: Proxy) -> None:
    """While the proxy reloads, nobody is refused, and a stream that stands goes on."""
    watcher = Client(proxy.port, context(folder, ADMIN))
    stream = subscribe(watcher)
    proxy.reload()
    for n in range(20):
        app = Client(proxy.port, context(folder, APP))
        assert app.request("GET", f"/v1/key/describe/reloaded-{n}-{proxy.port}").status == 403
        app.close()
    while f"/reloaded-19-{proxy.port}" not in stream.readline().decode():
        pass
    watcher.close()


@pytest.mark.parametrize(("kind", "unavailable"), [(Nginx, 502), (HAProxy, 503), (HAProxy2, 503)])
def test_server_restarts(tmp_path: Path, kind: type[Proxy], unavailable: int) -> None:
    """While the server is down the proxy says so; as soon as it is back it is used again."""
    config = write_config(tmp_path, tls=make_identities(tmp_path))
    (port,) = free_ports(1)
    command = [KES, "server", "--addr", f"127.0.0.1:{port}", "--config", str(config)]
    server = Server(command, cwd=tmp_path)
    with kind(tmp_path, port) as proxy:
        client = Client(proxy.port, context(tmp_path, APP))
        with server:
            assert client.request("GET", SELF).status == 200
        assert client.request("GET", SELF).status == unavailable
        with Server(command, cwd=tmp_path):
            assert client.request("GET", SELF).json["identity"] == APP.identity
            client.close()
