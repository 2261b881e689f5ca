"""Who the client is, whom it trusts, and what it says when TLS fails."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from kes.certificate import load_private_key, make_client_certificate
from kes.client import ConfigurationError, ConnectionFailed, PasswordRequired, Timeouts, TLSError, TLSProblem
from tests.client.fake import TIMEOUT, FakeServer, reply
from tests.support import ADMIN, APP, Server, start

Make = Callable[..., Any]
Fake = Callable[..., FakeServer]
DAY = timedelta(days=1)


def write_certificate(
    path: Path, begin: timedelta = -DAY, end: timedelta = DAY, names: tuple[str, ...] = ("127.0.0.1",)
) -> Path:
    """A self-signed server certificate for addresses, and its key, in one file."""
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now + begin)
        .not_valid_after(now + end)
    )
    if names:
        addresses = [x509.IPAddress(ipaddress.ip_address(name)) for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(addresses), critical=False)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    path.write_bytes(pem + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def failure(client: Any) -> TLSError:
    with pytest.raises(TLSError) as caught:
        client.version()
    assert str(caught.value).startswith("tls: ")
    return caught.value


def test_unknown_issuer(connect: Make, server: Server) -> None:
    """A server whose issuer is not trusted is refused."""
    assert failure(connect(f"127.0.0.1:{server.port}")).kind is TLSProblem.UNKNOWN_ISSUER


def test_system_authorities(connect: Make, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """SSL_CERT_FILE names the authorities to trust."""
    monkeypatch.setenv("SSL_CERT_FILE", str(server.folder / "server.crt"))
    connect(f"127.0.0.1:{server.port}").version()


@pytest.mark.parametrize("name", ["authority.pem", "no-extension", ".hidden"])
def test_folder_of_authorities(connect: Make, server: Server, tmp_path: Path, name: str) -> None:
    """SSL_CERT_DIR takes every file of its folders, whatever its name, and passes over what is no certificate."""
    folder = tmp_path / "authorities"
    folder.mkdir()
    (folder / name).write_bytes("# Größe\n".encode() + (server.folder / "server.crt").read_bytes())
    (folder / "notes.txt").write_text("no certificate")
    (folder / "dangling").symlink_to("nowhere")
    environ = {"SSL_CERT_DIR": f"{tmp_path / 'missing'}:{folder}"}
    connect(f"127.0.0.1:{server.port}", environ=environ).version()


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_unreadable_authorities(connect: Make, tmp_path: Path, variable: str) -> None:
    """A file or folder of authorities that cannot be read is an error that names the variable and the path."""
    with pytest.raises(ConfigurationError) as caught:
        connect("127.0.0.1:1", environ={variable: str(tmp_path / "missing")})
    assert str(caught.value) == f"{variable} {tmp_path / 'missing'}: No such file or directory"


def test_authorities_without_certificate(connect: Make, tmp_path: Path) -> None:
    """A file named by SSL_CERT_FILE that holds no certificate is an error."""
    (tmp_path / "empty").write_text("nothing")
    with pytest.raises(ConfigurationError, match=r"^SSL_CERT_FILE .*/empty: holds no valid PEM certificate$"):
        connect("127.0.0.1:1", environ={"SSL_CERT_FILE": str(tmp_path / "empty")})


def test_insecure(connect: Make, server: Server) -> None:
    """`insecure` takes any server."""
    connect(f"127.0.0.1:{server.port}", insecure=True).version()


@pytest.mark.parametrize("names", [("127.0.0.2", "::1"), ()], ids=["others", "none"])
def test_name_mismatch(connect: Make, fake: Fake, tmp_path: Path, names: tuple[str, ...]) -> None:
    """A certificate without the host among its SANs is refused, whatever its common name; the error has the SANs."""
    pem = write_certificate(tmp_path / "pem", names=names)
    with FakeServer(lambda _: reply(), pem) as server:
        address = f"localhost:{server.port}"
        error = failure(connect(address, ca_file=str(pem)))
        assert (error.kind, error.names) == (TLSProblem.NAME_MISMATCH, names)
        assert (error.endpoint, server.requests) == (address, [])


@pytest.mark.parametrize(
    ("begin", "end", "kind"),
    [(-2 * DAY, -DAY, TLSProblem.EXPIRED), (DAY, 2 * DAY, TLSProblem.NOT_YET_VALID)],
    ids=["expired", "early"],
)
def test_validity(connect: Make, tmp_path: Path, begin: timedelta, end: timedelta, kind: TLSProblem) -> None:
    """A certificate is refused before and after its time; the error has its dates."""
    pem = write_certificate(tmp_path / "pem", begin, end)
    certificate = x509.load_pem_x509_certificate(pem.read_bytes())
    with FakeServer(lambda _: reply(), pem) as server:
        error = failure(connect(server.address, ca_file=str(pem)))
    assert error.kind is kind
    assert error.validity == (
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
    )


def test_client_rejected(connect: Make, tmp_path: Path) -> None:
    """A server that refuses the client's certificate is reported as that, at once, with the client's identity."""
    with start(
        tmp_path, tls={"key": str(tmp_path / "server.key"), "cert": str(tmp_path / "server.crt"), "auth": "on"}
    ) as server:
        client = connect(f"127.0.0.1:{server.port}", ca_file=str(tmp_path / "server.crt"), api_key=str(APP))
        error = failure(client)
        with pytest.raises(TLSError):
            client.create_key("k")
    assert (error.kind, error.identity) == (TLSProblem.CLIENT_REJECTED, APP.identity)


def test_plain_http(connect: Make, fake: Fake) -> None:
    """A server that answers in plain HTTP is told from one with broken TLS."""
    server = fake(lambda _: reply(400), tls=False)
    assert failure(connect(server.address)).kind is TLSProblem.PLAIN_HTTP


def test_no_tls_at_all(connect: Make, fake: Fake) -> None:
    """A server that speaks something else altogether is a protocol error."""
    server = fake(lambda _: b"220 mail.example\r\n", tls=False)
    assert failure(connect(server.address)).kind is TLSProblem.PROTOCOL


@pytest.mark.parametrize(("timeouts", "handshake"), [(Timeouts(handshake=0), True), (Timeouts(response=0), False)])
def test_slow_server(connect: Make, fake: Fake, certificate: Path, timeouts: Timeouts, handshake: bool) -> None:
    """Handshake and response have their own limits; a time that is over is a lost connection."""
    release = threading.Event()

    def handler(_: Any) -> bytes:
        release.wait(TIMEOUT)
        return reply()

    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}" if handshake else fake(handler).address
        try:
            with pytest.raises(ConnectionFailed, match=f"{address}: timed out$") as caught:
                connect(address, ca_file=str(certificate), timeouts=timeouts).version()
        finally:
            release.set()
    assert caught.value.sent is not handshake


def test_files(real: Make, client_files: tuple[Path, Path]) -> None:
    """A certificate and a key file say who the client is."""
    cert, key = client_files
    assert real(cert_file=str(cert), key_file=str(key)).describe_self().identity == ADMIN.identity


def test_chain_and_other_blocks(real: Make, client_files: tuple[Path, Path]) -> None:
    """The leaf comes first in the certificate file; blocks of other kinds in the key file are passed over."""
    cert, key = client_files
    cert.write_bytes(b"\n" + cert.read_bytes() + b"\n" + make_client_certificate(APP, datetime.now(UTC))[0] + b"\n")
    key.write_bytes(
        b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + key.read_bytes()
    )
    client = real(cert_file=str(cert), key_file=str(key))
    assert client.identity == ADMIN.identity


@pytest.mark.parametrize("legacy", [False, True], ids=["PKCS#8", "DEK-Info"])
def test_encrypted_key(real: Make, client_files: tuple[Path, Path], legacy: bool) -> None:
    """An encrypted key needs its password, and a wrong one is told from a missing one; neither is asked for."""
    cert, key = client_files
    if legacy:
        ec_key, ec_cert = key.with_name("ec.key"), key.with_name("ec.crt")
        run = lambda *command: subprocess.run(["openssl", *command], check=True, capture_output=True)  # noqa: E731
        run("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(ec_key))
        run(
            "req",
            "-x509",
            "-key",
            str(ec_key),
            "-subj",
            "/CN=x",
            "-out",
            str(ec_cert),
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        )
        run("ec", "-in", str(ec_key), "-aes256", "-passout", "pass:secret-word", "-out", str(key))
        assert b"DEK-Info" in key.read_bytes()
        cert = ec_cert
    else:
        pem = load_private_key(key.read_bytes()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret-word")
        )
        key.write_bytes(pem)
    files = {"cert_file": str(cert), "key_file": str(key)}
    real(**files, password="secret-word").version()
    with pytest.raises(PasswordRequired):
        real(**files)
    with pytest.raises(ConfigurationError, match="incorrect password") as caught:
        real(**files, password="another-word")
    assert "another-word" not in str(caught.value)


def test_bad_files(connect: Make, client_files: tuple[Path, Path], tmp_path: Path) -> None:
    """Each fault of a file is said of that file."""
    cert, key = client_files

    def check(reason: str, cert: Path = cert, key: Path = key) -> None:
        with pytest.raises(ConfigurationError, match=reason):
            connect("localhost", cert_file=str(cert), key_file=str(key))

    (tmp_path / "other.key").write_bytes(make_client_certificate(APP, datetime.now(UTC))[1])
    (tmp_path / "both").write_bytes(cert.read_bytes() + key.read_bytes())
    (tmp_path / "broken").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    (tmp_path / "empty").write_text("")
    check("missing: No such file", cert=tmp_path / "missing")
    check("expected PEM certificates and nothing else", cert=tmp_path / "both")
    check("expected PEM certificates and nothing else", cert=tmp_path / "empty")
    check("holds no PEM private key", key=cert)
    check("the private key is not the certificate's", key=tmp_path / "other.key")
    check("invalid", key=tmp_path / "broken")
    with pytest.raises(ConfigurationError, match="holds no valid PEM certificate"):
        connect("localhost", ca_file=str(tmp_path / "empty"))


@pytest.mark.parametrize("text", ["kes:v1:AAAA", "v1:" + str(ADMIN)[7:], "secret"])
def test_bad_api_key(connect: Make, text: str) -> None:
    """A bad API key is refused without being repeated."""
    with pytest.raises(ConfigurationError, match=r"^parsing API key: kes: invalid API key: ") as caught:
        connect("localhost", api_key=text)
    assert text not in str(caught.value)
